"""The payment provider, as this service sees it: two calls over HTTP.

Both take an idempotency key: calls of one key are one charge, or one refund. What an answer
does not tell stays unknown, and the same call is made again.
"""

import asyncio
import os
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from choreo import NotDone
from services.payments.simulated import Outside, Wire

URL = "http://127.0.0.1:8571"
PATIENCE_S = 2.0
AT_ONCE = 16
"""Calls under way at one time; more only wait for each other inside the client."""
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Charge(BaseModel):
    """What became of a charge: the provider's name for it, or why it was declined."""

    charge: str | None = None
    declined: str | None = None


class Refund(BaseModel):
    """A refund that was made."""

    refund: str


Answer = TypeVar("Answer", Charge, Refund)


class UnknownOutcomeError(Exception):
    """The provider did not say whether it did what it was asked."""


class PaymentProvider:
    """Charges and refunds, by HTTP."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        """Take a client whose `base_url` is the provider's."""
        self._client = client
        self._turns = asyncio.Semaphore(AT_ONCE)

    @classmethod
    def simulated(cls, outside: Outside) -> Self:
        """Stand in for it in a simulation: the same client, over a wire that fails by seed."""
        return cls(httpx.AsyncClient(transport=Wire(outside), base_url="http://bank"))

    async def charge(self, amount: Decimal, *, order_id: str, key: str) -> Charge:
        """Take `amount` from the customer, once per `key`; declined is an answer as well.

        Raises NotDone when certainly nothing was taken, UnknownOutcomeError otherwise.
        """
        body = await self._post("/charges", {"amount": str(amount), "order_id": order_id}, key)
        answer = _read(Charge, body)
        if (answer.charge is None) == (answer.declined is None):
            raise UnknownOutcomeError("an answer that neither charges nor declines")
        return answer

    async def refund(self, charge: str, amount: Decimal, *, key: str) -> Refund:
        """Give `amount` of a charge back, once per `key`. Raises as `charge` does."""
        body = await self._post("/refunds", {"charge": charge, "amount": str(amount)}, key)
        return _read(Refund, body)

    async def _post(self, path: str, body: dict[str, str], key: str) -> bytes:
        headers = {"Idempotency-Key": key}
        try:
            async with self._turns:
                response = await self._client.post(path, json=body, headers=headers)
        except NEVER_SENT as exc:
            raise NotDone(f"the provider can not be reached: {exc}") from exc
        except httpx.HTTPError as exc:
            raise UnknownOutcomeError(f"no answer: {type(exc).__name__}") from exc
        status = response.status_code
        if status in {HTTPStatus.OK, HTTPStatus.PAYMENT_REQUIRED}:
            return response.content
        if status < HTTPStatus.INTERNAL_SERVER_ERROR or _not_processed(response):
            raise NotDone(f"the provider refused: {status}")
        raise UnknownOutcomeError(f"the provider answered {status}")


def _read(model: type[Answer], body: bytes) -> Answer:
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        raise UnknownOutcomeError("an answer that can not be read") from exc


def _not_processed(response: httpx.Response) -> bool:
    """Tell whether a 503 says in its body that nothing was done."""
    if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
        return False
    try:
        body: Any = response.json()
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("processed") is False


def make_client() -> httpx.AsyncClient:
    """Make the client that the environment describes.

    PAYMENT_PROVIDER_URL says where; PAYMENT_PATIENCE_S how many seconds to wait for an answer.
    """
    return httpx.AsyncClient(
        base_url=os.environ.get("PAYMENT_PROVIDER_URL", URL),
        timeout=float(os.environ.get("PAYMENT_PATIENCE_S", PATIENCE_S)),
        trust_env=False,
    )
