"""The tracker as a faust app: `faust -A choreo.faust worker --without-web`.

For people who run faust workers anyway: it is set up, watched and spread over machines as
theirs are. Where the cluster and the views are say the settings of the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from choreo.app import open_faust, open_views
from choreo.cli.running import clock, collect_rarely
from choreo.cli.settings import Settings
from choreo.environment import adopt_dotenv
from choreo.health import TrackerProbe, served
from choreo.ports import Broker
from choreo.tracker import GROUP, SharedTracker

if TYPE_CHECKING:
    import faust

__all__ = ["tracker_app"]


def tracker_app() -> faust.App:
    """Make the app. Several workers of it share the partitions, and feed the same views.

    Its group is `choreo.tracker.faust`, apart from that of `choreo tracker`: members of one group
    have to share the work in the same way. Raises ConfigurationError for settings that are wrong.
    """
    adopt_dotenv()
    settings = Settings()
    settings.check()

    async def work(broker: Broker) -> None:
        collect_rarely()
        views = open_views()
        tracker = SharedTracker(broker, views, clock())
        try:
            await views.position()  # what can not be opened is told first
            async with served(TrackerProbe(tracker.course, views), settings.health):
                await tracker.run()
        finally:
            await views.close()
            await broker.close()

    return open_faust(work, f"{GROUP}.faust")


def __getattr__(name: str) -> Any:
    """Make `app` when the library asks for it, and not when somebody looks at this module."""
    if name != "app":
        raise AttributeError(name)
    return globals().setdefault("app", tracker_app())
