"""Measurements. Each prints its figure by name, as a ratio to a baseline of the same run."""
