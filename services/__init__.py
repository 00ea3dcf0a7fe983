"""The example services: a shop. Each one is on its own and knows the others by events only."""
