"""The peers we measure ourselves against, started as small servers with the same weights."""
