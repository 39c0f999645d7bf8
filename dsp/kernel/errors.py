"""The one tree of errors; a reason for not bidding is not an error (see dsp.catalog.reasons).

DspError
+-- InputError            what a caller sent is wrong           400
|   +-- DecodeError       not the format it claims to be        400
|   +-- ValidationError   the right format, refused values      422
|   +-- TokenError        a notice token that is not ours       400
+-- NotFoundError         no such entity                        404
+-- ConflictError         the entity changed meanwhile          412
+-- TransitionError       the life cycle forbids it             409
+-- ConfigError           settings refused, all faults at once  -
+-- BundleError           a model bundle is broken or tampered  -
+-- UnavailableError      a dependency is away; retriable       503
    +-- ClockError        it will not deal with our clock       503
"""

from dataclasses import dataclass


class DspError(Exception):
    """Root of the tree. Subclasses state the HTTP status, and whether a retry may help."""

    status: int = 500
    retriable: bool = False


class InputError(DspError):
    """What a caller sent is wrong; `reason` is a short label fit for a metric."""

    status = 400

    def __init__(self, message: str, *, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason


class DecodeError(InputError):
    """The bytes are not the format they claim to be."""


class TokenError(InputError):
    """A notice token is forged, foreign or of another kind."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One refused field: `field` is a path such as `budget.daily_micros`."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class ValidationError(InputError):
    """Values are refused; `faults` lists every one with its field."""

    status = 422

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


class NotFoundError(DspError):
    """The entity does not exist."""

    status = 404


class ConflictError(DspError):
    """The entity was changed by somebody else since it was read."""

    status = 412


class TransitionError(DspError):
    """The life cycle does not allow this change of status."""

    status = 409


class ConfigError(DspError):
    """The settings are refused; the message lists every fault."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("configuration refused:\n" + "\n".join(f"  {fault}" for fault in faults))
        self.faults = faults


class BundleError(DspError):
    """A model bundle is incomplete, corrupt or tampered with."""


class UnavailableError(DspError):
    """A dependency does not answer; trying again may help."""

    status = 503
    retriable = True


class ClockError(UnavailableError):
    """A dependency refuses us because our clock and its own are too far apart."""
