"""The event log: one port, embedded or on Kafka."""
