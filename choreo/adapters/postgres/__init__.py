"""The store of many machines: PostgreSQL, by asyncpg."""

from choreo.errors import ConfigurationError

try:
    from choreo.adapters.postgres.migrate import printed
    from choreo.adapters.postgres.store import PostgresStore
except ModuleNotFoundError as exc:
    if exc.name != "asyncpg":
        raise
    raise ConfigurationError(
        "PostgreSQL needs its client", code="CH1021", fix="pip install 'choreo[postgres]'"
    ) from exc

__all__ = ["PostgresStore", "printed"]
