"""The next token of every row: sampler, noise and log probabilities."""
