"""Numpy in, bytes out: formats, resampling, encoders, RIFF headers."""
