"""Who carries letters to customers: here, one who only decides whether they arrive.

The seed decides, with the order and the attempt: the same run loses the same letters.
"""

import hashlib
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")
HARD_BOUNCE = 0.03
SOFT_BOUNCE = 0.03


class MailError(Exception):
    """The letter did not go out; it may later."""


class NoMailboxError(MailError):
    """The letter did not go out and never will."""


class Outside(Protocol):
    """What a simulation gives to whoever stands in for a system outside."""

    def draw(self, *about: object) -> float:
        """Give a number in [0, 1) that hangs on the seed and on these values only."""
        ...

    async def call(self, do: Callable[[], T], *, verb: str) -> T:
        """Have it do something; late, twice, never, or with a lost answer."""
        ...


class Mailer:
    """Takes a letter, or raises MailError."""

    def __init__(self, seed: int = 1) -> None:
        """Take the seed that decides which letters do not go out."""
        self._seed = seed

    @classmethod
    def simulated(cls, outside: Outside) -> "Mailer":
        """Stand in for it in a simulation: letters are lost by the simulation's seed."""
        return _Post(outside)

    async def send(self, recipient: str, text: str, *, order_id: str, attempt: int) -> None:
        """Send a text to a customer; raises MailError, for good NoMailboxError."""
        if not text:
            raise MailError("an empty letter")
        if self._draw("mailbox", order_id) < HARD_BOUNCE:
            raise NoMailboxError(f"{recipient} has no mailbox")
        if self._draw(order_id, str(attempt)) < SOFT_BOUNCE:
            raise MailError(f"the mailbox of {recipient} is full")

    def _draw(self, *parts: str) -> float:
        """Give a number in [0, 1) that hangs on the seed and these words only."""
        text = "\0".join((str(self._seed), *parts))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


class _Post(Mailer):
    """A mailer that fails as the simulation says; a letter twice is a nuisance, no more."""

    def __init__(self, outside: Outside) -> None:
        super().__init__(int(outside.draw("mailer") * 2**32))
        self._outside = outside

    async def send(self, recipient: str, text: str, *, order_id: str, attempt: int) -> None:
        try:
            await self._outside.call(lambda: None, verb="letter")
        except OSError as exc:
            raise MailError(str(exc)) from exc
        await super().send(recipient, text, order_id=order_id, attempt=attempt)
