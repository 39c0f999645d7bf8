"""Turns untrusted values into a struct, reporting every refused field with its path. Which values are refused
beyond their type is for the caller's rules (dsp.catalog.validate).
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from dsp.kernel.errors import Fault

#: Check a value and return it normalised; raise ValueError with a sentence to refuse it.
FieldRule = Callable[[Any], Any]
#: Check a built struct and return it normalised; add what is wrong to the list, paths below the given prefix.
StructRule = Callable[[Any, str, list[Fault]], Any]


class ItemsError(ValueError):
    """Items of a list are refused: each by its number, and with the reason."""

    def __init__(self, refused: Sequence[tuple[int, str]]) -> None:
        super().__init__("; ".join(message for _, message in refused))
        self.refused = refused


#: No list in the catalogue needs more.
ITEMS_MAX = 10_000
_REFUSED: Any = object()


class Rules:
    """The rules of each struct: by field, and across fields."""

    def __init__(
        self, fields: Mapping[type, Mapping[str, FieldRule]], structs: Mapping[type, StructRule] | None = None
    ) -> None:
        self._fields = fields
        self._structs = structs or {}

    def build(
        self, struct: type, values: Any, path: str, faults: list[Fault], before: msgspec.Struct | None = None
    ) -> Any:
        """Return the struct; when values are refused, add the faults and return something meaningless.

        Beside `before` it is judged by what is not the same: a rule that came later is not held against a field that
        nobody touches.
        """
        if not isinstance(values, Mapping):
            return _refuse(faults, path, f"must be an object, not {_name(values)}")
        found = len(faults)
        known = {field.name: field for field in _struct_fields(struct)}
        hints = _hints(struct)
        rules = self._fields.get(struct, {})
        kept = {} if before is None else _same(before, values)
        built: dict[str, Any] = dict(kept)
        faults += [Fault(_join(path, str(name)[:64]), "unknown field") for name in values if name not in known]
        for name, field in known.items():
            at = _join(path, name)
            if name in kept:
                continue
            if name in values:
                already = len(faults)
                value = self._field(values[name], hints[name], rules.get(name), at, faults)
                if len(faults) == already or isinstance(value, dict):  # of a dictionary, what was right is left
                    built[name] = value
            elif field.required:
                faults.append(Fault(at, "is required"))
        refused = [one.field for one in faults[found:]]
        made = self._whole(struct, built, path, faults, refused, self._standing(before, path, kept))
        return _REFUSED if len(faults) > found else made

    def _standing(self, before: msgspec.Struct | None, path: str, kept: Mapping[str, Any]) -> list[Fault]:
        """Return what fields that stay as they are were at fault in already, with others."""
        rule = self._structs.get(type(before))
        found: list[Fault] = []
        if rule is not None:
            rule(before, path, found)
        return [one for one in found if any(_within(one.field, _join(path, name)) for name in kept)]

    def _whole(
        self,
        struct: type,
        built: dict[str, Any],
        path: str,
        faults: list[Fault],
        refused: Sequence[str],
        standing: Sequence[Fault],
    ) -> Any:
        """Build the struct of the fields that were right, and check what holds across fields as far as that goes."""
        if any(field.required and field.name not in built for field in _struct_fields(struct)):
            return _REFUSED
        made = struct(**built)
        rule = self._structs.get(struct)
        if rule is None:
            return made
        across: list[Fault] = []
        made = rule(made, path, across)
        # A field that was refused already is missing here, which must not be held against it again.
        faults += [one for one in across if one not in standing and not any(_within(one.field, at) for at in refused)]
        return made

    def _field(self, value: Any, hint: Any, rule: FieldRule | None, path: str, faults: list[Fault]) -> Any:
        found = len(faults)
        converted = self._convert(value, hint, path, faults)
        if rule is None or converted is None or len(faults) > found:
            return converted
        try:
            return rule(converted)
        except ItemsError as fault:
            faults += [Fault(f"{path}[{number}]", message) for number, message in fault.refused]
            return _REFUSED
        except ValueError as fault:
            return _refuse(faults, path, str(fault))

    def _convert(self, value: Any, hint: Any, path: str, faults: list[Fault]) -> Any:
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in (Union, UnionType):
            if value is None:
                return None
            return self._convert(value, arguments[0], path, faults)
        if origin is tuple:
            return self._items(value, arguments[0], path, faults)
        if origin is dict:
            return self._entries(value, arguments, path, faults)
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            return self.build(hint, value, path, faults)
        return _scalar(value, hint, path, faults)

    def _items(self, values: Any, hint: Any, path: str, faults: list[Fault]) -> Any:
        if not isinstance(values, list | tuple):
            return _refuse(faults, path, f"must be a list, not {_name(values)}")
        if len(values) > ITEMS_MAX:
            return _refuse(faults, path, f"must have at most {ITEMS_MAX} items")
        return tuple([self._convert(value, hint, f"{path}[{i}]", faults) for i, value in enumerate(values)])

    def _entries(self, values: Any, hints: tuple[Any, ...], path: str, faults: list[Fault]) -> Any:
        if not isinstance(values, Mapping):
            return _refuse(faults, path, f"must be an object, not {_name(values)}")
        entries = {}
        for name, value in values.items():
            at = _join(path, str(name)[:64])
            key = self._convert(name, hints[0], at, faults)
            if key is not _REFUSED:
                entries[key] = self._convert(value, hints[1], at, faults)
        return {key: value for key, value in entries.items() if value is not _REFUSED}


#: Made anew for every value, these two would be most of the work.
_hints = cache(get_type_hints)
_struct_fields = cache(msgspec.structs.fields)


def _same(before: msgspec.Struct, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields whose values are those of before."""
    shown = msgspec.to_builtins(before)
    return {name: getattr(before, name) for name in shown.keys() & values.keys() if _equal(shown[name], values[name])}


def _equal(one: Any, other: Any) -> bool:
    """Tell whether two values are written alike in JSON, where 1 is not true, and a tuple is a list."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and one == other


def _scalar(value: Any, hint: type, path: str, faults: list[Fault]) -> Any:
    if issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            return _refuse(faults, path, f"must be one of {', '.join(str(member.value) for member in hint)}")
    # bool is an int to Python, and 5.0 an int to a lenient parser; neither is one where money is meant.
    if type(value) is not hint:
        wanted = {int: "a whole number", str: "a string", bool: "true or false"}[hint]
        return _refuse(faults, path, f"must be {wanted}, not {_name(value)}")
    return value


def _refuse(faults: list[Fault], path: str, message: str) -> Any:
    faults.append(Fault(path, message))
    return _REFUSED


def _within(field: str, other: str) -> bool:
    return field == other or field.startswith((f"{other}.", f"{other}["))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _name(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a decimal number", str: "a string"}
    return names.get(type(value)) or ("an object" if isinstance(value, Mapping) else "a list")
