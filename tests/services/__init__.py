"""Tests of the example services: each alone, and the order flow from end to end."""
