"""The loops that perform what `step` decides: poll, load, run, commit, timers."""

from choreo.worker.pipeline import Limits
from choreo.worker.worker import Worker

__all__ = ["Limits", "Worker"]
