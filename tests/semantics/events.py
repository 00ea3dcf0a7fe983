"""The events of a small desk that takes bookings: all that the tests need to tell a story."""

from choreo import Event


class Placed(Event, topic="desk.placed", key="k"):
    """How every flow begins. `k` is the key, `n` tells two events of one key apart."""

    k: str = "x"
    n: int = 0


class Reserved(Event, topic="desk.reserved", key="k"):
    """An effect, in tests of compensation."""

    k: str = "x"
    n: int = 0


class Cancelled(Event, topic="desk.cancelled", key="k"):
    """A trigger."""

    k: str = "x"
    n: int = 0


class Declined(Event, topic="desk.declined", key="k"):
    """Another trigger."""

    k: str = "x"
    n: int = 0


class Released(Event, topic="desk.released", key="k"):
    """What an undo publishes."""

    k: str = "x"
    n: int = 0


class NothingToDo(Event, topic="desk.nothing", key="k"):
    """What `nothing=` publishes."""

    k: str = "x"


class Paid(Event, topic="desk.paid", key="k"):
    k: str = "x"
    n: int = 0


class Packed(Event, topic="desk.packed", key="k"):
    k: str = "x"
    n: int = 0


class Weighed(Event, topic="desk.weighed", key="k"):
    k: str = "x"
    n: int = 0


class Sent(Event, topic="desk.sent", key="k"):
    k: str = "x"
    n: int = 0


class TimedOut(Event, topic="desk.timed_out", key="k"):
    k: str = "x"
    n: int = 0
