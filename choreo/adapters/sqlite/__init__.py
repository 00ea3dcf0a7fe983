"""The embedded deployment: log, store and views in SQLite files, no server."""

from choreo.adapters.sqlite.broker import SqliteBroker
from choreo.adapters.sqlite.database import Database
from choreo.adapters.sqlite.log import Log
from choreo.adapters.sqlite.store import SqliteStore

__all__ = ["Database", "Log", "SqliteBroker", "SqliteStore"]
