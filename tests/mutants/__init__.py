"""The tests, tested: each promise is broken on purpose, in a copy, and a test has to notice."""
