"""One line item with all that its decisions read: of a large catalogue, a few rows."""

from typing import Any, cast

from sqlalchemy.orm import Session

from dsp.catalog.entities import Campaign, Catalogue, LineItem
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.status import Status
from dsp.store.catalog import CatalogReader, load_entities

_PAGE = 500


def load_chain(session: Session, line_item_id: int) -> Catalogue:
    """Return a catalogue of the line item alone, whatever its status; raises NotFoundError."""
    catalogue = CatalogReader(session)
    line_item = cast(LineItem, catalogue.get(Kind.LINE_ITEM, line_item_id))
    campaign = cast(Campaign, catalogue.get(Kind.CAMPAIGN, line_item.campaign_id))
    advertiser = catalogue.get(Kind.ADVERTISER, campaign.advertiser_id)
    rules = {"advertiser_id": advertiser.id, "status": Status.ACTIVE.value}
    found = {
        Kind.ADVERTISER: (advertiser,),
        Kind.CAMPAIGN: (campaign,),
        Kind.LINE_ITEM: (line_item,),
        Kind.CREATIVE: _all(catalogue, Kind.CREATIVE, {"line_item_id": line_item_id}),
        Kind.DEAL: load_entities(session, Kind.DEAL)[0],
        Kind.CONVERSION_RULE: _all(catalogue, Kind.CONVERSION_RULE, rules),
    }
    return Catalogue(**{kind.plural: tuple(entities) for kind, entities in found.items()})  # type: ignore[arg-type]


def _all(catalogue: CatalogReader, kind: Kind, filters: dict[str, Any]) -> list[Entity]:
    found: list[Entity] = []
    while True:
        page = catalogue.list(kind, filters, found[-1].id if found else 0, _PAGE)
        found += page
        if len(page) < _PAGE:
            return found
