"""The true response model of people as the wire shows them: all that a model of the platform's features can know.

What a person likes is hidden, the wire carries segments that tell of it mostly. Here every person is taken for a mean
of others of whom it says the same about the ad's vertical.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from loadtest import market
from loadtest.learning.supply import Supply
from loadtest.world import VERTICALS, User
from models.features.columns import REQUEST_COLUMNS, SEGMENT_COLUMNS
from models.features.encode import text_hash
from models.serving.predictor import Predictions

#: How many others a person is the mean of.
_OTHERS = 24
_SEGMENTS = [REQUEST_COLUMNS.index(name) for name in SEGMENT_COLUMNS]


def visible(of: Supply) -> Predictions:
    """Return click rates, and conversion rates of clicks, of all candidates (M,) given what the features say."""
    others = _others(of)
    pctr, pcvr = np.empty(len(of.owners)), np.empty(len(of.owners))
    for candidate, (number, context, ad) in enumerate(of.shown()):
        clicks = conversions = 0.0
        for other in others[ad.vertical, _told(of.requests[number], ad.vertical)]:
            person = replace(context.user, tastes=other.tastes, keenness=other.keenness)
            seen = replace(context, user=person)
            clicked = market.click_probability(seen, ad)
            clicks += clicked
            conversions += clicked * market.conversion_probability(seen, ad)
        pctr[candidate], pcvr[candidate] = clicks / _OTHERS, conversions / clicks
    return Predictions(pctr, pcvr)


def _others(of: Supply) -> dict[tuple[str, bool], list[User]]:
    """Return by vertical, and by whether the wire says they lean towards it, people as traffic brings them.

    They are spread evenly over what can be hidden, taste first, then keenness.
    """
    people = [chance.context.user for chance in of.chances]
    found = {}
    for vertical in VERTICALS:
        hidden = [(round(one.tastes[vertical], 1), one.keenness) for one in people]
        told = [_told(request, vertical) for request in of.requests]
        for flag in (False, True):
            members = sorted((number for number, said in enumerate(told) if said == flag), key=hidden.__getitem__)
            places = [(2 * step + 1) * len(members) // (2 * _OTHERS) for step in range(_OTHERS)]
            found[vertical, flag] = [people[members[place]] for place in places if members]
    return found


def _told(request: NDArray[np.int64], vertical: str) -> bool:
    return bool((request[_SEGMENTS] == text_hash(VERTICALS[vertical])).any())
