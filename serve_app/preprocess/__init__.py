"""Preprocess: a caller's request becomes a prompt of token ids and uint8 pictures (CPU)."""
