"""The composition root: settings become adapters, services run on them."""

from choreo.app.app import App
from choreo.app.deployment import FILE, Deployment
from choreo.app.opening import (
    Survey,
    database_path,
    deployed,
    embedded,
    look_at_cluster,
    look_at_database,
    open_broker,
    open_codec,
    open_faust,
    open_registry,
    open_topics,
    open_views,
    store_migrations,
    survey,
    system_clock,
)
from choreo.app.preparing import migrate, transaction

__all__ = [
    "FILE",
    "App",
    "Deployment",
    "Survey",
    "database_path",
    "deployed",
    "embedded",
    "look_at_cluster",
    "look_at_database",
    "migrate",
    "open_broker",
    "open_codec",
    "open_faust",
    "open_registry",
    "open_topics",
    "open_views",
    "store_migrations",
    "survey",
    "system_clock",
    "transaction",
]
