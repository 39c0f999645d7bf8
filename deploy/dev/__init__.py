"""Real servers for development and tests, without Docker or root: Kafka, Valkey and PostgreSQL, one file each."""

import socket


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
