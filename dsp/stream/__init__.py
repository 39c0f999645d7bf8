"""The event log: one port, an embedded implementation, and (later) Kafka."""
