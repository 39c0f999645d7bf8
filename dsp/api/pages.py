"""Ids in paths, and cursor pages: an opaque token says after which item a list goes on."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

from dsp.catalog.kinds import Kind
from dsp.kernel.errors import Fault, NotFoundError, ValidationError
from dsp.store.catalog import ID_MAX

_Item = TypeVar("_Item")

PAGE_SIZE = 50
ID_DIGITS_MAX = 19
PageSize = Annotated[int, Query(alias="page_size", ge=1, description="How many items at most.")]
PageToken = Annotated[
    str | None,
    Query(
        alias="page_token",
        max_length=128,
        description="`next_page_token` of the page before; leave out for the first.",
    ),
]


def page_size(given: int, bound: int) -> int:
    """Return the size; raises ValidationError beyond the bound."""
    if given > bound:
        raise ValidationError([Fault("page_size", f"must be at most {bound}")])
    return given


def page(scope: str, found: Sequence[_Item], size: int, number: Callable[[_Item], int]) -> dict[str, Any]:
    """Return a page of the list `scope`: the first `size` of what was found, and a token where more was found.

    `number` gives the number of an item, by which the list is ordered. To know whether a page is the last one, look
    for one item more than it shows.
    """
    following = _encode_token(scope, number(found[size - 1])) if len(found) > size else None
    return {"items": found[:size], "next_page_token": following}


def _encode_token(scope: str, after: int) -> str:
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
        pass
    raise ValidationError([Fault("page_token", "is not a token of this list")])


def entity_id(kind: Kind, text: str) -> int:
    """Return the id in a path; raises NotFoundError where no entity can have it."""
    if not (text.isascii() and text.isdecimal() and len(text) <= ID_DIGITS_MAX and int(text) <= ID_MAX):
        raise NotFoundError(f"there is no {kind.words} {text[:40]}")
    return int(text)
