"""The log of many machines: Apache Kafka, by aiokafka."""

from choreo.errors import ConfigurationError

try:
    from choreo.adapters.kafka.broker import KafkaBroker
    from choreo.adapters.kafka.settings import KafkaSecurity, KafkaSettings
    from choreo.adapters.kafka.topics import KafkaTopics
except ModuleNotFoundError as exc:
    if exc.name != "aiokafka":
        raise
    raise ConfigurationError(
        "Kafka needs its client", code="CH1021", fix="pip install 'choreo[kafka]'"
    ) from exc

__all__ = ["KafkaBroker", "KafkaSecurity", "KafkaSettings", "KafkaTopics"]
