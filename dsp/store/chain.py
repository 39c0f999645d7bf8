"""One line item with all that its decisions read: of a large catalogue, a few rows."""

from typing import Any, cast

from sqlalchemy.orm import Session

from dsp.catalog.entities import Campaign, Catalogue, LineItem
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.status import Status
from dsp.store.catalog import CatalogRepository, load_entities

_PAGE = 500


def load_chain(session: Session, line_item_id: int) -> Catalogue:
    """Return a catalogue of the line item alone, whatever its status; raises NotFoundError."""
    repository = CatalogRepository(session, "", 0)
    line_item = cast(LineItem, repository.get(Kind.LINE_ITEM, line_item_id))
    campaign = cast(Campaign, repository.get(Kind.CAMPAIGN, line_item.campaign_id))
    advertiser = repository.get(Kind.ADVERTISER, campaign.advertiser_id)
    rules = {"advertiser_id": advertiser.id, "status": Status.ACTIVE.value}
    found = {
        Kind.ADVERTISER: (advertiser,),
        Kind.CAMPAIGN: (campaign,),
        Kind.LINE_ITEM: (line_item,),
        Kind.CREATIVE: _all(repository, Kind.CREATIVE, {"line_item_id": line_item_id}),
        Kind.DEAL: load_entities(session, Kind.DEAL),
        Kind.CONVERSION_RULE: _all(repository, Kind.CONVERSION_RULE, rules),
    }
    return Catalogue(**{kind.plural: tuple(entities) for kind, entities in found.items()})  # type: ignore[arg-type]


def _all(repository: CatalogRepository, kind: Kind, filters: dict[str, Any]) -> list[Entity]:
    found: list[Entity] = []
    while True:
        page = repository.list(kind, filters, found[-1].id if found else 0, _PAGE)
        found += page
        if len(page) < _PAGE:
            return found
