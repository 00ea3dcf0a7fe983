"""A folder with a small shop, and the command line as a process: as its own tests have it."""

from tests.cli.conftest import after_three_orders, served, shop, terminal

__all__ = ["after_three_orders", "served", "shop", "terminal"]
