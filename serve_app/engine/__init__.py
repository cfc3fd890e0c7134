"""The engine: one model replica that decodes many requests together, token by token."""
