"""The catalogue as supply sees it, to tell what could be bought from what may be."""

import msgspec

from dsp.catalog.entities import Catalogue
from dsp.catalog.status import Status
from dsp.catalog.terms import Flight

_ALWAYS = Flight(start_ms=0)


def unbound(catalogue: Catalogue) -> Catalogue:
    """Return the catalogue as if all of it ran at all hours: supply is there whether or not it may be bought."""
    replace = msgspec.structs.replace
    return replace(
        catalogue,
        advertisers=tuple(replace(one, status=Status.ACTIVE) for one in catalogue.advertisers),
        campaigns=tuple(replace(one, status=Status.ACTIVE, flight=_ALWAYS) for one in catalogue.campaigns),
        line_items=tuple(
            replace(one, status=Status.ACTIVE, flight=_ALWAYS, dayparts=()) for one in catalogue.line_items
        ),
    )
