"""Runs the bidder's funnel on one request against the catalogue as it is, and says what became of every line item.

Prices, money and lots are the bidder's own: what is "left" here was worth scoring, not surely worth a bid. So is what
users have seen: caps are applied to the impressions that the caller names.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import NamedTuple, cast

import msgspec
from sqlalchemy.orm import Session, sessionmaker

from dsp.catalog.entities import Campaign, LineItem
from dsp.catalog.exposures import pack
from dsp.catalog.kinds import Kind
from dsp.catalog.reasons import BY_LABEL
from dsp.catalog.user import Exposure, UserRecord
from dsp.funnel import Explanation, explain, offered
from dsp.kernel.config import Platform
from dsp.kernel.errors import ConfigError, Fault, InputError, UnavailableError, ValidationError
from dsp.openrtb.profile import Profile, load_profiles
from dsp.pacing.columns import Paced, align
from dsp.snapshot.build import Snapshot, build
from dsp.store.catalog import CatalogReader, revision
from dsp.store.chain import load_part
from dsp.store.replica import Replica


class Seen(NamedTuple):
    """An impression that the user is to have seen."""

    line_item_id: int
    at_ms: int


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why not: the label that metrics carry, and a sentence for people."""

    label: str
    sentence: str


class LineItemVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Where and why a line item was lost; both null for one that was worth scoring."""

    line_item_id: int
    name: str
    stage: str | None
    reason: Reason | None


class ImpressionReport(msgspec.Struct, frozen=True, kw_only=True):
    """One impression: how many line items each stage left, how many each reason took, and the verdict on each.

    All of them count those alone that were asked for.
    """

    imp_id: str
    refused: Reason | None = None
    left: dict[str, int] = {}
    excluded: dict[str, int] = {}
    line_items: list[LineItemVerdict] = []


class RequestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the platform makes of one bid request, with the catalogue at `catalogue_revision`."""

    exchange: str
    at_ms: int
    catalogue_revision: int
    refused: Reason | None = None
    impressions: list[ImpressionReport] = []


class Explainer:
    """Holds the compiled catalogue between calls; may be called from several threads."""

    def __init__(self, reads: sessionmaker[Session], platform: Platform) -> None:
        self._reads = reads
        self._platform = platform
        self._lock = Lock()
        self._profiles: dict[str, Profile] | None = None
        self._replica = Replica()
        self._compiled: tuple[int, Snapshot] | None = None

    def explain(
        self,
        exchange: str,
        body: bytes,
        at_ms: int,
        controls: Paced | None,
        ids: Mapping[str, int],
        seen: Sequence[Seen] = (),
    ) -> RequestReport:
        """Return the report on a raw bid request that came from `exchange` at `at_ms`, of a user who has `seen`.

        It is on the line items that have these `ids` (see dsp.store.chain.load_part), without any on all of them.

        Raises:
            ValidationError: there is no profile of this exchange, or no such line item as was seen.
            UnavailableError: the exchanges' profiles cannot be read.
        """
        profile = self.profile(exchange)
        with self._reads() as session:
            user = _user(session, seen)
            if ids:
                number, snapshot = revision(session), build(load_part(session, ids), "", at_ms)
            else:
                number, snapshot = self._whole(session, at_ms)
        try:
            found, lost = offered(body, profile, self._platform, at_ms)
        except InputError as fault:
            refused = Reason(label=fault.reason, sentence=str(fault))
            return RequestReport(exchange=exchange, at_ms=at_ms, catalogue_revision=number, refused=refused)
        columns = align(controls, snapshot.line_item_ids)
        names = {line_item.id: line_item.name for line_item in snapshot.line_items}
        impressions = [ImpressionReport(imp_id=imp_id, refused=reason(label)) for imp_id, label in lost]
        for opportunity in found:
            explanation = explain(snapshot, opportunity, user, columns, at_ms, seat=profile.seat)
            impressions.append(_report(opportunity.imp_id, explanation, names))
        return RequestReport(exchange=exchange, at_ms=at_ms, catalogue_revision=number, impressions=impressions)

    def profile(self, exchange: str) -> Profile:
        """Return an exchange's profile; raises as `explain` does."""
        with self._lock:
            if self._profiles is None:
                try:
                    self._profiles = load_profiles(self._platform.exchanges_dir)
                except ConfigError as fault:
                    raise UnavailableError(f"the exchanges' profiles cannot be read: {fault}") from fault
            profiles = self._profiles
        if exchange not in profiles:
            raise ValidationError([Fault("exchange", f"must be one of {', '.join(profiles) or '(none is set up)'}")])
        return profiles[exchange]

    def _whole(self, session: Session, now_ms: int) -> tuple[int, Snapshot]:
        """Return the whole catalogue, which takes seconds to read and to compile where it is large: it is held."""
        with self._lock:
            self._replica.follow(session)
            number = self._replica.revision
            if self._compiled is None or self._compiled[0] != number:
                self._compiled = number, build(self._replica.catalogue(), f"r{number}", now_ms)
            return self._compiled


def _user(session: Session, seen: Sequence[Seen]) -> UserRecord | None:
    reader = CatalogReader(session)
    line_items = reader.get_all(Kind.LINE_ITEM, {one.line_item_id for one in seen})
    campaign_ids = {number: cast(LineItem, one).campaign_id for number, one in line_items.items()}
    campaigns = reader.get_all(Kind.CAMPAIGN, set(campaign_ids.values()))
    faults = [
        Fault(f"seen[{number}].line_item_id", f"there is no line item {one.line_item_id}")
        for number, one in enumerate(seen)
        if one.line_item_id not in line_items
    ]
    if faults:
        raise ValidationError(faults)
    exposures = []
    for number, (line_item_id, at_ms) in enumerate(sorted(seen, key=lambda one: one.at_ms)):
        campaign = cast(Campaign, campaigns[campaign_ids[line_item_id]])
        exposures.append(Exposure(str(number), at_ms, campaign.advertiser_id, campaign.id, line_item_id))
    return UserRecord(pack(exposures)) if exposures else None


def _report(imp_id: str, explanation: Explanation, names: dict[int, str]) -> ImpressionReport:
    verdicts = [
        LineItemVerdict(
            line_item_id=line_item_id,
            name=names.get(line_item_id, ""),
            stage=verdict.stage,
            reason=verdict.exclusion and reason(verdict.exclusion.value),
        )
        for line_item_id, verdict in sorted(explanation.verdicts.items())
    ]
    excluded = Counter(verdict.reason.label for verdict in verdicts if verdict.reason is not None)
    left = {stage.value: count for stage, count in explanation.left.items()}
    return ImpressionReport(imp_id=imp_id, left=left, excluded=dict(excluded.most_common()), line_items=verdicts)


def reason(label: str) -> Reason:
    """Return the reason of a label."""
    exclusion = BY_LABEL.get(label)
    return Reason(label=label, sentence=exclusion.sentence if exclusion is not None else "")
