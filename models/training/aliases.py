"""Which model serves, which served before, and which predicts in shadow. A version is proven before it is named."""

from contextlib import suppress
from pathlib import Path

from dsp import registry
from dsp.kernel.errors import BundleError, ConflictError
from models.serving import bundle


def named(root: Path, alias: str) -> str | None:
    """Return the version that an alias names, None where it names none: what is damaged is no version's."""
    with suppress(BundleError):
        return registry.resolve(root, alias)
    return None


def loaded(root: Path, alias: str) -> bundle.Bundle | None:
    """Return the bundle that an alias names; None where it names none, or one that cannot be read."""
    version = named(root, alias)
    with suppress(BundleError):
        return bundle.load(root, version) if version is not None else None
    return None


def fault(root: Path, alias: str) -> str | None:
    """Return why what an alias names cannot be read; None where it can, or where the alias names nothing."""
    try:
        version = registry.resolve(root, alias)
        if version is not None:
            bundle.load(root, version)
    except BundleError as found:
        return str(found)
    return None


def promote(root: Path, version: str) -> None:
    """Let a version serve, and remember what served before. Doing it again changes nothing.

    The champion's alias moves last: whoever is killed in between leaves the champion as it was.

    Raises:
        BundleError: the version cannot serve.
    """
    bundle.load(root, version)
    champion = named(root, bundle.CHAMPION)
    if champion != version:
        _remember(root, champion)
        registry.set_alias(root, bundle.CHAMPION, version)
    registry.clear_alias(root, bundle.CHALLENGER)  # it was compared with another champion


def rollback(root: Path) -> str:
    """Let what served before the champion serve again, and return its version.

    Raises:
        ConflictError: nothing served before.
        BundleError: it cannot serve.
    """
    previous = named(root, bundle.PREVIOUS)
    if previous is None:
        raise ConflictError("there is no previous champion")
    bundle.load(root, previous)
    champion = named(root, bundle.CHAMPION)
    registry.set_alias(root, bundle.CHAMPION, previous)  # first: killed after it, we have rolled back
    _remember(root, champion)
    registry.clear_alias(root, bundle.CHALLENGER)
    return previous


def shadow(root: Path, version: str | None) -> None:
    """Let a version predict beside the champion, without a say in bids; None ends that.

    Raises:
        BundleError: the version cannot serve.
        ConflictError: it serves; beside itself it would keep the place of others for days.
    """
    if version is None:
        registry.clear_alias(root, bundle.CHALLENGER)
        return
    if version == named(root, bundle.CHAMPION):
        raise ConflictError(f"{version} is the champion")
    bundle.load(root, version)
    registry.set_alias(root, bundle.CHALLENGER, version)


def _remember(root: Path, champion: str | None) -> None:
    if champion is None:
        return
    with suppress(BundleError):  # what cannot serve is nothing to return to
        registry.set_alias(root, bundle.PREVIOUS, champion)
