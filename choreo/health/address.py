"""Where the health of a process is served."""

from __future__ import annotations

from typing import NamedTuple

from choreo.errors import ConfigurationError

__all__ = ["Address"]

LOOPBACK = "127.0.0.1"
PORT_MAX = 65535
DIGITS = 5


class Address(NamedTuple):
    """A host and a port to listen on; port 0 is any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT`, `[V6]:PORT`, or `PORT` on the loopback; raises ConfigurationError."""
        host, _, port = text.strip().rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        number = int(port) if port.isascii() and port.isdigit() and len(port) <= DIGITS else -1
        if not 0 <= number <= PORT_MAX:
            raise _wrong(text)
        if not bracketed and any(mark in host for mark in ":[]/ @"):
            raise _wrong(text)
        return cls(host.strip("[]") or LOOPBACK, number)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _wrong(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"{text!r} is no address to serve health on",
        code="CH1014",
        fix="give HOST:PORT, 127.0.0.1:8081 say, or a port alone",
        setting="--health, CHOREO_HEALTH",
    )
