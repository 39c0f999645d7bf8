"""The event log's topics, and the key that orders records within each."""

from enum import StrEnum


class Topic(StrEnum):
    """Names are part of the stored log; adding is fine, renaming is a migration."""

    DECISIONS = "decisions"  # Decision, keyed by auction id
    NOTICES = "notices"  # Notice, keyed by line item id, so that one worker owns its money; BidsSent, by sender
    REQUESTS = "requests"  # SampledRequest, keyed by auction id
    DEAD_LETTERS = "dead_letters"  # DeadLetter, keyed by where the record stood
