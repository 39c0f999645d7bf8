"""Read a request that is not typed as the specification says, as far as its meaning is plain.

The fast decoder is tried first; this reader handles what it refuses. Spelling is mended: numbers in strings, strings
that are numbers, flags in words, null for absence, one value where a list belongs, and an empty list for an empty
object or the reverse, which languages that do not tell them apart write. Other shapes are not: an object or a list
where a single value belongs (or the reverse) is refused, but for objects that only describe and for all that is in an
`ext`, which no specification gives a shape: they are then read as absent.
"""

import json
from collections.abc import Callable
from math import isfinite
from typing import Any

import msgspec
from msgspec import UNSET, inspect

from dsp.kernel.errors import DecodeError

#: Of decoded JSON and its path; UNSET is a field that says nothing: the struct's default applies.
_Reader = Callable[[Any, str], Any]
#: Objects that neither restrict a bid nor are bid on.
_DESCRIPTIVE = frozenset({"ext", "source", "schain", "geo", "publisher", "content", "sua", "platform"})
#: A flag is a number; some senders spell it.
_FLAGS = {"true": 1.0, "false": 0.0}


def reader(struct: type[msgspec.Struct]) -> _Reader:
    """Return a function that reads decoded JSON, given with its path for error messages, into the struct.

    Raises (the returned function):
        DecodeError: `wrong_type`, naming the path.
    """
    return _reader(inspect.type_info(struct))


def _refuse(path: str, wanted: str) -> DecodeError:
    return DecodeError(f"{path} must be {wanted}", reason="wrong_type")


def _reader(kind: inspect.Type) -> _Reader:
    if isinstance(kind, inspect.UnionType):
        # The unions of the wire are `X | None` and `str | int`: in both, reading the richer member is enough.
        wanted = (inspect.StructType, inspect.StrType, inspect.IntType)
        return next(_reader(member) for choice in wanted for member in kind.types if isinstance(member, choice))
    if isinstance(kind, inspect.StructType):
        return _struct_reader(kind)
    if isinstance(kind, inspect.ListType):
        return _list_reader(_reader(kind.item_type), list, objects=isinstance(kind.item_type, inspect.StructType))
    if isinstance(kind, inspect.VarTupleType):
        return _list_reader(_reader(kind.item_type), tuple, objects=isinstance(kind.item_type, inspect.StructType))
    if isinstance(kind, inspect.StrType):
        return _read_str if kind.max_length is None else _id_reader(kind.max_length)
    if isinstance(kind, inspect.IntType):
        return _read_int
    if isinstance(kind, inspect.FloatType):
        return _read_float
    return _read_raw


def _struct_reader(kind: inspect.StructType) -> _Reader:
    fields = [(field.encode_name, field.name, _reader(field.type)) for field in kind.fields]
    make: Callable[..., Any] = kind.cls

    def read(value: Any, path: str) -> Any:
        if value is None or value == []:
            return UNSET
        if not isinstance(value, dict):
            if path.rpartition(".")[2] in _DESCRIPTIVE:
                return UNSET
            raise _refuse(path, "an object")
        found: dict[str, Any] = {}
        for key, name, read_field in fields:
            if key in value:
                try:
                    got = read_field(value[key], f"{path}.{key}")
                except DecodeError:
                    if not path.endswith(".ext"):
                        raise
                    continue
                if got is not UNSET:
                    found[name] = got
        return make(**found)

    return read


def _list_reader(read_item: _Reader, make: Callable[[Any], Any], *, objects: bool) -> _Reader:
    def read(value: Any, path: str) -> Any:
        if value is None or value == {}:
            return UNSET
        if not isinstance(value, list):
            if objects or isinstance(value, dict):
                raise _refuse(path, "a list")
            value = [value]
        items = (read_item(item, f"{path}[]") for item in value)
        return make(item for item in items if item is not UNSET)

    return read


def _id_reader(chars_max: int) -> _Reader:
    def read(value: Any, path: str) -> Any:
        if value is None:
            return UNSET
        if not isinstance(value, str):
            raise _refuse(path, "a string")
        if len(value) > chars_max:
            raise DecodeError(f"{path} is longer than {chars_max} characters", reason="id_too_long")
        if value != _whole(value):
            raise DecodeError(f"{path} holds half of a character", reason="json_broken")
        return value

    return read


def _whole(text: str) -> str:
    """Return a text without halves of characters, which nothing could encode; a question mark stands for each."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _read_str(value: Any, path: str) -> Any:
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, dict | list):
        raise _refuse(path, "a string")
    if value is None or isinstance(value, bool):
        return UNSET
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _read_int(value: Any, path: str) -> Any:
    number = _read_float(value, path)
    if number is UNSET or not isfinite(number) or abs(number) >= 2**31:
        return UNSET
    return int(number)


def _read_float(value: Any, path: str) -> Any:
    """Read a number; text that is none becomes NaN, which no floor and no price accepts."""
    if isinstance(value, dict | list):
        raise _refuse(path, "a number")
    if value is None or value == "":
        return UNSET
    if isinstance(value, str):
        # Underscores are Python's: "2_6" is a list of its sender's, not 26.
        value = _FLAGS.get(value.strip().lower(), value.replace("_", "?"))
    try:
        return float(value)
    except (ValueError, OverflowError):
        return float("nan")


def _read_raw(value: Any, path: str) -> Any:
    return UNSET if value is None else msgspec.Raw(json.dumps(value).encode())
