"""Entities as bytes are what they were, and one object however often they are asked for."""

import pickle

import numpy as np
import pytest

from dsp.catalog.entities import Advertiser, Catalogue
from dsp.snapshot.build import build
from dsp.snapshot.packed import Packed, pack
from tests.unit.snapshot.test_snapshot import CATALOGUE

KINDS = ("line_items", "campaigns", "advertisers", "creatives")


@pytest.mark.parametrize("catalogue", [CATALOGUE, Catalogue()], ids=["some", "none"])
def test_packed_entities_are_the_same_in_another_process_too(catalogue: Catalogue) -> None:
    snapshot = build(catalogue, "v1", 1)
    packed = pack(snapshot)
    arrays: list[pickle.PickleBuffer] = []
    moved = pickle.loads(pickle.dumps(packed, 5, buffer_callback=arrays.append), buffers=arrays)
    for kind in KINDS:
        entities = getattr(snapshot, kind)
        for found in (getattr(packed, kind), getattr(moved, kind)):
            assert (len(found), tuple(found)) == (len(entities), entities)


def test_an_entity_is_decoded_once_for_all_its_rows() -> None:
    owner, other = Advertiser(id=3, name="a", domain="a.example"), Advertiser(id=1, name="b", domain="b.example")
    packed = Packed.of(Advertiser, [owner, other, owner])
    assert packed[0] == owner
    assert packed[0] is packed[2] is packed[np.int64(0)] is not owner
    assert packed[-2] == other
    with pytest.raises(IndexError):
        packed[3]
