"""The composition root: services, a deployment, and the life of both."""

from choreo.app.app import App, migrate, transaction
from choreo.app.opening import (
    Survey,
    database_path,
    embedded,
    open_broker,
    open_codec,
    open_registry,
    open_topics,
    open_views,
    store_migrations,
    survey,
    system_clock,
)

__all__ = [
    "App",
    "Survey",
    "database_path",
    "embedded",
    "migrate",
    "open_broker",
    "open_codec",
    "open_registry",
    "open_topics",
    "open_views",
    "store_migrations",
    "survey",
    "system_clock",
    "transaction",
]
