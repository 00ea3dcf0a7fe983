"""Analytics: counts what was sold."""

from services.analytics.handlers import analytics

__all__ = ["analytics"]
