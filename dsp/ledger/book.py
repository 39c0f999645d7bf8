"""Double entry: accounts, postings, and transactions that sum to zero. What is posted for a notice is in apply."""

import msgspec

from dsp.events.schema import BidsSent
from dsp.kernel.money import Micros
from dsp.ledger.terms import late_lease_id

#: A transaction's postings: account to micros. What was bought is positive, what is owed for it negative.
Postings = tuple[tuple[str, Micros], ...]


def spend_account(line_item_id: int, day: int) -> str:
    """Return the account of what a line item's budgets paid for on a day (advertiser's zone)."""
    return f"spend:{line_item_id}:{day}"


def late_account(line_item_id: int, day: int) -> str:
    """Return the account of what we owe for a line item's bids and its budgets do not pay."""
    return f"late:{line_item_id}:{day}"


def payable_account(exchange: str) -> str:
    """Return the account of what we owe an exchange."""
    return f"payable:{exchange}"


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """One billed impression. At most one is entered per bid, and per (exchange, auction, impression, kind).

    `charged_micros` is paid by the budgets and counts on the lease, `late_micros` is not and does not. Of that the
    budgets may pay `claim_micros` all the same, where they have room. `value_micros` is what the impression was
    expected to be worth when it was bid on, and `hour` is that of the bid, since the epoch.
    """

    exchange: str
    auction_id: str
    imp_id: str
    kind: str
    bid_id: str
    at_ms: int
    appended_ms: int
    advertiser_id: int
    campaign_id: int
    line_item_id: int
    creative_id: int
    day: int
    hour: int
    lease_id: str
    charged_micros: Micros
    late_micros: Micros
    claim_micros: Micros = 0
    value_micros: Micros = 0

    def __post_init__(self) -> None:
        """Refuse amounts that no notice can bill."""
        if self.charged_micros < 0 or self.late_micros < 0 or self.charged_micros + self.late_micros == 0:
            raise ValueError("a transaction bills a positive amount")

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Return what the exchange may bill only once."""
        return self.exchange, self.auction_id, self.imp_id, self.kind

    @property
    def postings(self) -> Postings:
        """Return the postings; their sum is zero, and none of them is."""
        lines = (
            (spend_account(self.line_item_id, self.day), self.charged_micros),
            (late_account(self.line_item_id, self.day), self.late_micros),
            (payable_account(self.exchange), -self.charged_micros - self.late_micros),
        )
        return tuple(line for line in lines if line[1] != 0)

    def uncovered(self) -> "Transaction":
        """Return the same transaction with nothing taken from the bid's lease."""
        return msgspec.structs.replace(
            self,
            charged_micros=0,
            late_micros=self.charged_micros + self.late_micros,
            claim_micros=self.charged_micros + self.claim_micros,
        )

    def covered_late(self) -> "Transaction":
        """Return the same transaction with its claim charged to the ledger's own lease, which holds as much for it."""
        return msgspec.structs.replace(
            self,
            lease_id=late_lease_id(self.line_item_id, self.day),
            charged_micros=self.charged_micros + self.claim_micros,
            late_micros=self.late_micros - self.claim_micros,
            claim_micros=0,
        )


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody did who saw the ad. Counted once per bid, kind and conversion rule, in the day and hour of the bid.

    So that cost and response of an impression fall on one. `value_micros` is what a conversion is worth.
    """

    bid_id: str
    kind: str  # "click" or "conv"
    conversion_rule_id: int  # 0 for none
    at_ms: int
    advertiser_id: int
    campaign_id: int
    line_item_id: int
    creative_id: int
    exchange: str
    day: int
    hour: int
    value_micros: Micros

    @property
    def key(self) -> tuple[str, str, int]:
        """Return what counts only once."""
        return self.bid_id, self.kind, self.conversion_rule_id


class Release(msgspec.Struct, frozen=True):
    """A bid was reported lost: from here on its reservation is free, and does not cover a billing notice of it.

    It need not be remembered once the watermark has passed `closes_ms`: any billing notice is late by then.
    """

    bid_id: str
    closes_ms: int


#: What a batch of events adds to the book.
Entry = Transaction | Release | Response | BidsSent
