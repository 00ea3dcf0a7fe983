"""A schema registry over HTTP, by Confluent's REST API: Confluent's own, Karapace, Apicurio.

Source: Confluent Schema Registry API reference, "Schemas", "Subjects"; content type
`application/vnd.schemaregistry.v1+json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

from choreo.errors import (
    ConfigurationError,
    RegistryError,
    RegistryUnavailableError,
    SchemaIncompatibleError,
)

try:
    import httpx
except ImportError:
    raise ConfigurationError(
        "a schema registry needs the library httpx",
        code="CH1042",
        fix='install it: pip install "choreo[avro]"',
    ) from None

__all__ = ["HttpRegistry"]

MEDIA: Final = "application/vnd.schemaregistry.v1+json"
TIMEOUT_S: Final = 2.0
FOUND, REFUSED, FORBIDDEN = 200, 422, (401, 403)
NOT_FOUND, CONFLICT, BUSY, BROKEN = 404, 409, 429, 500
SUBJECT_UNKNOWN, VERSION_UNKNOWN, SCHEMA_UNKNOWN = 40401, 40402, 40403
UNKNOWN = (SUBJECT_UNKNOWN, VERSION_UNKNOWN, SCHEMA_UNKNOWN)


class HttpRegistry:
    """A registry at a URL; user and password may stand in it."""

    def __init__(self, url: str) -> None:
        """Open nothing yet."""
        with translated(url):
            self._url = httpx.URL(url.rstrip("/"))
        self._client: httpx.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"<HttpRegistry {self.address}>"

    @property
    def address(self) -> str:
        """Where it is, without user and password."""
        return str(self._url.copy_with(userinfo=b""))

    async def schema(self, ref: int | str) -> str | None:
        """Ask by id or GUID; None for one that the registry does not have."""
        kind = "ids" if isinstance(ref, int) else "guids"
        found = await self._ask("GET", f"/schemas/{kind}/{quote(str(ref), safe='')}")
        if found is None:
            return None
        if found.get("schemaType", "AVRO") != "AVRO" or found.get("references"):
            raise RegistryError(
                f"the schema {ref} is no Avro schema that stands for itself",
                fix="register it as Avro, without references",
                registry=self.address,
            )
        return self._text(found, "schema")

    async def find(self, subject: str, schema: str) -> int | None:
        """Ask for the id under a subject; None where it is not registered."""
        found = await self._ask("POST", f"/subjects/{quote(subject, safe='')}", schema)
        return None if found is None else self._number(found)

    async def register(self, subject: str, schema: str) -> int:
        """Add it under a subject; give its id."""
        found = await self._ask("POST", f"/subjects/{quote(subject, safe='')}/versions", schema)
        return self._number(found or {})

    async def close(self) -> None:
        """Close what is open; it opens again when it is asked."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _ask(self, verb: str, path: str, schema: str | None = None) -> Any:
        """Ask; give the answer's JSON object, or None where there is no such thing."""
        if self._client is None:
            self._client = httpx.AsyncClient(
                base_url=self._url, timeout=TIMEOUT_S, headers={"Accept": MEDIA}
            )
        body = None if schema is None else json.dumps({"schema": schema}).encode()
        headers = {} if body is None else {"Content-Type": MEDIA}
        with translated(self.address):
            answer = await self._client.request(verb, path, content=body, headers=headers)
        told = _object(answer)
        if answer.status_code == FOUND and told is not None:
            return told
        if answer.status_code == NOT_FOUND and (told or {}).get("error_code") in UNKNOWN:
            return None
        raise self._refusal(answer.status_code, told or {})

    def _refusal(self, status: int, told: Mapping[str, Any]) -> Exception:
        what = str(told.get("message") or f"HTTP status {status}")
        if status == CONFLICT:
            return SchemaIncompatibleError(
                f"the registry refuses a schema: {what}",
                code="CH2009",
                fix="see choreo schemas check; the subject's own rule may be stricter",
                registry=self.address,
            )
        if status == BUSY or status >= BROKEN:
            return self._unavailable(what)
        fix = "look at the registry's address and at the schema"
        if status in FORBIDDEN:
            fix = "give user and password in SCHEMA_REGISTRY_URL: https://user:password@host"
        return RegistryError(f"the registry refuses: {what}", fix=fix, registry=self.address)

    def _unavailable(self, what: str) -> RegistryUnavailableError:
        return unavailable(what, self.address)

    def _text(self, found: Mapping[str, Any], name: str) -> str:
        value = found.get(name)
        if not isinstance(value, str):
            raise self._strange(name)
        return value

    def _number(self, found: Mapping[str, Any]) -> int:
        value = found.get("id")
        if not isinstance(value, int) or not 0 <= value < 1 << 32:
            raise self._strange("id")
        return value

    def _strange(self, name: str) -> RegistryError:
        return RegistryError(
            f"the registry's answer has no {name}",
            fix="SCHEMA_REGISTRY_URL has to lead to a registry with Confluent's REST API",
            registry=self.address,
        )


def unavailable(what: str, registry: str) -> RegistryUnavailableError:
    """Make the error for a registry that does not answer."""
    return RegistryUnavailableError(
        f"the schema registry does not answer: {what}",
        fix="start it, or correct SCHEMA_REGISTRY_URL; what needs a schema waits",
        registry=registry,
    )


@contextmanager
def translated(registry: str) -> Iterator[None]:
    """Turn what the HTTP library raises into ours."""
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
        raise ConfigurationError(
            "SCHEMA_REGISTRY_URL is no address of a registry",
            code="CH1014",
            fix="write http://host:8081, or https://user:password@host",
        ) from exc
    except httpx.HTTPError as exc:
        raise unavailable(str(exc) or type(exc).__name__, registry) from exc


def _object(answer: httpx.Response) -> dict[str, Any] | None:
    try:
        found = answer.json()
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
