"""A part of the catalogue with all that its line items' decisions read: of a large catalogue, a few rows."""

from collections.abc import Collection, Mapping
from typing import Any, cast

from sqlalchemy.orm import Session

from dsp.catalog.entities import Campaign, Catalogue, LineItem
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.status import Status
from dsp.store.catalog import CatalogReader, load_entities

_PAGE = 500


def load_chain(session: Session, line_item_id: int) -> Catalogue:
    """Return a catalogue of the line item alone, whatever its status; raises NotFoundError."""
    CatalogReader(session).get(Kind.LINE_ITEM, line_item_id)
    return load_part(session, {"line_item_id": line_item_id})


def load_part(session: Session, ids: Mapping[str, int]) -> Catalogue:
    """Return a catalogue of the line items that have these ids, their own or an ancestor's, whatever their status.

    Args:
        ids: by `line_item_id`, `campaign_id` or `advertiser_id`, at least one of them.
    """
    reader = CatalogReader(session)
    line_items = _all(reader, Kind.LINE_ITEM, {"id" if name == "line_item_id" else name: ids[name] for name in ids})
    campaigns = reader.get_all(Kind.CAMPAIGN, {cast(LineItem, one).campaign_id for one in line_items})
    advertisers = reader.get_all(Kind.ADVERTISER, {cast(Campaign, one).advertiser_id for one in campaigns.values()})
    rules = [{"advertiser_id": one, "status": Status.ACTIVE.value} for one in advertisers]
    found: dict[Kind, Collection[Entity]] = {
        Kind.ADVERTISER: advertisers.values(),
        Kind.CAMPAIGN: campaigns.values(),
        Kind.LINE_ITEM: line_items,
        Kind.CREATIVE: _all(reader, Kind.CREATIVE, ids),
        Kind.DEAL: load_entities(session, Kind.DEAL)[0],
        Kind.CONVERSION_RULE: [rule for one in rules for rule in _all(reader, Kind.CONVERSION_RULE, one)],
    }
    return Catalogue(**{kind.plural: tuple(entities) for kind, entities in found.items()})  # type: ignore[arg-type]


def _all(catalogue: CatalogReader, kind: Kind, filters: Mapping[str, Any]) -> list[Entity]:
    found: list[Entity] = []
    while True:
        page = catalogue.list(kind, filters, found[-1].id if found else 0, _PAGE)
        found += page
        if len(page) < _PAGE:
            return found
