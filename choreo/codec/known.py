"""Schemas by what values name them with: a fingerprint, a registry's id, a GUID.

What is not known is asked for before the records that name it are decoded, so decoding itself
never waits. What the registry does not know either is asked for again, less and less often; and
however many unknown names come in, only so many questions are put in a second.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from choreo.errors import (
    ChoreoError,
    ConfigurationError,
    DecodeError,
    RegistryUnavailableError,
    SchemaUnknownError,
)
from choreo.events import EventInfo
from choreo.schemas import AvroSchema, SchemaFolder, SchemaRegistry, full_name, parsed

__all__ = ["CONFLUENT_MAGIC", "SINGLE_OBJECT_MAGIC", "Ref", "Schemas", "subject_of"]

Ref = bytes | int | str
"""A fingerprint of 8 bytes, a registry's id, or its GUID."""

SINGLE_OBJECT_MAGIC = b"\xc3\x01"
CONFLUENT_MAGIC = b"\x00"
ASKS_A_S = 10.0
ASKS_AT_ONCE = 50
AGAIN_FIRST_S = 1.0
AGAIN_LONGEST_S = 60.0
MISSING_MAX = 10_000
SAID_EVERY_S = 10.0
SCAN_EVERY_S = 1.0

log = logging.getLogger("choreo.codec")


@dataclass(slots=True)
class _Missing:
    """A name that nobody knew, or could say, when it was asked for last."""

    again_at: float = 0.0
    wait_s: float = AGAIN_FIRST_S
    error: DecodeError | RegistryUnavailableError | None = None


def subject_of(info: EventInfo) -> str:
    """Name the subject of an event type: topic and record (Confluent's TopicRecordName)."""
    return f"{info.topic}-{full_name(info.type)}"


class Schemas:
    """Every schema that is known here, and where others are to be had."""

    def __init__(
        self,
        folder: SchemaFolder | None,
        registry: SchemaRegistry | None,
        *,
        elapsed: Callable[[], float],
        recursive: bool = False,
        register: bool = False,
    ) -> None:
        """Take a folder, a registry, or both; values are written for the registry if there is one.

        `elapsed` gives seconds of a clock that never goes back. `recursive`: take schemas whose
        records contain themselves; `register`: add what the registry does not know of our own.
        """
        self._folder = folder
        self._registry = registry
        self._elapsed = elapsed
        self.recursive = recursive
        self._register = register
        self._known: dict[Ref, AvroSchema] = {}
        self._missing: OrderedDict[Ref, _Missing] = OrderedDict()
        self._asking = asyncio.Lock()
        self._asks = float(ASKS_AT_ONCE)
        self._asked_at = elapsed()
        self._said_at = -SAID_EVERY_S
        self._scanned_at = -SCAN_EVERY_S
        self.busy = 0
        """How many questions are under way."""

    @property
    def framing(self) -> Literal["single-object", "confluent"]:
        """How values are written."""
        return "single-object" if self._registry is None else "confluent"

    async def close(self) -> None:
        """Let go of the registry. May be called twice."""
        if self._registry is not None:
            await self._registry.close()

    # ── reading ──────────────────────────────────────────────────────────────────────────

    def get(self, ref: Ref) -> AvroSchema:
        """Give a schema; raises DecodeError that says why there is none, and whether that may pass.

        A name that was never asked for is asked for with the next `learn`.
        """
        found = self._known.get(ref)
        if found is not None:
            return found
        missing = self._missing.get(ref)
        if missing is None:
            missing = self._note(ref)
        raise missing.error or _unknown(ref, "it has not been asked for yet")

    async def learn(self, refs: Iterable[Ref]) -> None:
        """Ask for what is not known of these, and of what `get` was asked for in vain.

        Raises nothing: what can not be learned is told by `get`.
        """
        for ref in refs:
            if ref not in self._known and ref not in self._missing:
                self._note(ref)
        now = self._elapsed()
        if not any(one.again_at <= now for one in self._missing.values()):
            return
        self.busy += 1
        try:
            async with self._asking:
                now = self._elapsed()
                await self._learn([r for r, one in self._missing.items() if one.again_at <= now])
        finally:
            self.busy -= 1

    async def _learn(self, wanted: list[Ref]) -> None:
        prints = [ref for ref in wanted if isinstance(ref, bytes)]
        if prints:
            await self._scan(prints)
        down: RegistryUnavailableError | None = None
        for ref in wanted:
            if isinstance(ref, bytes):
                continue
            if self._registry is None:
                fix = "set SCHEMA_REGISTRY_URL, and redrive"
                self._put_off(ref, _unknown(ref, "no registry is set", fix, passes=False))
            elif down is not None:  # one unanswered question is enough
                self._put_off(ref, down)
            elif self._may_ask():
                down = await self._ask(self._registry, ref)

    async def _ask(
        self, registry: SchemaRegistry, ref: int | str
    ) -> RegistryUnavailableError | None:
        try:
            text = await registry.schema(ref)
        except RegistryUnavailableError as exc:
            self._say(exc)
            self._put_off(ref, exc)
            return exc
        except ChoreoError as exc:
            self._say(exc)
            self._put_off(
                ref, DecodeError(exc.what, code=exc.code, fix=exc.fix, schema=_shown(ref))
            )
            return None
        if text is None:
            self._put_off(ref, _unknown(ref, "the registry does not know it"))
            return None
        try:
            self._found(ref, parsed(text, recursive=self.recursive, where=_shown(ref)))
        except DecodeError as exc:
            self._put_off(ref, exc)
        return None

    async def _scan(self, prints: list[bytes]) -> None:
        if self._folder is None:
            fix = "name the folder of schemas: CHOREO_SCHEMAS, and redrive"
            for ref in prints:
                self._put_off(ref, _unknown(ref, "no folder of schemas is set", fix, passes=False))
            return
        there: Mapping[bytes, AvroSchema] = {}
        if self._elapsed() >= self._scanned_at + SCAN_EVERY_S:
            self._scanned_at = self._elapsed()
            try:
                there = await asyncio.to_thread(self._folder.by_fingerprint)
            except ConfigurationError as exc:
                self._say(exc)
        for ref, schema in there.items():
            self._known[ref] = schema
        for ref in prints:
            if ref in there:
                self._missing.pop(ref, None)
            else:
                fix = "add its file to the folder, and redrive"
                self._put_off(ref, _unknown(ref, "no file of the folder has it", fix))

    def _note(self, ref: Ref) -> _Missing:
        missing = self._missing[ref] = _Missing()
        while len(self._missing) > MISSING_MAX:
            self._missing.popitem(last=False)
        return missing

    def _found(self, ref: Ref, schema: AvroSchema) -> None:
        self._known[ref] = schema
        self._missing.pop(ref, None)

    def _put_off(self, ref: Ref, error: DecodeError | RegistryUnavailableError) -> None:
        missing = self._missing.get(ref) or self._note(ref)
        missing.error = error
        missing.again_at = self._elapsed() + missing.wait_s
        missing.wait_s = min(missing.wait_s * 2, AGAIN_LONGEST_S)

    def _may_ask(self) -> bool:
        now = self._elapsed()
        self._asks = min(self._asks + (now - self._asked_at) * ASKS_A_S, float(ASKS_AT_ONCE))
        self._asked_at = now
        if self._asks < 1:
            return False
        self._asks -= 1
        return True

    def _say(self, error: ChoreoError) -> None:
        now = self._elapsed()
        if now >= self._said_at + SAID_EVERY_S:
            self._said_at = now
            log.warning("a schema can not be had, what needs it waits or is set aside: %s", error)

    # ── writing ──────────────────────────────────────────────────────────────────────────

    async def prefix(self, info: EventInfo, schema: AvroSchema) -> bytes:
        """Give what stands in front of every value of an event of ours.

        Raises ConfigurationError when readers could not find the schema by it.
        """
        if self._registry is not None:
            found = await self._id_of(self._registry, info, schema)
            self._found(found, schema)
            return struct.pack(">bI", 0, found)
        ref = schema.fingerprint
        await self.learn([ref])
        if ref not in self._known:
            self._missing.pop(ref, None)
            raise ConfigurationError(
                f"the schema of {info.type} is not in the folder",
                code="CH1041",
                fix="run choreo schemas generate, and check the new file in",
                folder=self._folder.path if self._folder else "none",
            )
        return SINGLE_OBJECT_MAGIC + ref

    async def _id_of(self, registry: SchemaRegistry, info: EventInfo, schema: AvroSchema) -> int:
        subject = subject_of(info)
        found = await registry.find(subject, schema.text)
        if found is None and self._register:
            found = await registry.register(subject, schema.text)
        if found is None:
            raise ConfigurationError(
                f"the schema of {info.type} is not registered",
                code="CH1041",
                fix="run choreo schemas register, or set CHOREO_SCHEMAS_REGISTER=yes where "
                "that is done by whoever starts first",
                subject=subject,
            )
        return found


def _unknown(ref: Ref, why: str, fix: str = "", *, passes: bool = True) -> DecodeError:
    kind = SchemaUnknownError if passes else DecodeError
    return kind(
        f"value names a schema that is not known: {why}",
        code="CH2006",
        fix=fix or "register it, or correct the producer, and redrive",
        schema=_shown(ref),
    )


def _shown(ref: Ref) -> str:
    if isinstance(ref, bytes):
        return f"fingerprint {ref.hex()}"
    return f"id {ref}" if isinstance(ref, int) else f"GUID {ref}"
