"""Benchmarks: each figure with a baseline of the same run."""
