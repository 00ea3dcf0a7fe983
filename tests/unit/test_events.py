"""Events, records, ids: what a class statement declares, and what an id promises."""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from choreo.errors import ConfigurationError
from choreo.events import (
    BRANCH,
    FLOW,
    ID,
    Event,
    Record,
    Secret,
    derived_id,
    id_bytes,
    id_text,
    keyed_root_id,
    redacted,
    rfc3339,
    root_id,
    scope_of,
)

IDS = st.binary(min_size=16, max_size=16)
MOMENTS = st.floats(0, 4_000_000_000)


class Paid(Event, topic="unit.payments", key="order_id", failure=True):
    order_id: str
    total: Decimal
    card: Annotated[str, Secret]
    pin: Annotated[str, Secret()] = "0000"


class PaidView(Event, topic="unit.payments", name="Paid"):
    order_id: str


# ── class statements ─────────────────────────────────────────────────────────────────────


def test_a_class_statement_declares_topic_type_key_and_secrets() -> None:
    info = Paid.__event__
    assert (info.topic, info.type, info.key) == ("unit.payments", "unit.payments.Paid", "order_id")
    assert info.failure
    assert info.secrets == {"card", "pin"}


def test_a_view_names_the_same_type_without_a_key() -> None:
    info = PaidView.__event__
    assert (info.type, info.key, info.failure) == ("unit.payments.Paid", None, False)


def test_a_class_without_topic_is_a_base_to_share_fields() -> None:
    class Addressed(Event):
        street: str

    class Sent(Addressed, topic="unit.mail"):
        pass

    assert not hasattr(Addressed, "__event__")
    assert set(Sent.model_fields) == {"street"}


@pytest.mark.parametrize("topic", ["a", "a.b", "a_b.c_d", "shop.orders2", "A.B"])
def test_a_topic_is_a_dotted_name(topic: str) -> None:
    class Fine(Event, topic=topic):
        pass

    assert Fine.__event__.type == f"{topic}.Fine"


@pytest.mark.parametrize("topic", ["", ".", "a.", ".a", "a..b", "a b", "a/b", "ä b", "choreo.x"])
def test_another_topic_is_refused(topic: str) -> None:
    with pytest.raises(ConfigurationError) as caught:

        class Wrong(Event, topic=topic):
            pass

    assert caught.value.code == "CH1010"
    assert "Wrong" in str(caught.value)


def test_a_topic_may_have_a_dash() -> None:
    class Dashed(Event, topic="a-b.c"):
        pass


@pytest.mark.parametrize("topic", ["a b_c", "_/", "a_b\n", "ä_"])
def test_a_part_with_an_underscore_is_held_to_the_rule(topic: str) -> None:
    with pytest.raises(ConfigurationError):

        class Wrong(Event, topic=topic):
            pass


def test_a_key_names_a_field_and_no_secret() -> None:
    with pytest.raises(ConfigurationError, match="names no field"):

        class Keyless(Event, topic="unit.a", key="missing"):
            pass

    with pytest.raises(ConfigurationError, match="Secret"):

        class Bare(Event, topic="unit.a", key="card"):
            card: Annotated[str, Secret]


def test_a_subclass_of_an_event_has_a_topic_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match="topic= of its own"):

        class Again(Paid):
            pass


def test_an_event_is_immutable_and_tolerant() -> None:
    view = PaidView.model_validate({"order_id": "1", "unknown": 2})
    with pytest.raises(ValidationError):
        view.order_id = "2"  # type: ignore[misc]


# ── secrets ──────────────────────────────────────────────────────────────────────────────


def test_a_secret_is_shown_nowhere() -> None:
    paid = Paid(order_id="1", total=Decimal("1.50"), card="4111-1111", pin="9876")
    for shown in (repr(paid), str(paid), f"{[paid]}", str(redacted(paid))):
        assert "4111" not in shown
        assert "9876" not in shown
        assert "***" in shown
    assert redacted(paid)["order_id"] == "1"
    with pytest.raises(ValidationError) as caught:
        Paid.model_validate({"order_id": "1", "total": "x", "card": ["4111-1111"]})
    assert "4111" not in str(caught.value)


# ── ids ──────────────────────────────────────────────────────────────────────────────────


@given(IDS)
def test_an_id_reads_as_it_is_written(raw: bytes) -> None:
    text = id_text(raw)
    assert text == str(uuid.UUID(bytes=raw))
    assert id_bytes(text) == raw
    assert id_bytes(text, "anywhere") == raw


@given(st.text(max_size=35), st.text(max_size=8), st.text(max_size=8))
def test_a_foreign_id_is_hashed_with_its_source(text: str, one: str, other: str) -> None:
    assert len(id_bytes(text, one)) == 16
    assert id_bytes(text, one) == id_bytes(text, one)
    assert (id_bytes(text, one) == id_bytes(text, other)) is (one == other)


@pytest.mark.parametrize("text", ["-" * 36, "a" * 36, "ab " * 12, "\ud800"])
def test_what_only_looks_like_a_uuid_is_hashed(text: str) -> None:
    assert len(id_bytes(text)) == 16


@given(IDS, st.binary(max_size=64))
def test_a_derived_id_is_a_uuid_8_that_inherits_48_bits(subject: bytes, salt: bytes) -> None:
    made = derived_id(subject, salt)
    read = uuid.UUID(bytes=made)
    assert (read.version, read.variant) == (8, uuid.RFC_4122)
    assert made[:6] == subject[:6]
    assert made == derived_id(subject, salt)


@given(IDS, st.lists(st.binary(max_size=16), unique=True, max_size=20))
def test_derived_ids_differ_by_salt(subject: bytes, salts: list[bytes]) -> None:
    assert len({derived_id(subject, salt) for salt in salts}) == len(salts)


@given(IDS, IDS, st.binary(max_size=16))
def test_derived_ids_differ_by_subject(one: bytes, other: bytes, salt: bytes) -> None:
    assert (derived_id(one, salt) == derived_id(other, salt)) is (one == other)


@given(MOMENTS, st.binary(min_size=10, max_size=10))
def test_a_root_id_is_a_uuid_7_of_its_moment(now: float, draw: bytes) -> None:
    read = uuid.UUID(root_id(now, draw))
    assert (read.version, read.variant) == (7, uuid.RFC_4122)
    assert read.int >> 80 == int(now * 1000)


@given(MOMENTS, MOMENTS, st.binary(min_size=10, max_size=10))
def test_root_ids_sort_by_time(one: float, other: float, draw: bytes) -> None:
    early, late = sorted((one, other))
    assert root_id(early, draw)[:13] <= root_id(late, draw)[:13]


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_callers_key_gives_one_flow(key: str, other: str) -> None:
    made = keyed_root_id("unit.payments.Paid", key)
    read = uuid.UUID(made)
    assert (read.version, read.variant) == (5, uuid.RFC_4122)
    assert made == keyed_root_id("unit.payments.Paid", key)
    assert made != keyed_root_id("unit.payments.Refunded", key)
    assert (made == keyed_root_id("unit.payments.Paid", other)) is (key == other)


# ── scopes, times, records ───────────────────────────────────────────────────────────────


def test_a_scope_is_the_flow_and_its_branch() -> None:
    assert scope_of({FLOW: "f", ID: "x"}) == "f"
    assert scope_of({FLOW: "f", BRANCH: "3"}) == "f/3"
    assert scope_of({ID: "root"}) == "root"


@given(MOMENTS)
def test_a_time_is_written_as_rfc_3339_in_utc(now: float) -> None:
    text = rfc3339(now)
    assert text.endswith("Z")
    assert len(text) == len("2026-01-01T00:00:00.000Z")
    assert abs(datetime.fromisoformat(text).timestamp() - now) < 0.002


def test_records_are_equal_by_content_and_show_no_value() -> None:
    one = Record("t", b"k", {"ce_type": "t.E"}, b"secret", 1, 7)
    other = Record("t", b"k", {"ce_type": "t.E"}, b"secret", 1, 7)
    other.trusted = True
    assert one == other
    assert one != Record("t", b"k", {"ce_type": "t.E"}, b"secret", 1, 8)
    assert one != "t"
    assert repr(one) == "<Record t.E t-1-7>"


class Branch(BaseModel):
    name: str
    below: list["Branch"] = []


def test_a_model_may_hold_itself() -> None:
    class Grown(Event, topic="unit.events", key="id"):
        id: str
        tree: Branch | None = None

    assert Grown.__event__.secrets == frozenset()
