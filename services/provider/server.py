"""The provider's HTTP: POST /charges, POST /refunds, GET /ledger; on the loopback only."""

import json
import socket
import threading
from decimal import Decimal
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from services.provider.ledger import Answer, Ledger
from services.provider.plan import Fate, Plan

BODY_BYTES_MAX = 10_000
SKIPPED_BYTES_MAX = 1_000_000
LENGTH_DIGITS_MAX = 10
KEY_CHARACTERS_MAX = 200

Money = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=2)]


class ChargeRequest(BaseModel):
    """Body of POST /charges."""

    amount: Money
    order_id: str


class RefundRequest(BaseModel):
    """Body of POST /refunds."""

    amount: Money
    charge: str


class BadRequestError(Exception):
    """What was asked makes no sense; nothing was done."""


class Server(ThreadingHTTPServer):
    """One thread a connection."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, port: int, ledger: Ledger, plan: Plan) -> None:
        """Listen on 127.0.0.1; port 0 takes any that is free."""
        super().__init__(("127.0.0.1", port), Handler)
        self.ledger = ledger
        self.plan = plan
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet: a client that went away is what this server is for."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def do_GET(self) -> None:
        """Give the ledger."""
        if self.path == "/ledger":
            self._reply((HTTPStatus.OK, {"orders": self.server.ledger.orders()}))
        else:
            self._reply((HTTPStatus.NOT_FOUND, {"error": "no such page"}))

    def do_POST(self) -> None:
        """Charge or refund, if the plan lets it."""
        try:
            body, key = self._body(), self._key()
            if self.path == "/charges":
                self._charge(key, ChargeRequest.model_validate_json(body))
            elif self.path == "/refunds":
                self._refund(key, RefundRequest.model_validate_json(body))
            else:
                self._reply((HTTPStatus.NOT_FOUND, {"error": "no such page"}))
        except ValidationError as exc:
            self._reply((HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(exc)}))
        except BadRequestError as exc:
            self.close_connection = True
            self._reply((HTTPStatus.BAD_REQUEST, {"error": str(exc)}))

    def log_message(self, format: str, *args: object) -> None:
        """Write no log: the ledger is one."""

    def _charge(self, key: str, asked: ChargeRequest) -> None:
        ledger, plan = self.server.ledger, self.server.plan
        attempt, known = ledger.attempt(key, f"charge {asked.order_id} {asked.amount}")
        fate = plan.fate(key, attempt, asked.order_id)
        if self._stopped_by(fate):
            return
        if known is None and plan.declines(asked.order_id):
            known = ledger.decline(key)
        self._deliver(known or ledger.charge(key, asked.order_id, asked.amount), fate)

    def _refund(self, key: str, asked: RefundRequest) -> None:
        ledger, plan = self.server.ledger, self.server.plan
        attempt, known = ledger.attempt(key, f"refund {asked.charge} {asked.amount}")
        fate = plan.fate(key, attempt, ledger.order_of(asked.charge))
        if self._stopped_by(fate):
            return
        self._deliver(known or ledger.refund(key, asked.charge, asked.amount), fate)

    def _stopped_by(self, fate: Fate) -> bool:
        """Answer a call that is not to be carried out."""
        if fate is Fate.REFUSED:
            body = {"error": "try again later", "processed": False}
            self._reply((HTTPStatus.SERVICE_UNAVAILABLE, body))
        elif fate is Fate.ERROR:
            self._reply((HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "something went wrong"}))
        return fate in {Fate.REFUSED, Fate.ERROR}

    def _deliver(self, answer: Answer, fate: Fate) -> None:
        """Answer a call that was carried out, unless its answer is to be lost."""
        if fate is Fate.LATE:
            self.server.stopping.wait(self.server.plan.late_s)
        if fate is Fate.LOST:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self._reply(answer)

    def _key(self) -> str:
        key = self.headers.get("Idempotency-Key", "")
        if not 0 < len(key) <= KEY_CHARACTERS_MAX:
            raise BadRequestError("a call needs an Idempotency-Key")
        return key

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or len(length) > LENGTH_DIGITS_MAX:
            raise BadRequestError("a call needs a Content-Length")
        if int(length) > BODY_BYTES_MAX:
            # Read what is on its way already: a connection closed over it would be reset.
            self.rfile.read(min(int(length), SKIPPED_BYTES_MAX))
            raise BadRequestError(f"a body has at most {BODY_BYTES_MAX} bytes")
        return self.rfile.read(int(length))

    def _reply(self, answer: Answer) -> None:
        body = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
