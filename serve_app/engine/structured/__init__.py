"""Structured output: grammar, token masks, grammar completion and sandbox."""
