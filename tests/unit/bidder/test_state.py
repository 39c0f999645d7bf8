"""What is looked up in a snapshot, and what outlives it."""

from msgspec.structs import replace

from bidder.state import Served, serve
from dsp.catalog.entities import Catalogue
from dsp.snapshot.build import build
from tests.integration.bidder.world import LANDING, catalogue


def without(*creative_ids: int) -> Catalogue:
    whole = catalogue()
    return replace(whole, creatives=tuple(one for one in whole.creatives if one.id not in creative_ids))


def landings(served: Served) -> list[str]:
    return [served.landing_url(creative_id) for creative_id in (100, 101, 102)]


def test_creatives_that_have_left_still_lead_somewhere() -> None:
    served = serve(build(catalogue(), "v1", 1), None)
    assert landings(served) == [LANDING, LANDING, ""]
    for version, left in enumerate([(100,), (100, 101), (100,), (100, 101)]):
        served = serve(build(without(*left), f"v{version}", 1), served)
        assert landings(served) == [LANDING, LANDING, ""]
        assert set(left) <= served.landing_urls.keys()
