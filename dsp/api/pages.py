"""Cursor pages: an opaque token says after which item a list goes on."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated

from fastapi import Query

from dsp.kernel.errors import Fault, ValidationError
from dsp.store.catalog import ID_MAX

PAGE_SIZE = 50
PageSize = Annotated[int, Query(ge=1, description="How many items at most.")]
PageToken = Annotated[
    str | None, Query(max_length=128, description="`next_page_token` of the page before; leave out for the first.")
]


def page_size(given: int, bound: int) -> int:
    """Return the size; raises ValidationError beyond the bound."""
    if given > bound:
        raise ValidationError([Fault("page_size", f"must be at most {bound}")])
    return given


def encode_token(scope: str, after: int) -> str:
    """Return the token of the page after item `after` of the list `scope`."""
    return urlsafe_b64encode(f"{scope}:{after}".encode()).rstrip(b"=").decode("ascii")


def decode_token(scope: str, token: str | None) -> int:
    """Return the item after which the page begins, 0 for the first page.

    Raises:
        ValidationError: the token is not one of this list.
    """
    if token is None:
        return 0
    try:
        text = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4)).decode("ascii")
        found, _, after = text.rpartition(":")
        if found == scope and after.isdecimal() and int(after) <= ID_MAX:
            return int(after)
    except ValueError:  # not ASCII, not base64: the same refusal
        found = ""
    raise ValidationError([Fault("page_token", "is not a token of this list")])
