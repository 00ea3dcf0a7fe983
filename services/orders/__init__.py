"""Orders: takes an order, checks it, and tells how it ended."""

from services.orders.handlers import order, orders

__all__ = ["order", "orders"]
