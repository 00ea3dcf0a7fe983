"""Inventory: knows what is on hand, reserves it, and lets it go."""

from services.inventory.handlers import inventory

__all__ = ["inventory"]
