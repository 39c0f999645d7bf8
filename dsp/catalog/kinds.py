"""The kinds of entity that the catalogue holds, and how they hang together. The structs are in entities."""

from enum import StrEnum

from dsp.catalog.entities import Advertiser, Audience, Campaign, ConversionRule, Creative, Deal, LineItem

Entity = Advertiser | Campaign | LineItem | Creative | Deal | Audience | ConversionRule


class Kind(StrEnum):
    """One kind of entity. Order is such that parents come before children, and rules before the goals that need one."""

    ADVERTISER = "advertiser"
    CONVERSION_RULE = "conversion_rule"
    CAMPAIGN = "campaign"
    LINE_ITEM = "line_item"
    CREATIVE = "creative"
    DEAL = "deal"
    AUDIENCE = "audience"

    @property
    def entity(self) -> type[Entity]:
        """Return the struct of this kind."""
        return _ENTITIES[self]

    @property
    def parent(self) -> "Kind | None":
        """Return the kind that entities of this kind belong to."""
        return _PARENTS.get(self)

    @property
    def parent_field(self) -> str:
        """Return the field that names the parent, such as `campaign_id`; "" where there is none."""
        return f"{self.parent}_id" if self.parent else ""

    @property
    def ancestors(self) -> "tuple[Kind, ...]":
        """Return the kinds above, the parent first."""
        return () if self.parent is None else (self.parent, *self.parent.ancestors)

    @property
    def plural(self) -> str:
        """Return the name of many, such as `line_items`: a field of Catalogue."""
        return f"{self}s"

    @property
    def words(self) -> str:
        """Return the name for people, such as `line item`."""
        return self.value.replace("_", " ")

    @property
    def path(self) -> str:
        """Return the name of many in a URL, such as `line-items`."""
        return self.plural.replace("_", "-")


_ENTITIES: dict[Kind, type[Entity]] = {
    Kind.ADVERTISER: Advertiser,
    Kind.CAMPAIGN: Campaign,
    Kind.LINE_ITEM: LineItem,
    Kind.CREATIVE: Creative,
    Kind.DEAL: Deal,
    Kind.AUDIENCE: Audience,
    Kind.CONVERSION_RULE: ConversionRule,
}
_PARENTS = {
    Kind.CAMPAIGN: Kind.ADVERTISER,
    Kind.LINE_ITEM: Kind.CAMPAIGN,
    Kind.CREATIVE: Kind.LINE_ITEM,
    Kind.AUDIENCE: Kind.ADVERTISER,
    Kind.CONVERSION_RULE: Kind.ADVERTISER,
}
