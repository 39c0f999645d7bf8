"""What a model reads: the raw columns of its rows, and what is made of them. Serving and training run from the same."""

import hashlib

import msgspec


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One kind of statistic. Several columns of a side are a set: they share keys, and absent members count 0."""

    name: str
    request: tuple[str, ...] = ()
    ad: tuple[str, ...] = ()

    @property
    def is_set(self) -> bool:
        """Tell whether absent values (0) are left out instead of being a value of their own."""
        return len(self.request) > 1 or len(self.ad) > 1


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One number: how many of the request's columns hold the ad's value, absent ones (0) left out."""

    name: str
    request: tuple[str, ...]
    ad: str


class FeatureSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All inputs of a kind of model, by the names of its rows' columns, which are int64 (n, R) and (n, A).

    `groups` are what statistics, tables of weights and embeddings are kept for, in the order of fitting: what comes
    first explains what it can. `hierarchy` is what the prior knows, coarse to fine.
    """

    request_columns: tuple[str, ...]
    ad_columns: tuple[str, ...]
    groups: tuple[Group, ...]
    hierarchy: tuple[Group, ...]
    request_numbers: tuple[str, ...] = ()
    ad_numbers: tuple[str, ...] = ()
    matches: tuple[Match, ...] = ()
    #: The user's latest impressions, newest first: for each the columns that describe it.
    sequence: tuple[tuple[str, ...], ...] = ()
    #: Calibrated beyond the whole, coarse to fine.
    calibrate_by: tuple[Group, ...] = ()

    @property
    def content_hash(self) -> str:
        """Return the identity of the definition, of its content alone."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]
