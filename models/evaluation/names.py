"""Columns and their values in words: what a hash or an id in a feature row stands for, as far as it can be told."""

from collections.abc import Iterable, Mapping

from dsp.kernel.money import MICROS_PER_UNIT
from dsp.openrtb.opportunity import Opportunity
from dsp.snapshot.build import Snapshot
from models.features.columns import DEVICE_CODES, FORMAT_CODES, GOAL_CODES
from models.features.encode import text_hash, tier_one

#: Content categories of IAB's list at the top level, IAB1 to IAB26.
_IAB_CATEGORIES = 26
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
#: Columns whose values are hashes of strings; those that end in a number are a set's.
_HASHED = frozenset(
    (
        *("exchange", "placement", "inventory", "domain", "publisher", "content_language", "content_category"),
        *("language", "os", "browser", "make", "model", "country", "region", "city", "segment"),
        *("ad_category", "ad_language", "clicked_category", "converted_category"),
    )
)
_FLAGS = frozenset(("first_price", "interstitial", "rewarded", "skippable", "user_known"))
_CODES: Mapping[str, Mapping[int, str]] = {
    "device": {code: kind.value for kind, code in DEVICE_CODES.items()},
    "format": {code: kind.value for kind, code in FORMAT_CODES.items()},
    "goal_kind": {code: kind.value for kind, code in GOAL_CODES.items()},
    "weekday": dict(enumerate(_WEEKDAYS)),
}
#: Columns that hold the id of an entity, and which.
_ENTITIES = {
    "advertiser_id": "advertiser",
    "campaign_id": "campaign",
    "line_item_id": "line item",
    "creative_id": "creative",
    "history_campaign": "campaign",
    "clicked_advertiser": "advertiser",
    "clicked_campaign": "campaign",
    "clicked_creative": "creative",
    "converted_advertiser": "advertiser",
}
_WORDS = {
    "floor_micros_cpm": "floor (CPM)",
    "history_campaign": "campaigns seen",
    "history_age_seconds": "age of impressions seen",
    "history_age_seconds_1": "seconds since the last impression",
    "seen_campaign": "this campaign seen",
    "exposures": "impressions seen",
    "clicks": "impressions clicked",
    "conversions": "impressions that converted",
    "click_age_seconds": "seconds since the last click",
    "conversion_age_seconds": "seconds since the last conversion",
    "clicked_advertiser": "advertisers clicked",
    "clicked_campaign": "campaigns clicked",
    "clicked_creative": "creatives clicked",
    "clicked_category": "categories clicked",
    "converted_advertiser": "advertisers converted for",
    "converted_category": "categories converted for",
    "os": "operating system",
    "inventory": "kind of inventory",
    "model": "device model",
    "make": "device make",
    "size": "slot width x ad width",
}


def words(name: str) -> str:
    """Return the name of a column, a family of columns or a group of statistics for people."""
    if name in _WORDS:
        return _WORDS[name]
    return name.replace("_x_", " x ").removesuffix("_id").replace("_", " ")


class Names:
    """Knows strings by their hashes, and entities by their ids. What it does not know stays a hash or an id."""

    def __init__(self) -> None:
        self._strings: dict[int, str] = {}
        self._entities: dict[str, dict[int, str]] = {}
        self.learn(f"IAB{number}" for number in range(1, _IAB_CATEGORIES + 1))

    def learn(self, strings: Iterable[str]) -> None:
        """Know these strings from now on."""
        self._strings.update((text_hash(text), text) for text in strings if text)

    def learn_opportunity(self, seen: Opportunity) -> None:
        """Know the strings that a feature row is made of, as models.features.encode takes them."""
        self.learn((seen.exchange, seen.placement, seen.inventory, seen.domain, seen.bundle, seen.publisher))
        self.learn((seen.content_language, seen.os, seen.browser, seen.make, seen.model, seen.language))
        self.learn((seen.country, seen.region, seen.city, *seen.segments))
        self.learn(tier_one(category) for category in seen.categories)

    def learn_snapshot(self, snapshot: Snapshot) -> None:
        """Know the entities of a snapshot, and the strings of their targeting and categories."""
        kinds = {
            "advertiser": snapshot.advertisers,
            "campaign": snapshot.campaigns,
            "line item": snapshot.line_items,
            "creative": snapshot.creatives,
        }
        self._entities = {kind: {entity.id: entity.name for entity in entities} for kind, entities in kinds.items()}
        for line_item in snapshot.line_items:
            for clause in line_item.targeting.clauses.values():
                values = (*clause.include, *clause.exclude)
                self.learn((*values, *map(tier_one, values)))
            self.learn(segment for group in line_item.targeting.audience for segment in group)
        self.learn(creative.language or "" for creative in snapshot.creatives)
        owned = [advertiser.categories for advertiser in snapshot.advertisers]
        owned += [creative.categories for creative in snapshot.creatives]
        self.learn(tier_one(category) for categories in owned for category in categories)

    def value(self, column: str, value: int) -> str:
        """Return what a column holds in words."""
        stem = column.rstrip("0123456789").rstrip("_")
        if stem in _HASHED:
            return "none" if value == 0 else self._strings.get(value, f"#{value:016x}")
        if stem in _ENTITIES:
            return "none" if value == 0 else self._entity(_ENTITIES[stem], value)
        if column in _FLAGS:
            return "yes" if value else "no"
        if column in _CODES:
            return _CODES[column].get(value, str(value))
        if column == "hour":
            return f"{value}:00"
        if column == "floor_micros_cpm":
            return f"{value / MICROS_PER_UNIT:.2f}"
        return "none" if stem == "history_age_seconds" and value < 0 else f"{value:,}"

    def _entity(self, kind: str, number: int) -> str:
        name = self._entities.get(kind, {}).get(number)
        return str(number) if name is None else f"{number} {name}"
