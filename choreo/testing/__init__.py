"""What tests need, for users as for choreo itself: a clock to move, and contracts to inherit."""

from choreo.testing.clock import ManualClock

__all__ = ["ManualClock"]
