"""Which counts of bids are entered already: a record that the event log delivers twice counts once."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy.orm import Session

from dsp.events.schema import BidCount, BidsSent
from dsp.kernel.clock import MS_PER_DAY
from dsp.ledger.book import Entry
from dsp.store import book_statements as statements

#: A sender is forgotten so long after its last record: what comes twice does so within hours.
_KEPT_MS = 30 * MS_PER_DAY


def unheard(session: Session, entries: Iterable[Entry]) -> list[BidCount]:
    """Return the counts of those records that are new, and remember how far each sender has been entered.

    A sender's numbers rise along the log, so its latest is all that need be known.
    """
    records = [one for one in entries if isinstance(one, BidsSent)]
    if not records:
        return []
    wanted = {"wanted": list({one.sender for one in records})}
    heard: dict[str, int] = {row.sender: row.number for row in session.execute(statements.SENDERS_HEARD, wanted)}
    counts: list[BidCount] = []
    rows: dict[str, dict[str, Any]] = {}
    for one in records:
        if one.number > heard.get(one.sender, 0):
            heard[one.sender] = one.number
            rows[one.sender] = {"sender": one.sender, "number": one.number, "at_ms": one.at_ms}
            counts += one.counts
    if rows:
        session.execute(statements.HEAR_SENDERS, [rows[sender] for sender in sorted(rows)])
        before_ms = max(one.at_ms for one in records) - _KEPT_MS
        session.execute(statements.FORGET_SENDERS, {"before_ms": before_ms})
    return counts
