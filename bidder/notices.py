"""What exchanges and browsers report: win, bill, loss, imp, click, conv. HTTP is in bidder.handlers.

A notice is verified, understood, made durable, and only then acted upon and acknowledged.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

import msgspec

from bidder.config import BidderConfig
from bidder.landing import redirect_url
from bidder.outbox import Outbox
from bidder.patience import at_most
from bidder.pending import PendingExposures
from bidder.prices import PriceReader
from bidder.state import Serving
from dsp.cache.port import UserStore
from dsp.catalog.entities import CONVERSION_WINDOW_SECONDS
from dsp.events.schema import BidFacts, Notice, NoticeKind, decode_facts, encode, encode_facts
from dsp.events.topics import Topic
from dsp.frequency.evidence import exposure_of, response_of
from dsp.kernel import metrics
from dsp.kernel.clock import MS_PER_SECOND, Clock
from dsp.kernel.errors import InputError, TokenError, UnavailableError
from dsp.kernel.ids import TokenSigner
from dsp.kernel.metrics import NoticeResult
from dsp.kernel.money import Micros, cost_micros
from dsp.ledger.lease import LeaseBook
from dsp.openrtb.profile import Profile

#: Which notice each billing convention of a profile bills on.
BILLING_KIND = {"win": NoticeKind.WIN, "bill": NoticeKind.BILL, "imp": NoticeKind.IMPRESSION}
#: Loss reasons of OpenRTB list 5.25 have up to three digits, those by agreement four.
LOSS_REASON_CHARS_MAX = 5
RULE_ID_CHARS_MAX = 18  # all such numbers are 64-bit integers


class Outcome(NamedTuple):
    """What to answer: an HTTP status, and for a click where to send the user."""

    status: int
    location: str = ""


class NoticeDesk:
    """Receives notices. One instance per process; all state is bounded and may be lost without harm to money."""

    def __init__(
        self,
        *,
        config: BidderConfig,
        clock: Clock,
        signer: TokenSigner,
        profiles: Mapping[str, Profile],
        serving: Serving,
        leases: LeaseBook,
        users: UserStore,
        pending: PendingExposures,
        outbox: Outbox,
    ) -> None:
        self._config = config
        self._clock = clock
        self._signer = signer
        self._profiles = profiles
        self._prices = PriceReader(profiles)
        self._serving = serving
        self._leases = leases
        self._users = users
        self._pending = pending
        self._outbox = outbox
        #: (bid id, kind, rule) to the write under way, None once durable. Oldest first.
        self._seen: dict[tuple[str, NoticeKind, int], asyncio.Future[None] | None] = {}
        self._counts = {
            (kind, result): metrics.NOTICES.labels(kind.value, result.value)
            for kind in NoticeKind
            for result in NoticeResult
        }

    async def receive(self, kind: NoticeKind, query: Mapping[str, str]) -> Outcome:
        """Handle one notice; never raises for anything a stranger sends."""
        try:
            facts = self._verify(kind, query.get("t", ""))
            if self._too_old(kind, facts):
                self._counts[kind, NoticeResult.EXPIRED].inc()
                return self._reply(kind, facts, query, 410)
            notice = self._understand(kind, facts, query)
            result = await self._record(notice)
        except InputError as fault:
            self._counts[kind, NoticeResult.REFUSED].inc()
            metrics.NOTICES_REFUSED.labels(fault.reason).inc()
            return Outcome(400)
        except UnavailableError:
            self._counts[kind, NoticeResult.UNAVAILABLE].inc()
            return Outcome(503)
        self._counts[kind, result].inc()
        return self._reply(kind, facts, query, 200)

    def look(self, kind: NoticeKind, query: Mapping[str, str]) -> Outcome:
        """Return what a notice would be answered, for those who only check the link; it tells nothing."""
        try:
            facts = self._verify(kind, query.get("t", ""))
        except InputError:
            return Outcome(400)
        return self._reply(kind, facts, query, 410 if self._too_old(kind, facts) else 200)

    def _verify(self, kind: NoticeKind, token: str) -> BidFacts:
        if not token:
            raise TokenError("no token", reason="token_missing")
        try:
            return decode_facts(self._signer.verify(kind.value, token))
        except msgspec.DecodeError as fault:
            raise TokenError("an older format was signed", reason="token_outdated") from fault

    def _too_old(self, kind: NoticeKind, facts: BidFacts) -> bool:
        if kind is NoticeKind.CLICK:
            age_max_s = self._config.click_age_max_seconds
        elif kind is NoticeKind.CONVERSION:
            age_max_s = self._config.conversion_age_max_seconds
        else:
            age_max_s = self._config.late_age_max_seconds
        return self._clock.now_ms() - facts.bid_at_ms > age_max_s * MS_PER_SECOND

    def _understand(self, kind: NoticeKind, facts: BidFacts, query: Mapping[str, str]) -> Notice:
        now_ms = self._clock.now_ms()
        told = partial(Notice, kind=kind, facts=facts, at_ms=now_ms)
        if kind is NoticeKind.CONVERSION:
            rule_id, value = self._conversion(facts, query.get("rule", ""), now_ms)
            return told(conversion_rule_id=rule_id, value_micros=value)
        if kind is NoticeKind.LOSS:
            return told(
                loss_reason=_number(query.get("r", ""), LOSS_REASON_CHARS_MAX),
                min_to_win_micros_cpm=self._prices.hint(facts, query.get("m", "")),
                clearing_micros_cpm=self._prices.hint(facts, query.get("p", "")),
            )
        if kind is NoticeKind.CLICK:
            return told()
        if facts.exchange not in self._profiles:
            raise InputError("the exchange is not configured any more", reason="unknown_exchange")
        clearing = self._prices.clearing(facts, query.get("p", ""))
        min_to_win = self._prices.hint(facts, query.get("m", ""))
        told = partial(told, clearing_micros_cpm=clearing, min_to_win_micros_cpm=min_to_win)
        if self._billing_kind(facts) is not kind:
            return told()
        # Without a price the exchange will charge what we bid; with one it is at most that (see PriceReader). What
        # cleared at nothing, as a second price may, was shown all the same: books, caps and models know what costs.
        cost = max(cost_micros(facts.price_micros_cpm if clearing is None else clearing), 1)
        # The money of a reservation that ended, by time or by a loss notice, may be another bid's by now.
        late = now_ms > facts.expires_at_ms or (facts.bid_id, NoticeKind.LOSS, 0) in self._seen
        return told(cost_micros=min(cost, facts.cost_micros_max), late=late)

    def _conversion(self, facts: BidFacts, rule_text: str, now_ms: int) -> tuple[int | None, Micros | None]:
        rules = self._serving.conversion_rules(facts.advertiser_id)
        if not rule_text:
            rule = next(iter(rules.values()), None)
        else:
            number = _number(rule_text, RULE_ID_CHARS_MAX)
            rule = rules.get(number) if number is not None else None
            if rule is None:
                raise InputError("not a rule of this advertiser", reason="rule_unknown")
        window_seconds = CONVERSION_WINDOW_SECONDS if rule is None else rule.window_seconds
        if now_ms - facts.bid_at_ms > window_seconds * MS_PER_SECOND:
            raise InputError("the rule's window is over", reason="rule_window")
        return (None, None) if rule is None else (rule.id, rule.value_micros)

    async def _record(self, notice: Notice) -> NoticeResult:
        key = (notice.facts.bid_id, notice.kind, notice.conversion_rule_id or 0)
        if key in self._seen:
            write = self._seen[key]
            if write is not None:
                await _written(write)
            return NoticeResult.DUPLICATE
        stamped = partial(self._tell_leases, notice)
        write = self._outbox.append(Topic.NOTICES, str(notice.facts.line_item_id), encode(notice), stamped)
        self._remember(key, write)
        try:
            await write
        except (UnavailableError, asyncio.CancelledError):
            self._seen.pop(key, None)
            raise
        self._seen[key] = None
        exposed, responded = exposure_of(notice), response_of(notice)
        if exposed is None or await self._kept("expose", partial(self._users.expose, *exposed)):
            self._pending.hear(notice, self._clock.now_ms())
        if responded is not None:
            await self._kept("respond", partial(self._users.respond, *responded))
        return NoticeResult.LATE if notice.late else NoticeResult.ACCEPTED

    def _remember(self, key: tuple[str, NoticeKind, int], write: asyncio.Future[None]) -> None:
        while len(self._seen) >= self._config.notices_remembered_max:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = write

    def _tell_leases(self, notice: Notice, appended_ms: int) -> None:
        """Tell the lease book of a notice that the event log has stamped."""
        bid_id = notice.facts.bid_id
        if notice.kind is NoticeKind.LOSS:
            self._leases.release(bid_id, appended_ms)
        elif notice.kind is self._billing_kind(notice.facts):
            self._leases.bill(bid_id, notice.cost_micros, appended_ms)

    async def _kept(self, call: str, keep: Callable[[], Awaitable[None] | None]) -> bool:
        """Return whether the user store has taken what a notice tells."""
        try:
            waiting = keep()
            if waiting is not None:
                await at_most(self._config.user_timeout_ms, waiting)
        except (UnavailableError, TimeoutError) as fault:
            # It is safe in the log; a cap that is a little loose is no reason to refuse the notice.
            metrics.USER_FAULTS.labels(call, "timeout" if isinstance(fault, TimeoutError) else "unavailable").inc()
            return False
        return True

    def _billing_kind(self, facts: BidFacts) -> NoticeKind | None:
        profile = self._profiles.get(facts.exchange)
        return BILLING_KIND[profile.billing] if profile is not None else None

    def _reply(self, kind: NoticeKind, facts: BidFacts, query: Mapping[str, str], status: int) -> Outcome:
        if kind is not NoticeKind.CLICK or query.get("r") == "0":  # bidder.markup.COUNT_ONLY
            return Outcome(status)
        landing = self._serving.landing_url(facts.creative_id)
        token = self._signer.tokens([NoticeKind.CONVERSION], encode_facts(facts))[0]
        location = redirect_url(landing, self._config.click_id_parameter, token)
        return Outcome(302, location) if location else Outcome(410)


async def _written(write: asyncio.Future[None]) -> None:
    """Wait for another's write, which goes on when this caller does not; raises UnavailableError if it was given up."""
    try:
        await asyncio.shield(write)
    except asyncio.CancelledError:
        if write.cancelled():
            raise UnavailableError("the first notice's caller is gone") from None
        raise


def _number(text: str, chars_max: int) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= chars_max else None
