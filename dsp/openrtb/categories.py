"""Categories and the taxonomies they are of, and what lists of them refuse. Codes are in upper case.

The catalogue takes codes of all content taxonomies; which one a code is of shows only as far as the first goes.
"""

from collections.abc import Iterable

#: AdCOM list "Category Taxonomies": content taxonomy 1.0, the later ones, and of these what bids name by themselves.
FIRST = 1
LATER = frozenset({2, 5, 6, 7, 9})
_LATEST = 7


def taxonomy(cattax: int) -> int:
    """Return the content taxonomy that a request names, the first for none, and 0 for any other taxonomy."""
    return (cattax if cattax in LATER else 0) if cattax > FIRST else FIRST


def is_first(code: str) -> bool:
    """Return whether a code is of content taxonomy 1.0, such as IAB7-1; those of others begin otherwise."""
    return code.startswith("IAB")


def category_and_parents(code: str) -> tuple[str, ...]:
    """Return a code and, for a part such as IAB7-1, the category that it is a part of."""
    parent, dash, _ = code.partition("-")
    return (code, parent) if dash and parent else (code,)


def later(listed: frozenset[str], of: int) -> bool:
    """Return whether a list of a taxonomy, as `taxonomy` says, holds what no code of the first can equal."""
    return of != FIRST and not all(map(is_first, listed))


def declared(codes: tuple[str, ...], asked: int) -> tuple[int, tuple[str, ...]]:
    """Return the taxonomy and the categories that a bid states: of the one that is asked for where there are any."""
    first = tuple([code for code in codes if is_first(code)])
    if len(first) == len(codes) or (first and asked not in LATER):
        return FIRST, first
    return asked if asked in LATER else _LATEST, tuple([code for code in codes if not is_first(code)])


def refused(codes: Iterable[str], barred: frozenset[str], allowed: frozenset[str]) -> bool:
    """Return whether lists refuse an ad of these categories.

    IAB25 stands for IAB25-3 too, which is a part of it. Where a list says what is allowed, an ad must have a category
    of the listed codes' form, and none of that form that is not allowed.
    """
    forms, known = {is_first(code) for code in allowed}, False
    for code in codes:
        names = category_and_parents(code)
        if not barred.isdisjoint(names):
            return True
        if is_first(code) in forms:
            known = True
            if allowed.isdisjoint(names):
                return True
    return bool(allowed) and not known
