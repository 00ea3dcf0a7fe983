"""Settings for tests: names of their own, and members that are missed soon."""

from __future__ import annotations

import uuid

from choreo.adapters.kafka import KafkaSettings

__all__ = ["SESSION_S", "member"]

SESSION_S = 3.0


def member(servers: str, namespace: str | None = None) -> KafkaSettings:
    return KafkaSettings(
        servers,
        namespace=namespace or f"{uuid.uuid4().hex[:8]}.",
        create_topics=True,
        session_timeout_s=SESSION_S,
        heartbeat_s=0.1,
        request_timeout_s=5.0,
    )
