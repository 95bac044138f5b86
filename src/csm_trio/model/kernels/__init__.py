"""Triton kernels of the CUDA step. Nothing here is imported where no CUDA device is used."""
