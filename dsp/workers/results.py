"""What line items spent and got, for who looks every second: the book holds more days than it takes to know that."""

from sqlalchemy.orm import Session

from dsp.kernel.clock import MS_PER_DAY
from dsp.store.book import BookRepository, DayResult

#: Past days change by late notices and by conversions, which come hours after their clicks: seen so often is soon
#: enough, as the whole history is read for it.
_RECOUNT_MS = 300_000


class Results:
    """The latest days at every look, and all days before them as one, summed now and then."""

    def __init__(self) -> None:
        self._before: list[DayResult] = []
        self._first = -1  # the day that begins what is read at every look
        self._recounted_ms = 0

    def read(self, session: Session, now_ms: int) -> list[DayResult]:
        """Return results by line item and day; what lies before today, wherever that is, may be of one day."""
        book, first = BookRepository(session), now_ms // MS_PER_DAY - 1  # somewhere it may still be yesterday
        if first != self._first or not 0 <= now_ms - self._recounted_ms < _RECOUNT_MS:
            self._before = book.results_before(first)
            self._first, self._recounted_ms = first, now_ms
        return [*self._before, *book.days(first)]
