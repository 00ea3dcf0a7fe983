"""Shipping: hands parcels to the carrier."""

from services.shipping.carrier import Carrier
from services.shipping.handlers import shipping

__all__ = ["Carrier", "shipping"]
