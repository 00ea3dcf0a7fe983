"""A small schema registry on the loopback, with the REST API of Confluent's.

    with RegistryServer() as registry:
        monkeypatch.setenv("SCHEMA_REGISTRY_URL", registry.url)

It keeps ids, subjects and versions in memory, checks compatibility by each subject's level
(BACKWARD, unless it is set), and answers with Confluent's error codes. No deletion, no
references, no authentication.
Source: Confluent Schema Registry API reference.
"""

from __future__ import annotations

import errno
import json
import threading
import uuid
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from choreo.errors import DecodeError
from choreo.schemas import AvroSchema, misread, parsed
from choreo.testing.servers.program import free_ports

__all__ = ["RegistryServer"]

MEDIA = "application/vnd.schemaregistry.v1+json"
LEVELS = ("NONE", "BACKWARD", "FORWARD", "FULL")
HOST = "127.0.0.1"
TRIES = 10


class RegistryError(Exception):
    """An answer that is no success: HTTP status, Confluent's code, a message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        """Say all three."""
        super().__init__(message)
        self.status = status
        self.code = code


class RegistryServer:
    """A registry that may be stopped and started again: its address and its schemas stay.

    `asked` lists every question as "VERB path"; `broken`, if set, is the HTTP status that every
    question is answered with.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self.asked: list[str] = []
        self.broken = 0
        self._lock = threading.Lock()
        self._ids: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._subjects: dict[str, list[int]] = {}
        self._levels: dict[str, str] = {"": "BACKWARD"}
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self.stop()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self._port}"

    def start(self) -> None:
        """Listen. May be called twice."""
        if self._server is not None:
            return
        registry = self

        class Handler(_Handler):
            answer = staticmethod(registry._answered)

        self._server = self._bound(Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="registry", daemon=True
        )
        self._thread.start()

    def _bound(self, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
        """Take our port, or a first one: one that the system gives nobody while we are stopped.

        Another who looked for one at the same time may have been faster.
        """
        tried = 0
        while True:
            port = self._port or free_ports(1)[0]
            tried += 1
            try:
                server = ThreadingHTTPServer((HOST, port), handler)
            except OSError as exc:
                if self._port or tried == TRIES or exc.errno != errno.EADDRINUSE:
                    raise
            else:
                self._port = port
                return server

    def stop(self) -> None:
        """Listen no more; connections are refused. May be called twice."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()

    # ── answering ────────────────────────────────────────────────────────────────────────

    def _answered(self, verb: str, target: str, body: bytes) -> tuple[int, Any]:
        path = urlsplit(target).path
        with self._lock:
            self.asked.append(f"{verb} {path}")
            try:
                if self.broken:
                    raise RegistryError(self.broken, self.broken, "broken on purpose")
                parts = [unquote(part) for part in path.split("/")[1:]]
                return 200, self._routed(verb, parts, body)
            except RegistryError as exc:
                return exc.status, {"error_code": exc.code, "message": str(exc)}

    def _routed(self, verb: str, path: list[str], body: bytes) -> Any:
        match verb, path:
            case "GET", ["subjects"]:
                return sorted(self._subjects)
            case "GET", ["schemas", "ids", number]:
                return {"schema": self._by_id(number)}
            case "GET", ["schemas", "guids", guid]:
                return {"schema": self._by_guid(guid)}
            case "GET", ["subjects", subject, "versions"]:
                return list(range(1, len(self._versions(subject)) + 1))
            case "GET", ["subjects", subject, "versions", number]:
                return self._version(subject, number)
            case "POST", ["subjects", subject, "versions"]:
                return {"id": self._register(subject, _schema(body))}
            case "POST", ["subjects", subject]:
                return self._look_up(subject, _schema(body))
            case "POST", ["compatibility", "subjects", subject, "versions", number]:
                version = self._version(subject, number)["version"]
                wrong = self._clashes(
                    subject, _schema(body), self._versions(subject)[:version][-1:]
                )
                return {"is_compatible": not wrong, "messages": wrong}
            case "GET", ["config", *subject]:
                return {"compatibilityLevel": self._level("".join(subject))}
            case "PUT", ["config", *subject]:
                return self._configure("".join(subject), body)
        raise RegistryError(404, 404, "HTTP 404 Not Found")

    def _by_id(self, number: str) -> str:
        found = self._texts.get(int(number)) if number.isdecimal() else None
        if found is None:
            raise RegistryError(404, 40403, f"Schema {number} not found")
        return found

    def _by_guid(self, guid: str) -> str:
        for text in self._ids:
            if self.guid(text) == guid.lower():
                return text
        raise RegistryError(404, 40403, f"Schema {guid} not found")

    @staticmethod
    def guid(text: str) -> str:
        """Give the GUID of a schema, as a header names it."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, text))

    def _versions(self, subject: str) -> list[int]:
        found = self._subjects.get(subject)
        if found is None:
            raise RegistryError(404, 40401, f"Subject '{subject}' not found.")
        return found

    def _version(self, subject: str, number: str) -> dict[str, Any]:
        ids = self._versions(subject)
        position = len(ids) if number == "latest" else int(number) if number.isdecimal() else 0
        if not 1 <= position <= len(ids):
            raise RegistryError(404, 40402, f"Version {number} not found.")
        found = ids[position - 1]
        return {
            "subject": subject, "version": position, "id": found, "schema": self._texts[found],
        }  # fmt: skip

    def _look_up(self, subject: str, text: str) -> dict[str, Any]:
        ids = self._versions(subject)
        found = self._ids.get(text)
        if found not in ids:
            raise RegistryError(404, 40403, "Schema not found")
        return self._version(subject, str(ids.index(found) + 1))

    def _register(self, subject: str, text: str) -> int:
        known = self._ids.get(text)
        ids = self._subjects.get(subject, [])
        if known is not None and known in ids:
            return known
        if wrong := self._clashes(subject, text, ids):
            what = f"incompatible with an earlier schema for subject {subject!r}: "
            raise RegistryError(409, 409, f"Schema being registered is {what}{'; '.join(wrong)}")
        if known is None:
            known = self._ids[text] = len(self._ids) + 1
            self._texts[known] = text
        self._subjects.setdefault(subject, []).append(known)
        return known

    # ── compatibility ────────────────────────────────────────────────────────────────────

    def _level(self, subject: str) -> str:
        return self._levels.get(subject, self._levels[""])

    def _configure(self, subject: str, body: bytes) -> dict[str, str]:
        level = str(_object(body).get("compatibility"))
        if level.removesuffix("_TRANSITIVE") not in LEVELS:
            raise RegistryError(422, 42203, f"Invalid compatibility level: {level}")
        self._levels[subject] = level
        return {"compatibility": level}

    def _clashes(self, subject: str, text: str, ids: list[int]) -> list[str]:
        level = self._level(subject)
        among = ids if level.endswith("_TRANSITIVE") else ids[-1:]
        new = _parsed(text).root
        found: list[str] = []
        for number in among if level != "NONE" else ():
            old = _parsed(self._texts[number]).root
            if not level.startswith("FORWARD"):
                found += [one.text for one in misread(old, new, ("the old schema", "the new"))]
            if not level.startswith("BACKWARD"):
                found += [one.text for one in misread(new, old, ("the new schema", "the old"))]
        return found


class _Handler(BaseHTTPRequestHandler):
    """Speaks HTTP; what is answered is the registry's to say."""

    protocol_version = "HTTP/1.0"  # a connection a question: none outlives `stop`
    answer: Callable[[str, str, bytes], tuple[int, Any]]

    def do_GET(self) -> None:
        """Answer."""
        self._respond()

    def do_POST(self) -> None:
        """Answer."""
        self._respond()

    def do_PUT(self) -> None:
        """Answer."""
        self._respond()

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, told = self.answer(self.command, self.path, body)
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", MEDIA)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *about: object) -> None:
        """Write nothing: `asked` has it."""


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RegistryError(422, 42201, "Invalid schema: no JSON object")
    return found


def _schema(body: bytes) -> str:
    """Give the schema of a request, written as the registry keeps it."""
    return _parsed(str(_object(body).get("schema"))).text


def _parsed(text: str) -> AvroSchema:
    try:
        return parsed(text, recursive=True)
    except DecodeError as exc:
        raise RegistryError(422, 42201, f"Invalid schema: {exc.what}") from None
