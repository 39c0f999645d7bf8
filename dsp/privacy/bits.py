"""Read bit fields out of web-safe base64, as TCF and GPP strings pack them."""

import binascii
from base64 import urlsafe_b64decode

#: The longest string worth reading, or remembering. Real ones stay below 2,000 characters.
CHARS_MAX = 4_096
#: The longest Fibonacci code worth reading. A longer one is a number beyond three millions, and there are a few dozen
#: sections: what goes on for thousands of bits was made to be slow.
_FIBONACCI_BITS_MAX = 32


class BitsError(ValueError):
    """The text is not base64, or ends before the bits that were asked for."""


class Bits:
    """Bits of one string, read by position; reading past the end is an error, never a zero or a one."""

    __slots__ = ("_value", "length", "position")

    def __init__(self, text: str) -> None:
        text = text.rstrip("=")
        # Six bits a character: "A" is six zeros, so padding with it adds nothing but zeros past the end.
        try:
            data = urlsafe_b64decode(text + "A" * (-len(text) % 4))
        except (binascii.Error, ValueError) as fault:
            raise BitsError("not base64") from fault
        if len(data) * 8 < len(text) * 6:  # the decoder drops characters outside the alphabet
            raise BitsError("not base64")
        self.length = len(text) * 6
        self._value = int.from_bytes(data, "big") >> (len(data) * 8 - self.length)
        self.position = 0

    def at(self, offset: int, width: int) -> int:
        """Return the number in the `width` bits from `offset` on."""
        end = offset + width
        if end > self.length:
            raise BitsError("cut short")
        return (self._value >> (self.length - end)) & ((1 << width) - 1)

    def take(self, width: int) -> int:
        """Return the next number and move on."""
        value = self.at(self.position, width)
        self.position += width
        return value

    def take_fibonacci(self) -> int:
        """Return the next Fibonacci-coded number and move on: its code ends with the first two ones in a row."""
        total, previous = 0, 0
        step, after = 1, 2
        for _ in range(_FIBONACCI_BITS_MAX):
            bit = self.take(1)
            if bit and previous:
                return total
            total += bit * step
            previous, step, after = bit, after, step + after
        raise BitsError("a number without an end")
