"""Adapters, one file a model family: image encoding, positions, forward calls."""
