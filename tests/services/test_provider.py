"""The payment provider over real HTTP, and the client that payments talks to it with."""

import asyncio
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from choreo import NotDone
from services.demo.processes import Shop
from services.payments.provider import PaymentProvider, UnknownOutcomeError, make_client
from services.provider.ledger import Ledger
from services.provider.plan import Fate, Plan, planned
from services.provider.server import Server

CALM = Plan(refused=0, error=0, late=0, lost=0, decline=0, shut=0, late_s=600.0)
PATIENCE_S = 20.0
TEN = Decimal("10.00")

Start = Callable[[Plan], Awaitable[str]]
Client = Callable[..., PaymentProvider]


@contextmanager
def serving(file: Path, plan: Plan) -> Iterator[str]:
    ledger = Ledger(file)
    server = Server(0, ledger, plan)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.url
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
        ledger.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        file = tmp_path / "provider.db"
        yield lambda plan: asyncio.to_thread(stack.enter_context, serving(file, plan))


def books(url: str) -> list[dict[str, Any]]:
    orders: list[dict[str, Any]] = httpx.get(f"{url}/ledger", trust_env=False).json()["orders"]
    return orders


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    opened: list[httpx.AsyncClient] = []

    def make(url: str, patience_s: float = PATIENCE_S) -> PaymentProvider:
        opened.append(httpx.AsyncClient(base_url=url, timeout=patience_s, trust_env=False))
        return PaymentProvider(opened[-1])

    yield make
    for one in opened:
        await one.aclose()


async def test_one_key_is_one_charge(start: Start, client: Client) -> None:
    url = await start(CALM)
    provider = client(url)
    first = await provider.charge(TEN, order_id="1", key="k")
    again = await provider.charge(TEN, order_id="1", key="k")
    assert first == again
    assert first.charge is not None
    expected = [{"order_id": "1", "charged_cents": 1000, "refunded_cents": 0}]
    assert await asyncio.to_thread(books, url) == expected


async def test_many_calls_of_one_key_at_once_are_one_charge(start: Start, client: Client) -> None:
    url = await start(CALM)
    provider = client(url)
    calls = (provider.charge(TEN, order_id="1", key="k") for _ in range(20))
    assert len({answer.charge for answer in await asyncio.gather(*calls)}) == 1
    assert (await asyncio.to_thread(books, url))[0]["charged_cents"] == 1000


async def test_a_refund_is_made_once_and_never_exceeds_the_charge(
    start: Start, client: Client
) -> None:
    url = await start(CALM)
    provider = client(url)
    charge = (await provider.charge(TEN, order_id="1", key="k")).charge
    assert charge is not None
    first = await provider.refund(charge, TEN, key="r")
    assert await provider.refund(charge, TEN, key="r") == first
    with pytest.raises(NotDone, match="409"):
        await provider.refund(charge, Decimal("0.01"), key="other")
    with pytest.raises(NotDone, match="404"):
        await provider.refund("ch_none", TEN, key="third")
    assert (await asyncio.to_thread(books, url))[0]["refunded_cents"] == 1000


async def test_a_key_belongs_to_one_request(start: Start, client: Client) -> None:
    provider = client(await start(CALM))
    await provider.charge(TEN, order_id="1", key="k")
    with pytest.raises(NotDone, match="409"):
        await provider.charge(Decimal("11.00"), order_id="1", key="k")


async def test_declined_is_an_answer(start: Start, client: Client) -> None:
    url = await start(replace(CALM, decline=1))
    answer = await client(url).charge(TEN, order_id="1", key="k")
    assert answer.charge is None
    assert answer.declined == "insufficient funds"
    assert await asyncio.to_thread(books, url) == []


async def test_refused_is_certainly_not_done(start: Start, client: Client) -> None:
    url = await start(replace(CALM, refused=1))
    with pytest.raises(NotDone, match="503"):
        await client(url).charge(TEN, order_id="1", key="k")
    assert await asyncio.to_thread(books, url) == []


async def test_an_error_is_unknown_though_nothing_was_done(start: Start, client: Client) -> None:
    url = await start(replace(CALM, error=1))
    with pytest.raises(UnknownOutcomeError, match="500"):
        await client(url).charge(TEN, order_id="1", key="k")
    assert await asyncio.to_thread(books, url) == []


@pytest.mark.parametrize(("fate", "patience_s"), [("late", 1.0), ("lost", PATIENCE_S)])
async def test_an_answer_that_does_not_come_is_unknown_though_it_was_done(
    start: Start, client: Client, fate: str, patience_s: float
) -> None:
    url = await start(replace(CALM, **{fate: 1}))
    with pytest.raises(UnknownOutcomeError):
        await client(url, patience_s).charge(TEN, order_id="1", key="k")
    # Who has lost patience may ask before it was charged.
    while not (done := await asyncio.to_thread(books, url)):  # noqa: ASYNC110 - asks a server
        await asyncio.sleep(0.01)
    assert done[0]["charged_cents"] == 1000


async def test_what_was_lost_is_answered_at_the_next_attempt(start: Start, client: Client) -> None:
    plan = next(
        plan
        for plan in (replace(CALM, lost=0.5, seed=seed) for seed in range(100))
        if [plan.fate("k", attempt, "1") for attempt in (1, 2)] == [Fate.LOST, Fate.PLAIN]
    )
    url = await start(plan)
    provider = client(url)
    with pytest.raises(UnknownOutcomeError):
        await provider.charge(TEN, order_id="1", key="k")
    assert (await provider.charge(TEN, order_id="1", key="k")).charge is not None
    assert (await asyncio.to_thread(books, url))[0]["charged_cents"] == 1000


def test_the_books_survive_a_restart(tmp_path: Path) -> None:
    answers = []
    for _ in range(2):
        with serving(tmp_path / "provider.db", CALM) as url:
            body, headers = {"amount": "10.00", "order_id": "1"}, {"Idempotency-Key": "k"}
            made = httpx.post(f"{url}/charges", json=body, headers=headers, trust_env=False)
            answers.append(made.json())
            assert len(books(url)) == 1
    assert answers[0] == answers[1]


async def test_a_provider_that_is_not_there_has_done_nothing(client: Client) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(NotDone, match="can not be reached"):
        await client(f"http://127.0.0.1:{port}").charge(TEN, order_id="1", key="k")


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b"{}", UnknownOutcomeError),
        (200, b"not json", UnknownOutcomeError),
        (200, b'{"charge": "c", "declined": "d"}', UnknownOutcomeError),
        (503, b"not json", UnknownOutcomeError),
        (503, b'{"processed": true}', UnknownOutcomeError),
        (503, b'["processed"]', UnknownOutcomeError),
        (503, b'{"processed": false}', NotDone),
        (502, b"", UnknownOutcomeError),
        (400, b"", NotDone),
    ],
)
async def test_what_an_answer_tells(status: int, body: bytes, error: type[Exception]) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body))
    async with httpx.AsyncClient(transport=transport, base_url="http://provider") as client:
        with pytest.raises(error):
            await PaymentProvider(client).charge(TEN, order_id="1", key="k")


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/charges", {}, b"{}", 400),
        ("/charges", {"Idempotency-Key": "k"}, b"{}", 422),
        ("/charges", {"Idempotency-Key": "k"}, b'{"amount": "-1", "order_id": "1"}', 422),
        ("/charges", {"Idempotency-Key": "k"}, b'{"amount": "1.005", "order_id": "1"}', 422),
        ("/charges", {"Idempotency-Key": "k"}, b"[" * 5000, 422),
        ("/charges", {"Idempotency-Key": "k"}, b" " * 10_001, 400),
        ("/refunds", {"Idempotency-Key": "k"}, b"{}", 422),
        ("/elsewhere", {"Idempotency-Key": "k"}, b"{}", 404),
    ],
)
async def test_nonsense_is_refused(
    start: Start, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    url = await start(CALM)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as plain:
        assert (await plain.post(path, content=body, headers=headers)).status_code == status
        assert (await plain.get("/elsewhere")).status_code == 404
    assert await asyncio.to_thread(books, url) == []


def test_a_fate_hangs_on_seed_key_and_attempt_only() -> None:
    plan = Plan(seed=3)
    calls = [(f"key-{n}", attempt, f"order-{n}") for n in range(200) for attempt in (1, 2, 3)]
    fates = [plan.fate(*call) for call in calls]
    assert fates == [Plan(seed=3).fate(*call) for call in calls]
    assert fates != [Plan(seed=4).fate(*call) for call in calls]
    assert set(fates) == set(Fate)
    assert 0 < sum(plan.declines(order_id) for _, _, order_id in calls) < len(calls) / 4


def test_a_plan_is_read() -> None:
    assert planned("", 5) == Plan(seed=5)
    assert planned("error=0.5, late_s=10", 5) == Plan(seed=5, error=0.5, late_s=10)


@pytest.mark.parametrize(
    "text", ["eror=1", "error", "error=x", "error=2", "error=nan", "late_s=-1"]
)
def test_a_wrong_plan_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not one of|is no number|is out of range"):
        planned(text, 1)


def test_the_process_says_where_and_stops_when_told(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.start_provider(seed=1, plan="late=0")
    part = shop.running["provider"]
    try:
        assert books(shop.environment["PAYMENT_PROVIDER_URL"]) == []
        part.send_signal(signal.SIGTERM)
        assert part.wait(10) == 0
    finally:
        shop.close()
        if part.stdout is not None:
            part.stdout.close()


def test_the_client_is_made_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMENT_PROVIDER_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PAYMENT_PATIENCE_S", "0.5")
    made = make_client()
    assert str(made.base_url) == "http://127.0.0.1:9"
    assert made.timeout == httpx.Timeout(0.5)
