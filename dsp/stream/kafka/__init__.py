"""The event log on Apache Kafka, through aiokafka: the product of several hosts, where dsp.stream.local serves one."""
