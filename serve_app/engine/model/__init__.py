"""The model on its device: weights, KV cache, attention, CUDA graphs, families."""
