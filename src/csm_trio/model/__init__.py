"""CSM and Mimi as torch modules, their checkpoints and kernels; no scheduling, no trio."""
