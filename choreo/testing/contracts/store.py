"""What every store promises, as tests to inherit."""

from __future__ import annotations

from choreo.testing.contracts.claimed import ClaimedSectionContract
from choreo.testing.contracts.claims import ClaimContract
from choreo.testing.contracts.enlisting import EnlistingContract
from choreo.testing.contracts.forgetting import ForgettingContract
from choreo.testing.contracts.guarding import GuardContract
from choreo.testing.contracts.naming import NamingContract
from choreo.testing.contracts.outbox import OutboxContract
from choreo.testing.contracts.preparing import PreparingContract
from choreo.testing.contracts.sections import SectionContract
from choreo.testing.contracts.waiting import WaitingContract

__all__ = ["StoreContract"]


class StoreContract(
    ClaimContract,
    WaitingContract,
    GuardContract,
    SectionContract,
    ClaimedSectionContract,
    NamingContract,
    OutboxContract,
    EnlistingContract,
    PreparingContract,
    ForgettingContract,
):
    """Inherit it as `TestXStore` and give the fixture `make`: a MakePlace.

    Each call opens store and log over one and the same place, with one and the same clock,
    so that a test can close and reopen it; where nothing is durable, each opens an empty one.
    """
