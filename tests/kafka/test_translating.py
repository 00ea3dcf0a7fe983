"""Every error of the client has its place; one that is new has none, and fails here."""

import inspect

import pytest
from aiokafka import errors as kafka

from choreo.adapters.kafka.translating import translating
from choreo.errors import BrokerError, BrokerUnavailableError

BASES = {"KafkaError", "BrokerResponseError", "NoError"}
PASSES = [
    "BrokerNotAvailableError",
    "Cancelled",
    "CommitFailedError",
    "ConcurrentTransactions",
    "ConsumerStoppedError",
    "CoordinatorLoadInProgressError",
    "CoordinatorNotAvailableError",
    "CorrelationIdError",
    "CorruptRecordException",
    "DuplicateSequenceNumber",
    "FetchSessionIdNotFound",
    "GroupCoordinatorNotAvailableError",
    "GroupIdNotFound",
    "GroupLoadInProgressError",
    "IllegalGenerationError",
    "InvalidFetchRequestError",
    "InvalidFetchSessionEpoch",
    "InvalidMessageError",
    "InvalidProducerEpoch",
    "InvalidProducerIdMapping",
    "InvalidTxnState",
    "KafkaConnectionError",
    "KafkaProtocolError",
    "KafkaStorageError",
    "KafkaTimeoutError",
    "KafkaUnavailableError",
    "LeaderNotAvailableError",
    "ListenerNotFound",
    "LogDirNotFound",
    "MemberIdRequired",
    "MetadataEmptyBrokerList",
    "NoBrokersAvailable",
    "NoOffsetForPartitionError",
    "NodeNotReadyError",
    "NotControllerError",
    "NotCoordinatorError",
    "NotCoordinatorForGroupError",
    "NotEnoughReplicasAfterAppendError",
    "NotEnoughReplicasError",
    "NotLeaderForPartitionError",
    "OffsetOutOfRangeError",
    "OperationNotAttempted",
    "OutOfOrderSequenceNumber",
    "ProducerClosed",
    "ProducerFenced",
    "QuotaViolationError",
    "ReassignmentInProgress",
    "RebalanceInProgressError",
    "ReplicaNotAvailableError",
    "RequestTimedOutError",
    "StaleControllerEpochError",
    "StaleLeaderEpochCodeError",
    "StaleMetadata",
    "TooManyInFlightRequests",
    "TransactionCoordinatorFenced",
    "UnknownError",
    "UnknownMemberIdError",
    "UnknownProducerId",
]
CODES = {
    "CH3000": [
        "IllegalArgumentError",
        "IllegalOperation",
        "IllegalStateError",
        "InconsistentGroupProtocolError",
        "IncompatibleBrokerVersion",
        "InvalidCommitOffsetSizeError",
        "InvalidConfigurationError",
        "InvalidGroupIdError",
        "InvalidPartitionsError",
        "InvalidReplicationAssignmentError",
        "InvalidReplicationFactorError",
        "InvalidRequestError",
        "InvalidRequiredAcksError",
        "InvalidSessionTimeoutError",
        "InvalidTimestampError",
        "InvalidTransactionTimeout",
        "KafkaConfigurationError",
        "NonEmptyGroup",
        "OffsetMetadataTooLargeError",
        "PolicyViolationError",
        "TopicAlreadyExistsError",
        "UnrecognizedBrokerVersion",
        "UnsupportedCodecError",
        "UnsupportedForMessageFormatError",
        "UnsupportedVersionError",
    ],
    "CH3001": PASSES,
    "CH3004": ["InvalidTopicError", "UnknownTopicOrPartitionError"],
    "CH3020": ["MessageSizeTooLargeError", "RecordListTooLargeError", "RecordTooLargeError"],
    "CH3022": [
        "AuthenticationFailedError",
        "AuthenticationMethodNotSupported",
        "DelegationTokenAuthDisabled",
        "DelegationTokenExpired",
        "DelegationTokenNotFound",
        "DelegationTokenOwnerMismatch",
        "DelegationTokenRequestNotAllowed",
        "IllegalSaslStateError",
        "InvalidPrincipalType",
        "SaslAuthenticationFailed",
        "SecurityDisabled",
        "UnsupportedSaslMechanismError",
    ],
    "CH3023": [
        "ClusterAuthorizationFailedError",
        "DelegationTokenAuthorizationFailed",
        "GroupAuthorizationFailedError",
        "TopicAuthorizationFailedError",
        "TransactionalIdAuthorizationFailed",
    ],
}


def classes() -> dict[str, type[Exception]]:
    return {
        name: found
        for name, found in vars(kafka).items()
        if inspect.isclass(found) and issubclass(found, Exception) and name not in BASES
    }


def test_every_error_of_the_client_has_its_place() -> None:
    placed = [name for names in CODES.values() for name in names]
    assert sorted(placed) == sorted(classes())


@pytest.mark.parametrize("code", CODES)
def test_each_is_raised_in_our_words(code: str) -> None:
    for name in CODES[code]:
        kind = classes()[name]
        with pytest.raises(BrokerError) as caught, translating("try"):
            raise kind("why")
        assert caught.value.code == code, name
        assert caught.value.transient is (code == "CH3001"), name
        assert isinstance(caught.value.__cause__, kind)
        assert caught.value.fix


def test_what_the_system_raises_is_no_answer() -> None:
    for error in (ConnectionResetError("gone"), TimeoutError()):
        with pytest.raises(BrokerUnavailableError), translating("try"):
            raise error


def test_what_is_ours_passes_as_it_is() -> None:
    ours = BrokerError("ours")
    with pytest.raises(BrokerError) as caught, translating("try"):
        raise ours
    assert caught.value is ours
