"""Typed, frozen settings from one TOML file and the environment; every fault is reported at once.

Each process declares the tables it reads as msgspec structs. `DSP_<TABLE>_<FIELD>` in the environment overrides
a field, e.g. `DSP_BIDDER_BID_PORT=8080`. Unknown tables, fields and variables are refused.
"""

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping, Set
from math import inf
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from dsp.kernel.errors import ConfigError, Fault

ENV_PREFIX = "DSP_"
ENV_FILE = "DSP_CONFIG"
#: Every table any process reads. One file serves all of them, so each must know the others' names.
TABLES = ("platform", "up", "bidder", "api", "workers", "training")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

#: ISO 4217.
_CURRENCY = re.compile(r"[A-Z]{3}")
_CODE = "must be an ISO 4217 code such as USD"

_Section = TypeVar("_Section", bound=msgspec.Struct)


class Secret(str):
    """A string that never shows itself in a log, a repr or a report."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


#: What `key_from_hex` takes.
KEY_RULE = "must be 32 or more hexadecimal digits"


def key_from_hex(text: str) -> bytes:
    """Return a key of 16 bytes or more; empty where the text is none."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        return b""
    return key if len(key) >= 16 else b""


class SettingsError(ValueError):
    """Settings break rules that types cannot express: every one of them, with the fields that it is about."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def require(*rules: tuple[str, bool, str]) -> None:
    """Refuse a settings struct, in its `__post_init__`, with the message of each of its rules that does not hold.

    Args:
        rules: the fields that it is about, with commas between them; whether it holds; what must be.

    Raises:
        SettingsError: with every rule that does not hold.
    """
    faults = [Fault(fields, message) for fields, holds, message in rules if not holds]
    if faults:
        raise SettingsError(faults)


class Platform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all processes share. Relative paths are relative to the working directory."""

    data_dir: str = "var/dsp"  # the event log, the databases, the models: all that must outlive a process
    database_url: Secret = Secret("")  # postgresql://USER:PASSWORD@HOST/DATABASE; empty: SQLite inside data_dir
    #: The event log: `kafka://host:port,host:port/prefix`, a prefix of all topics' names; empty: inside data_dir.
    stream_url: str = ""
    stream_partitions: int = 8  # of each Kafka topic, for good: at most so many ledger workers share the notices
    stream_replicas: int = 1  # of each partition, where a Kafka topic is to be created; 3 bears the loss of any broker
    #: Leases, users' records, published blobs: `redis://[[user]:password@]host[:port][/db]`, or for a cluster
    #: `redis+cluster://host:port,host:port`; rediss is over TLS; empty: inside data_dir.
    cache_url: Secret = Secret("")
    currency: str = "USD"  # of the book and of every budget, for good: amounts that are there are not converted
    #: Units of the book's currency per unit of each other currency that exchanges may quote prices in.
    currency_rates: dict[str, float] = {}
    #: Sign notice tokens; the first signs, all verify. Empty: generated once and kept in data_dir.
    signing_keys: list[Secret] = []
    #: Of the hashes that make users' pseudonyms and decide what is left to chance, hexadecimal and the same for all
    #: bidders. Empty: the last of `signing_keys`, whose rotation then has all users unknown and their caps begun anew.
    hash_key: Secret = Secret("")
    #: One profile (TOML) for each exchange. Whoever reaches the bid port may use every one of them: keep only your own.
    exchanges_dir: str = "config/exchanges"
    #: Our id in the IAB's TCF vendor list, looked for in consent strings; 0: no consent is ever ours.
    privacy_vendor_id: int = 0
    log_level: str = "info"  # debug, info, warning or error

    def __post_init__(self) -> None:
        codes = [code for code in self.currency_rates if not _CURRENCY.fullmatch(code)]
        absurd = [code for code, rate in self.currency_rates.items() if not 0.0 < rate < inf]
        own = self.currency_rates.get(self.currency, 1.0)
        require(
            ("currency", _CURRENCY.fullmatch(self.currency) is not None, _CODE),
            ("currency_rates", not codes, f"{_CODE}, not {', '.join(codes)}"),
            ("currency_rates", not absurd, f"rates must be above 0 and finite; not so: {', '.join(absurd)}"),
            ("currency, currency_rates", own == 1.0, f"{self.currency} is the book's own, whose rate is 1, not {own}"),
            ("stream_partitions", self.stream_partitions >= 1, "must be above 0"),
            ("stream_replicas", self.stream_replicas >= 1, "must be above 0"),
            *[(f"signing_keys[{n}]", bool(key_from_hex(key)), KEY_RULE) for n, key in enumerate(self.signing_keys)],
            ("hash_key", not self.hash_key or bool(key_from_hex(self.hash_key)), KEY_RULE),
            ("privacy_vendor_id", self.privacy_vendor_id >= 0, "must be 0 or more"),
            ("log_level", self.log_level in LOG_LEVELS, f"must be one of {', '.join(LOG_LEVELS)}"),
        )

    @property
    def data_path(self) -> Path:
        """Return the data directory."""
        return Path(self.data_dir)

    @property
    def rates(self) -> dict[str, float]:
        """Return what a unit of each known currency is worth in the book's, which is one of them."""
        return {self.currency: 1.0, **self.currency_rates}


def load(sections: Mapping[str, type[_Section]], path: str | Path | None, env: Mapping[str, str]) -> dict[str, Any]:
    """Read the named tables of a TOML file, overridden by the environment.

    Args:
        sections: table name to the struct that describes it.
        path: the TOML file; None reads the file that `DSP_CONFIG` names, or uses defaults alone.
        env: the environment, usually `os.environ`.

    Raises:
        ConfigError: with every unknown, mistyped or missing field of every table, and every rule that one breaks.
    """
    faults: list[Fault] = []
    tables = _read(path or env.get(ENV_FILE) or None, faults)
    faults += [Fault(name, "unknown table") for name in tables if name not in TABLES]
    _override(tables, sections, env, faults)
    built = {name: build(name, struct, tables.get(name, {}), faults) for name, struct in sections.items()}
    if faults:
        raise ConfigError(faults)
    return built


def check(*makers: Callable[[], object]) -> None:
    """Make what settings name, such as a client for an address, only to hear whether they are refused.

    Raises:
        ConfigError: with every fault that one of the makers raised.
    """
    faults: list[Fault] = []
    for make in makers:
        try:
            make()
        except ConfigError as refused:
            faults += refused.faults
    if faults:
        raise ConfigError(faults)


def digest(settings: Mapping[str, msgspec.Struct]) -> str:
    """Return a short hash of the settings, for `dsp_config_info` and for logs."""
    return hashlib.sha256(msgspec.json.encode(settings, order="deterministic", enc_hook=str)).hexdigest()[:12]


def _read(path: str | Path | None, faults: list[Fault]) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        faults.append(Fault(str(path), str(fault)))
        return {}


def _override(
    tables: dict[str, Any],
    sections: Mapping[str, type[_Section]],
    env: Mapping[str, str],
    faults: list[Fault],
) -> None:
    for variable, text in env.items():
        if not variable.startswith(ENV_PREFIX) or variable == ENV_FILE:
            continue
        table, _, field = variable.removeprefix(ENV_PREFIX).lower().partition("_")
        if table not in TABLES:
            faults.append(Fault(variable, f"no such table; tables are {', '.join(TABLES)}"))
        elif table in sections:
            hint = get_type_hints(sections[table]).get(field)
            # A list or a table is written as JSON; anything else is taken as text and converted below.
            tables.setdefault(table, {})[field] = text if hint is None else _from_text(text, hint)


def _from_text(text: str, hint: Any) -> Any:
    if getattr(hint, "__origin__", None) in (list, dict, tuple):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
    return text


def build(name: str, struct: type[_Section], values: Any, faults: list[Fault]) -> _Section | None:
    """Make a settings struct of a table's values, or add every fault to `faults`, each field prefixed by `name`."""
    if not isinstance(values, dict):
        faults.append(Fault(name, "must be a table"))
        return None
    hints = get_type_hints(struct)
    converted: dict[str, Any] = {}
    found = len(faults)
    for field, value in values.items():
        if field not in hints:
            faults.append(Fault(f"{name}.{field}", "unknown setting"))
            continue
        try:
            converted[field] = msgspec.convert(value, hints[field], strict=False, dec_hook=_secret)
        except msgspec.ValidationError as fault:
            faults.append(Fault(f"{name}.{field}", str(fault)))
    missing = {field.name for field in msgspec.structs.fields(struct) if field.required} - values.keys()
    faults += [Fault(f"{name}.{field}", "is required") for field in sorted(missing)]
    if missing:
        return None
    try:
        made = struct(**converted)
    except SettingsError as fault:
        # What was refused above has its default here, which nobody asked for.
        faults += _placed(name, fault.faults, values.keys() - converted.keys())
        return None
    return made if len(faults) == found else None


def _placed(name: str, broken: list[Fault], refused: Set[str]) -> list[Fault]:
    """Return what a table's rules say, with the table's name before each field, but of what was refused already."""
    about = [(one.field.split(", "), one.message) for one in broken]
    return [
        Fault(", ".join(f"{name}.{field}" for field in fields), message)
        for fields, message in about
        if refused.isdisjoint(fields)
    ]


def _secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise ValueError("must be text")
