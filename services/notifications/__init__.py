"""Notifications: writes to customers."""

from services.notifications.handlers import notifications
from services.notifications.mailer import Mailer

__all__ = ["Mailer", "notifications"]
