"""A record that no consumer can use, kept apart with the reason, so that it blocks nothing and can be looked at."""

import msgspec


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, tag="dead.1"):
    """What stood where in the log, who could not use it, and why. The same one may be parked several times."""

    topic: str
    partition: int
    offset: int
    appended_ms: int
    key: str
    value: bytes
    group: str
    fault: str

    @property
    def place(self) -> str:
        """Return where the record stood, in one word."""
        return f"{self.topic}/{self.partition}/{self.offset}"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(DeadLetter)


def encode(letter: DeadLetter) -> bytes:
    """Return the letter's stored form (MessagePack with a type tag)."""
    return _encoder.encode(letter)


def decode(data: bytes) -> DeadLetter:
    """Return the letter; raises msgspec.DecodeError for bytes that are none."""
    return _decoder.decode(data)
