"""The rules of the house, each one a test with its reason."""
