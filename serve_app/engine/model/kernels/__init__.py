"""Triton kernels of the engine on GPUs."""
