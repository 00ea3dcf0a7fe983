"""The loops that perform what `step` decides: poll, load, run, commit, timers."""

from choreo.worker.worker import Limits, Worker

__all__ = ["Limits", "Worker"]
