"""A trained model is swapped into the running bidder, its own features are what it logs, and no request is dropped."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from dsp.events.schema import Decision
from dsp.registry import resolve
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.serving import bundle
from models.serving.predictor import predict
from tests.integration.bidder import world as places
from tests.waiting import until

pytestmark = pytest.mark.platform


async def test_a_model_is_swapped_without_a_dropped_request(tmp_path: Path, trained: Path) -> None:
    version = resolve(trained / "models", "champion")
    assert version is not None
    async with places.world(tmp_path) as bidder:
        await bidder.publish(places.catalogue())
        await bidder.start()
        await bidder.offer("before")
        statuses: list[int] = []
        stop = asyncio.Event()
        drivers = [asyncio.create_task(places.drive(bidder, stop, statuses, [])) for _ in range(3)]
        await until(lambda: len(statuses) > 20)
        broken = tmp_path / "data" / "models" / "aliases"
        broken.mkdir(parents=True)
        (broken / "champion").write_text("../../etc/passwd")  # not a version: the old model goes on
        await until(lambda: "cannot look for changes" in bidder.log())
        assert await bidder.metric("dsp_model_age_seconds") == 0  # none: the prior serves
        shutil.copytree(trained / "models", tmp_path / "data" / "models", dirs_exist_ok=True)
        await until(lambda: bidder.metric("dsp_model_info", version=version, alias="champion"))
        assert await bidder.metric("dsp_model_age_seconds", alias="champion") > 0
        seen = len(statuses)
        await until(lambda: len(statuses) > seen + 50)
        stop.set()
        await asyncio.gather(*drivers)
        assert set(statuses) <= {200, 204}
        assert await bidder.metric("dsp_model_swaps_total", result="loaded") == 1
        await until(lambda: bidder.metric("dsp_landscape_swaps_total", result="loaded"))
        await bidder.offer("after")
        await bidder.stop()
        decisions = {one.auction_id: one for one in await bidder.events("decisions", Decision)}
    assert decisions["before"].model_version == "prior"
    assert decisions["after"].model_version == version
    (bid,) = decisions["after"].bids
    request, ads = np.frombuffer(bid.request_features, "<i8"), np.frombuffer(bid.ad_features, "<i8")
    assert (len(request), len(ads)) == (len(REQUEST_COLUMNS), len(AD_COLUMNS))
    again = predict(bundle.load(trained / "models", version).predictor, request, ads[np.newaxis, :])
    assert bid.pctr == pytest.approx(float(again.pctr[0]), abs=1e-9)


async def test_a_challenger_predicts_in_shadow_until_it_is_called_off(tmp_path: Path, trained: Path) -> None:
    version = resolve(trained / "models", "champion")
    assert version is not None
    async with places.world(tmp_path, DSP_BIDDER_SHADOW_SHARE="1") as bidder:
        shutil.copytree(trained / "models", bidder.data / "models")
        aliases = bidder.data / "models" / "aliases"
        (aliases / "champion").rename(aliases / "challenger")  # constants serve, the model looks on
        await bidder.publish(places.catalogue())
        await bidder.start()

        async def shows(versions: int) -> bool:  # a moment after what was done is counted
            return await bidder.metric("dsp_model_info", alias="challenger") == versions

        await until(lambda: bidder.metric("dsp_challenger_swaps_total", result="loaded"))
        await until(lambda: shows(1))
        await bidder.offer("shadowed")
        assert await bidder.metric("dsp_model_info", alias="challenger", version=version) == 1
        (aliases / "challenger").write_text("20250615T150640-0123456789abcdef")  # there is no such version
        await until(lambda: bidder.metric("dsp_challenger_swaps_total", result="failed"))
        await until(lambda: shows(0))
        await bidder.offer("broken")
        (aliases / "challenger").write_text(version)
        await until(_times(bidder, 2))
        await until(lambda: shows(1))
        (aliases / "challenger").unlink()
        await until(lambda: shows(0))
        await bidder.offer("called off")
        await until(lambda: bidder.metric("dsp_shadow_scored_total", result="scored"))
        assert await bidder.metric("dsp_model_swaps_total") == 0
        await bidder.stop()
        decisions = {one.auction_id: one for one in await bidder.events("decisions", Decision)}
    assert decisions["shadowed"].challenger_version == version
    assert [decisions[name].challenger_version for name in ("broken", "called off")] == ["", ""]
    assert {one.model_version for one in decisions.values()} == {"prior"}
    (bid,) = decisions["shadowed"].bids
    request, ads = np.frombuffer(bid.request_features, "<i8"), np.frombuffer(bid.ad_features, "<i8")
    again = predict(bundle.load(trained / "models", version).predictor, request, ads[np.newaxis, :])
    assert bid.challenger_pctr == pytest.approx(float(again.pctr[0]), abs=1e-6)
    assert bid.pctr != bid.challenger_pctr


def _times(bidder: places.World, count: int) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        return await bidder.metric("dsp_challenger_swaps_total", result="loaded") >= count

    return reached
