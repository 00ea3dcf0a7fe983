"""The promises of the ports as tests: an adapter's whole test is a subclass with one fixture.

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        def make(self, tmp_path):
            async def make():
                return MyBroker(tmp_path / "log")
            return make

They are plain async methods with plain asserts: pytest runs them with pytest-asyncio (mode
auto) or anyio, and shows the values in a failure after
`pytest.register_assert_rewrite("choreo.testing.contracts")` in a conftest. What an adapter
can not do by its own traits is skipped by these alone.
"""

from choreo.testing.contracts.broker import BrokerContract, MakeBroker
from choreo.testing.contracts.place import MakePlace, Place
from choreo.testing.contracts.showing import ShowingContract
from choreo.testing.contracts.store import StoreContract
from choreo.testing.contracts.viewing import MakeViews, ViewStoreContract

__all__ = [
    "BrokerContract",
    "MakeBroker",
    "MakePlace",
    "MakeViews",
    "Place",
    "ShowingContract",
    "StoreContract",
    "ViewStoreContract",
]
