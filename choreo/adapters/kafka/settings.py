"""What a deployment on Kafka may set; what it may not is set here as well.

The client's own defaults commit what was not handled, begin with the latest record and hold a
write for done when one replica has it. None of that can be asked for.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from choreo.errors import ConfigurationError

__all__ = ["KafkaSecurity", "KafkaSettings"]

log = logging.getLogger("choreo.kafka")
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
MIB = 1 << 20
HEADERS_MAX = 64 << 10  # of one record, beside its value
MARGIN_S = 5.0
SESSION_S = 10.0
HEARTBEAT_S = 1.0
REQUEST_S = 15.0
BEATS = 10  # of a member's heart, at least, before it is missed


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """Who we are, and who the brokers are. Passwords show up in no `repr` and no log."""

    protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_ca_location: str | None = None
    ssl_certificate_location: str | None = None
    ssl_key_location: str | None = None
    ssl_key_password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what no broker could take."""
        if self.protocol not in PROTOCOLS:
            raise _wrong("security.protocol", self.protocol, PROTOCOLS)
        if self.sasl and self.sasl_mechanism not in MECHANISMS:
            raise _wrong("sasl.mechanism", self.sasl_mechanism, MECHANISMS)
        if self.sasl and (self.sasl_username is None or self.sasl_password is None):
            raise ConfigurationError(
                "SASL needs a user and a password",
                code="CH1022",
                fix="set KAFKA_SASL_USERNAME, and KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE",
                protocol=self.protocol,
            )

    @property
    def sasl(self) -> bool:
        """Tell whether we say who we are by name and password."""
        return self.protocol.startswith("SASL_")

    @property
    def encrypted(self) -> bool:
        """Tell whether others on the wire can read along."""
        return self.protocol.endswith("SSL")

    def client(self) -> dict[str, Any]:
        """Give the client's own words for it."""
        words: dict[str, Any] = {"security_protocol": self.protocol}
        if self.sasl:
            words["sasl_mechanism"] = self.sasl_mechanism
            words["sasl_plain_username"] = self.sasl_username
            words["sasl_plain_password"] = self.sasl_password
        if self.encrypted:
            words["ssl_context"] = self._context()
        return words

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca_location)
            if self.ssl_certificate_location is not None:
                context.load_cert_chain(
                    self.ssl_certificate_location, self.ssl_key_location, self.ssl_key_password
                )
        except OSError as exc:  # ssl.SSLError is one
            raise ConfigurationError(
                f"a certificate can not be read: {exc}",
                code="CH1022",
                fix="look at KAFKA_SSL_CA_LOCATION, _CERTIFICATE_LOCATION, _KEY_LOCATION",
            ) from exc
        return context


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Where the brokers are, and how we behave as their clients.

    `namespace` begins the names of all topics and groups on the cluster, and is not seen
    outside of the adapter: several deployments may share one cluster. `instance_id` makes the
    members static (`group.instance.id`): a restart within `session_timeout_s` moves no
    partition, and leaving moves none either. `create_topics` lets `ensure` create what is
    missing, else it says what is; producing never creates one.
    """

    bootstrap_servers: str
    security: KafkaSecurity = KafkaSecurity()
    client_id: str = "choreo"
    namespace: str = ""
    instance_id: str | None = None
    create_topics: bool = False
    session_timeout_s: float = SESSION_S
    heartbeat_s: float = HEARTBEAT_S
    rest_s: float = 15.0
    """What runs in a partition that is to move has this long to come to rest."""
    request_timeout_s: float = REQUEST_S
    poll_interval_max_s: float = 300.0
    metadata_age_s: float = 10.0
    """So old may be what is known of topics: partitions that were added are found by then."""
    value_bytes_max: int = MIB
    buffered_max: int = 5_000
    """So many records are fetched ahead of who polls."""

    @property
    def record_bytes_max(self) -> int:
        """Give the size of the largest record: value, key, headers."""
        return self.value_bytes_max + HEADERS_MAX

    def warn(self) -> None:
        """Say aloud that records leave the machine unencrypted, if they do."""
        if self.security.encrypted:
            return
        servers = self.bootstrap_servers.split(",")
        hosts = [urlsplit(f"//{one.strip()}").hostname or one for one in servers]
        off = [host for host in hosts if not _loopback(host)]
        if off:
            log.warning(
                "CH3026 records, and passwords with %s, go over the network unencrypted, to %s."
                " Fix: set KAFKA_SECURITY_PROTOCOL=SASL_SSL",
                self.security.protocol,
                ", ".join(off),
            )

    # ── in the client's words ────────────────────────────────────────────────────────────

    def client(self) -> dict[str, Any]:
        """Give what all clients are made with."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "client_id": self.client_id,
            "request_timeout_ms": _ms(self.request_timeout_s),
            "retry_backoff_ms": 100,
            "metadata_max_age_ms": _ms(self.metadata_age_s),
            **self.security.client(),
        }

    def producer(self) -> dict[str, Any]:
        """Give what a producer is made with: all replicas, no duplicates of its own making."""
        return {
            **self.client(),
            "acks": "all",
            "enable_idempotence": True,
            "max_request_size": self.record_bytes_max,
            "max_batch_size": MIB,
        }

    def reader(self) -> dict[str, Any]:
        """Give what a consumer without a group is made with."""
        return {
            **self.client(),
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "fetch_max_wait_ms": 250,
        }

    def member(self, group: str) -> dict[str, Any]:
        """Give what a group's member is made with."""
        return {
            **self.reader(),
            "group_id": self.namespace + group,
            "group_instance_id": self.instance_id,
            "session_timeout_ms": _ms(self.session_timeout_s),
            "heartbeat_interval_ms": _ms(self.heartbeat_s),
            "rebalance_timeout_ms": _ms(self.rest_s + MARGIN_S),
            # A group answers who joins it when the slowest of its members has come to rest.
            "request_timeout_ms": _ms(max(self.request_timeout_s, self.rest_s + 2 * MARGIN_S)),
            "max_poll_interval_ms": _ms(self.poll_interval_max_s),
            # Every topic is shared out evenly. The sticky one counts partitions of all topics
            # together: who came second had all of one topic, and nothing of the others.
            "partition_assignment_strategy": (RoundRobinPartitionAssignor,),
        }

    # ── from the environment ─────────────────────────────────────────────────────────────

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], bootstrap_servers: str | None = None
    ) -> KafkaSettings:
        """Read `KAFKA_…` variables, by Kafka's own names in capitals.

        Of a password, `…_FILE` may name the file that holds it. Raises ConfigurationError.
        """
        servers = bootstrap_servers or environ.get("KAFKA_BOOTSTRAP_SERVERS")
        if not servers:
            raise ConfigurationError(
                "nothing says where Kafka is",
                code="CH1022",
                fix="set KAFKA_BOOTSTRAP_SERVERS=host:9092",
            )
        security = KafkaSecurity(
            protocol=environ.get("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT"),
            sasl_mechanism=environ.get("KAFKA_SASL_MECHANISM", "PLAIN"),
            sasl_username=environ.get("KAFKA_SASL_USERNAME"),
            sasl_password=_secret(environ, "KAFKA_SASL_PASSWORD"),
            ssl_ca_location=environ.get("KAFKA_SSL_CA_LOCATION"),
            ssl_certificate_location=environ.get("KAFKA_SSL_CERTIFICATE_LOCATION"),
            ssl_key_location=environ.get("KAFKA_SSL_KEY_LOCATION"),
            ssl_key_password=_secret(environ, "KAFKA_SSL_KEY_PASSWORD"),
        )
        session_s = _seconds(environ, "KAFKA_SESSION_TIMEOUT_MS", SESSION_S)
        return cls(
            servers,
            security,
            client_id=environ.get("KAFKA_CLIENT_ID", "choreo"),
            instance_id=environ.get("KAFKA_GROUP_INSTANCE_ID"),
            session_timeout_s=session_s,
            heartbeat_s=min(HEARTBEAT_S, session_s / BEATS),
            request_timeout_s=_seconds(environ, "KAFKA_REQUEST_TIMEOUT_MS", REQUEST_S),
        )


def _secret(environ: Mapping[str, str], name: str) -> str | None:
    file = environ.get(f"{name}_FILE")
    if file is None:
        return environ.get(name)
    try:
        return Path(file).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8"
        raise ConfigurationError(
            f"the file that {name}_FILE names can not be read: {why}",
            code="CH1022",
            fix="name a file with nothing but the secret, that this user may read",
            file=file,
        ) from None


def _seconds(environ: Mapping[str, str], variable: str, default: float) -> float:
    given = environ.get(variable)
    if not given:
        return default
    if not given.isdecimal() or not int(given):
        raise ConfigurationError(
            f"{variable} takes no {given!r}",
            code="CH1022",
            fix=f"set {variable} to a number of milliseconds, or take it out",
        )
    return int(given) / 1000


def _wrong(name: str, given: str, allowed: tuple[str, ...]) -> ConfigurationError:
    variable = f"KAFKA_{name.upper().replace('.', '_')}"
    return ConfigurationError(
        f"{name} takes no {given!r}",
        code="CH1022",
        fix=f"set {variable} to one of {', '.join(allowed)}",
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
