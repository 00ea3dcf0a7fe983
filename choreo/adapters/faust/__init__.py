"""Records by the agents of a faust-streaming app, for people who run such workers."""

from choreo.errors import ConfigurationError

try:
    from choreo.adapters.faust.worker import faust_app
except ModuleNotFoundError as exc:
    if exc.name != "faust":
        raise
    raise ConfigurationError(
        "faust workers need their library", code="CH1021", fix="pip install 'choreo[faust]'"
    ) from exc

__all__ = ["faust_app"]
