"""Real servers for tests, found or started in seconds: a mock of a broker proves nothing.

    with KafkaServer() as kafka:
        broker = KafkaBroker(KafkaSettings(bootstrap_servers=kafka.bootstrap))

Looked for in this order: one that runs and is named in the environment; what is installed on
this machine. Where there is none, the test is skipped with a line that says what is missing;
with `CI` set it fails. Servers that were started listen on the loopback only, and end with the
process that started them, however that ends.
"""

from choreo.testing.servers.kafka import KafkaServer
from choreo.testing.servers.program import (
    Program,
    absent,
    cache_folder,
    free_ports,
    locked,
    own_folder,
)
from choreo.testing.servers.registry import RegistryServer

__all__ = [
    "KafkaServer",
    "Program",
    "RegistryServer",
    "absent",
    "cache_folder",
    "free_ports",
    "locked",
    "own_folder",
]
