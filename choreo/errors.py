"""Everything that choreo raises.

    ChoreoError
    ├── ConfigurationError
    │   ├── TopologyError
    │   └── HandlerConflictError
    ├── CodecError
    │   ├── DecodeError
    │   │   └── SchemaUnknownError      (transient)
    │   ├── SchemaIncompatibleError
    │   └── RegistryError
    │       └── RegistryUnavailableError (transient)
    ├── BrokerError
    │   ├── BrokerUnavailableError      (transient)
    │   ├── BrokerClosedError
    │   └── FencedError
    ├── StoreError
    │   ├── StoreUnavailableError       (transient)
    │   └── StoreConflictError          (transient)
    ├── HandlerError
    │   ├── HandlerTimeoutError         (transient)
    │   └── UnknownOutcomeError
    ├── TxOpenError
    ├── OutcomeTimeoutError             (transient)
    └── SimulationError

    Later, NotDone: signals that a handler raises to steer its step; they are no errors.

Every code stands in `docs/errors.md` with its fix. Who catches looks at `transient`
(trying again may help), never at a list of classes.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import ClassVar

__all__ = [
    "BrokerClosedError",
    "BrokerError",
    "BrokerUnavailableError",
    "ChoreoError",
    "CodecError",
    "ConfigurationError",
    "DecodeError",
    "FencedError",
    "HandlerConflictError",
    "HandlerError",
    "HandlerTimeoutError",
    "Later",
    "NotDone",
    "OutcomeTimeoutError",
    "RegistryError",
    "RegistryUnavailableError",
    "SchemaIncompatibleError",
    "SchemaUnknownError",
    "SimulationError",
    "StoreConflictError",
    "StoreError",
    "StoreUnavailableError",
    "TopologyError",
    "TxOpenError",
    "UnknownOutcomeError",
]


class ChoreoError(Exception):
    """Root of the tree: a code, a sentence, the fields that tell where, and the fix."""

    code: str = "CH0000"
    transient: ClassVar[bool] = False

    def __init__(
        self, what: str, *, code: str | None = None, fix: str = "", **fields: object
    ) -> None:
        """Say what is wrong; `fields` name where, `fix` says what to do."""
        super().__init__(what)
        self.what = what
        self.code = code or type(self).code
        self.fix = fix
        self.fields = fields

    def __str__(self) -> str:
        where = ", ".join(f"{name}={value}" for name, value in self.fields.items())
        text = f"{self.code} {self.what}"
        if where:
            text += f" [{where}]"
        if self.fix:
            text += f" Fix: {self.fix}"
        return text


class ConfigurationError(ChoreoError):
    """What was declared, or set, can not run."""

    code = "CH1000"


class TopologyError(ConfigurationError):
    """The services do not fit together."""

    code = "CH1100"


class HandlerConflictError(ConfigurationError):
    """Two handlers of one service have the same name."""

    code = "CH1002"


class CodecError(ChoreoError):
    """Bytes and events do not fit."""

    code = "CH2000"


class DecodeError(CodecError):
    """The bytes of a record are not what its type says, or exceed a limit."""

    code = "CH2001"


class SchemaUnknownError(DecodeError):
    """The bytes name a schema that nobody here knows, yet."""

    code = "CH2006"
    transient = True


class SchemaIncompatibleError(CodecError):
    """A reader can not read what a writer wrote."""

    code = "CH2003"


class RegistryError(CodecError):
    """The schema registry refuses what was asked."""

    code = "CH2010"


class RegistryUnavailableError(RegistryError):
    """The schema registry does not answer."""

    code = "CH2011"
    transient = True


class BrokerError(ChoreoError):
    """The log can not do what was asked."""

    code = "CH3000"


class BrokerUnavailableError(BrokerError):
    """No broker answers, or its file is busy for too long."""

    code = "CH3001"
    transient = True


class BrokerClosedError(BrokerError):
    """The broker was used after `close`."""

    code = "CH3002"


class FencedError(BrokerError):
    """Another process owns what this one believed to own."""

    code = "CH3003"


class StoreError(ChoreoError):
    """The store can not do what was asked."""

    code = "CH4000"


class StoreUnavailableError(StoreError):
    """The database does not answer, or is busy for too long."""

    code = "CH4001"
    transient = True


class StoreConflictError(StoreError):
    """Two transactions wanted the same rows; apply again."""

    code = "CH4002"
    transient = True


class HandlerError(ChoreoError):
    """A handler did what it may not do."""

    code = "CH5000"


class HandlerTimeoutError(HandlerError):
    """A handler did not end within its `timeout_s`."""

    code = "CH5001"
    transient = True


class UnknownOutcomeError(HandlerError):
    """A call that may be made once at most may have had its effect: an operator has to say."""

    code = "CH5013"


class TxOpenError(ChoreoError):
    """A handler waited for something else while its `Tx` was open."""

    code = "CH5003"


class OutcomeTimeoutError(ChoreoError):
    """The flow reached none of its ends in time."""

    code = "CH5004"
    transient = True


class SimulationError(ChoreoError):
    """A simulation can not go on as it was asked to."""

    code = "CH8001"


class Later(Exception):  # noqa: N818 - a signal, not an error
    """Raise it in a handler: not yet; run this delivery again later. Uses no attempt."""

    def __init__(self, *, after_s: float | None = None, at: datetime | None = None) -> None:
        """Give one of `after_s` (seconds) and `at` (time-zone aware)."""
        if (after_s is None) == (at is None):
            msg = "Later takes one of after_s= and at="
            raise ConfigurationError(msg, code="CH1011")
        if after_s is not None and not 0 <= after_s < math.inf:
            msg = "Later(after_s=) takes seconds from 0 on"
            raise ConfigurationError(msg, code="CH1011", after_s=after_s)
        if at is not None and at.tzinfo is None:
            msg = "Later(at=) must be time-zone aware"
            raise ConfigurationError(msg, code="CH1011", at=at)
        super().__init__("later")
        self.after_s = after_s
        self.at = at

    def due(self, now: float) -> float:
        """Epoch seconds at which to run again; the past means now."""
        return self.at.timestamp() if self.at is not None else now + (self.after_s or 0.0)


class NotDone(Exception):  # noqa: N818 - a signal, not an error
    """Raise it in the function given to `ctx.once`: the call certainly had no effect."""
