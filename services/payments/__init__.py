"""Payments: charges customers, gives money back, and keeps a ledger of both."""

from services.payments.handlers import payments
from services.payments.provider import PaymentProvider

__all__ = ["PaymentProvider", "payments"]
