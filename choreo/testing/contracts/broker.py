"""What every broker promises, as tests to inherit."""

from __future__ import annotations

from choreo.testing.contracts.polling import PollingContract
from choreo.testing.contracts.reading import ReadingContract
from choreo.testing.contracts.sharing import SharingContract
from choreo.testing.contracts.written import MakeBroker

__all__ = ["BrokerContract", "MakeBroker"]


class BrokerContract(PollingContract, ReadingContract, SharingContract):
    """Inherit it as `TestXBroker` and give the fixture `make`: a MakeBroker.

    Each call opens a broker over one and the same place, so that a test can close and
    reopen it; where nothing is durable, each opens an empty one.
    """
