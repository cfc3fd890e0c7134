"""Benchmarks: one question a script, against a peer in the same run, results in results/."""
