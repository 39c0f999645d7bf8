"""Which event log the settings ask for."""

from dsp.kernel.clock import Clock
from dsp.kernel.config import Platform
from dsp.kernel.errors import ConfigError, Fault
from dsp.stream.local import LocalEventLog
from dsp.stream.port import EventLog


def event_log(platform: Platform, clock: Clock) -> EventLog:
    """Return the event log, not yet open: on Kafka where `platform.stream_url` is set, else in the data directory.

    Raises:
        ConfigError: the address is none, or what it needs is not installed.
    """
    if not platform.stream_url:
        return LocalEventLog(platform.data_path / "log", clock)
    try:
        from dsp.stream.kafka.cluster import parse
        from dsp.stream.kafka.log import KafkaEventLog
    except ImportError as fault:
        raise ConfigError([Fault("platform.stream_url", f"needs the extra `production`: {fault}")]) from fault
    try:
        cluster = parse(platform.stream_url, platform.stream_partitions, platform.stream_replicas)
    except ValueError as fault:
        raise ConfigError([Fault("platform.stream_url", str(fault))]) from fault
    return KafkaEventLog(cluster)
