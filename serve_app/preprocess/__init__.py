"""Preprocess (CPU): a request becomes a prompt of token ids and uint8 pictures."""
