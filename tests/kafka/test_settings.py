"""What is set whatever a user says, and what a user may say."""

import logging
from pathlib import Path

import pytest

from choreo.adapters.kafka import KafkaBroker, KafkaSecurity, KafkaSettings
from choreo.errors import ConfigurationError

SETTINGS = KafkaSettings("127.0.0.1:9092")


def test_none_of_the_clients_unsafe_defaults_is_left() -> None:
    producer, member, reader = SETTINGS.producer(), SETTINGS.member("desk"), SETTINGS.reader()
    assert producer["acks"] == "all"
    assert producer["enable_idempotence"] is True
    for consumer in (member, reader):
        assert consumer["enable_auto_commit"] is False
        assert consumer["auto_offset_reset"] == "earliest"
    assert member["session_timeout_ms"] == 10_000
    assert member["max_poll_interval_ms"] == 300_000


def test_a_rebalance_waits_for_longer_than_what_runs_may_take_to_rest() -> None:
    settings = KafkaSettings("127.0.0.1:9092", rest_s=40)
    member = settings.member("desk")
    assert member["rebalance_timeout_ms"] > 40_000
    assert member["request_timeout_ms"] > member["rebalance_timeout_ms"]


def test_members_are_static_where_they_are_named() -> None:
    assert SETTINGS.member("desk")["group_instance_id"] is None
    named = KafkaSettings("127.0.0.1:9092", instance_id="desk-1")
    assert named.member("desk")["group_instance_id"] == "desk-1"


def test_the_environment_speaks_kafkas_own_names(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("wonder\n")
    found = KafkaSettings.from_environment(
        {
            "KAFKA_BOOTSTRAP_SERVERS": "one:9092,two:9092",
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": "alice",
            "KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "secret"),
            "KAFKA_GROUP_INSTANCE_ID": "desk-1",
            "KAFKA_SESSION_TIMEOUT_MS": "3000",
            "KAFKA_REQUEST_TIMEOUT_MS": "2500",
        }
    )
    client = found.client()
    assert client["bootstrap_servers"] == "one:9092,two:9092"
    assert client["security_protocol"] == "SASL_PLAINTEXT"
    assert client["sasl_mechanism"] == "SCRAM-SHA-512"
    assert client["sasl_plain_username"] == "alice"
    assert client["sasl_plain_password"] == "wonder"
    assert client["request_timeout_ms"] == 2500
    member = found.member("desk")
    assert member["group_instance_id"] == "desk-1"
    assert (member["session_timeout_ms"], member["heartbeat_interval_ms"]) == (3000, 300)
    assert "wonder" not in repr(found)


@pytest.mark.parametrize(
    ("environ", "what"),
    [
        ({}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSLL"}, "KAFKA_SECURITY_PROTOCOL to one of PLAINTEXT"),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "KAFKA_SASL_USERNAME"),
        (
            {
                "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "KAFKA_SASL_MECHANISM": "PLAINT",
                "KAFKA_SASL_PASSWORD": "wonder",
            },
            "KAFKA_SASL_MECHANISM to one of PLAIN",
        ),
        ({"KAFKA_SASL_PASSWORD_FILE": "/nowhere/secret"}, "KAFKA_SASL_PASSWORD_FILE"),
        ({"KAFKA_SESSION_TIMEOUT_MS": "10s"}, "KAFKA_SESSION_TIMEOUT_MS to a number"),
        ({"KAFKA_REQUEST_TIMEOUT_MS": "0"}, "KAFKA_REQUEST_TIMEOUT_MS to a number"),
    ],
)
def test_what_is_not_understood_says_which_variable(environ: dict[str, str], what: str) -> None:
    servers = "one:9092" if environ else None
    with pytest.raises(ConfigurationError, match=what) as caught:
        KafkaSettings.from_environment(environ, servers)
    assert caught.value.code == "CH1022"
    assert "wonder" not in str(caught.value)


def test_a_certificate_that_can_not_be_read_is_told() -> None:
    security = KafkaSecurity("SSL", ssl_ca_location="/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match="CH1022 a certificate can not be read"):
        security.client()


def test_a_file_that_holds_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    environ = {
        "KAFKA_BOOTSTRAP_SERVERS": "one:9092",
        "KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "secret"),
    }
    with pytest.raises(ConfigurationError, match=r"CH1022.*KAFKA_SASL_PASSWORD_FILE.*no UTF-8"):
        KafkaSettings.from_environment(environ)


@pytest.mark.parametrize(
    ("servers", "protocol", "loud"),
    [
        ("127.0.0.1:9092,localhost:9093,[::1]:9094", "PLAINTEXT", False),
        ("localhost", "PLAINTEXT", False),
        ("kafka.example.org:9092", "SSL", False),
        ("kafka.example.org", "PLAINTEXT", True),
        ("127.0.0.1:9092,10.0.0.7:9092", "PLAINTEXT", True),
    ],
)
async def test_what_leaves_the_machine_unencrypted_is_said_aloud(
    servers: str,
    protocol: str,
    loud: bool,  # noqa: FBT001 - a column of the table above
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "choreo.kafka"):
        await KafkaBroker(KafkaSettings(servers, KafkaSecurity(protocol))).close()
    assert ("CH3026" in caplog.text) is loud
