"""The client's errors, in our words: which code, and whether trying again may help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka import errors as kafka

from choreo.errors import BrokerError, BrokerUnavailableError, ChoreoError

__all__ = ["FATAL", "missing", "translated", "translating"]

DENIED = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
    kafka.DelegationTokenAuthorizationFailed,
)
UNKNOWN = (
    kafka.AuthenticationFailedError,
    kafka.AuthenticationMethodNotSupported,
    kafka.SaslAuthenticationFailed,
    kafka.UnsupportedSaslMechanismError,
    kafka.IllegalSaslStateError,
    kafka.SecurityDisabled,
    kafka.DelegationTokenExpired,
    kafka.DelegationTokenNotFound,
    kafka.DelegationTokenAuthDisabled,
    kafka.DelegationTokenRequestNotAllowed,
    kafka.DelegationTokenOwnerMismatch,
    kafka.InvalidPrincipalType,
)
TOO_LARGE = (
    kafka.MessageSizeTooLargeError,
    kafka.RecordTooLargeError,
    kafka.RecordListTooLargeError,
)
NO_TOPIC = (kafka.UnknownTopicOrPartitionError, kafka.InvalidTopicError)
FATAL = (
    kafka.UnrecognizedBrokerVersion,
    kafka.IncompatibleBrokerVersion,
    kafka.UnsupportedVersionError,
    kafka.UnsupportedCodecError,
    kafka.UnsupportedForMessageFormatError,
    kafka.KafkaConfigurationError,
    kafka.IllegalArgumentError,
    kafka.IllegalStateError,
    kafka.IllegalOperation,
    kafka.InvalidConfigurationError,
    kafka.InvalidCommitOffsetSizeError,
    kafka.InvalidGroupIdError,
    kafka.InvalidPartitionsError,
    kafka.InvalidReplicationAssignmentError,
    kafka.InvalidReplicationFactorError,
    kafka.InvalidRequestError,
    kafka.InvalidRequiredAcksError,
    kafka.InvalidSessionTimeoutError,
    kafka.InvalidTimestampError,
    kafka.InvalidTransactionTimeout,
    kafka.InconsistentGroupProtocolError,
    kafka.OffsetMetadataTooLargeError,
    kafka.PolicyViolationError,
    kafka.TopicAlreadyExistsError,
    kafka.NonEmptyGroup,
)
"""What stays as it is however often one asks; everything else passes."""


@contextmanager
def translating(doing: str) -> Iterator[None]:
    """Raise what the client raises in our words; `doing` says what it was about."""
    try:
        yield
    except (kafka.KafkaError, kafka.IllegalOperation, kafka.ConsumerStoppedError) as exc:
        raise translated(exc, doing) from exc
    except (OSError, TimeoutError) as exc:
        raise _unavailable(exc, doing) from exc


def translated(exc: BaseException, doing: str) -> ChoreoError:
    """Give our error for the client's."""
    about = str(exc.args[0]) if exc.args and not isinstance(exc.args[0], tuple) else ""
    if isinstance(exc, DENIED):
        return BrokerError(
            f"the broker does not allow it: {doing}",
            code="CH3023",
            fix="give this user the ACLs that `choreo topics plan` lists",
            why=_why(exc),
        )
    if isinstance(exc, UNKNOWN):
        return BrokerError(
            "the broker does not take who we say we are",
            code="CH3022",
            fix="look at KAFKA_SASL_USERNAME, the password, and KAFKA_SASL_MECHANISM",
            why=_why(exc),
        )
    if isinstance(exc, TOO_LARGE):
        return BrokerError(
            "a record is larger than its topic takes",
            code="CH3020",
            fix="put large things elsewhere and a reference into the event, or raise"
            " max.message.bytes of the topic",
            why=_why(exc),
        )
    if isinstance(exc, NO_TOPIC):
        return missing([about] if about else [])
    if isinstance(exc, FATAL):
        return BrokerError(f"{doing}: {_why(exc)}", code="CH3000", fix="correct what it says")
    return _unavailable(exc, doing)


def missing(topics: list[str]) -> BrokerError:
    """Make the error for topics that are not there."""
    return BrokerError(
        "the topic does not exist",
        code="CH3004",
        fix="create it: `choreo topics apply`",
        topic=", ".join(topics),
    )


def _unavailable(exc: BaseException, doing: str) -> BrokerUnavailableError:
    return BrokerUnavailableError(
        f"the broker does not answer: {doing}",
        fix="see that it runs and can be reached from here; it is tried again",
        why=_why(exc),
    )


def _why(exc: BaseException) -> str:
    text = str(exc).strip()
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
