"""Who carries letters to customers: here, one who only decides whether they arrive.

The seed decides, with the order and the attempt: the same run loses the same letters.
"""

import hashlib

HARD_BOUNCE = 0.03
SOFT_BOUNCE = 0.03


class MailError(Exception):
    """The letter did not go out; it may later."""


class NoMailboxError(MailError):
    """The letter did not go out and never will."""


class Mailer:
    """Takes a letter, or raises MailError."""

    def __init__(self, seed: int = 1) -> None:
        """Take the seed that decides which letters do not go out."""
        self._seed = seed

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
