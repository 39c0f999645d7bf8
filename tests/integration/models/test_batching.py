"""A bidder process whose model runs for several requests at once, as it does on a GPU; and one told to use a GPU."""

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest

from dsp.events.schema import Decision
from dsp.registry import resolve
from models.serving import bundle
from models.serving.predictor import predict
from tests.gpu import refusal
from tests.integration.bidder import world as places
from tests.waiting import until

pytestmark = pytest.mark.platform


async def test_a_batch_predicts_what_the_model_predicts_for_each_alone(tmp_path: Path, trained: Path) -> None:
    version = resolve(trained / "models", "champion")
    assert version is not None
    async with places.world(tmp_path, DSP_BIDDER_PREDICT_BATCHING="always") as bidder:
        shutil.copytree(trained / "models", bidder.data / "models")
        await bidder.publish(places.catalogue())
        await bidder.start()
        await until(lambda: bidder.metric("dsp_model_info", version=version, device="cpu"))
        await asyncio.gather(*(bidder.offer(f"a{number}") for number in range(8)))
        rows = await bidder.metric("dsp_batch_rows_sum")
        assert rows == await bidder.metric("dsp_predict_batch_size_sum") >= 8
        assert await bidder.metric("dsp_predict_fallbacks_total") == 0
        await bidder.stop()
        decisions = [one for one in await bidder.events("decisions", Decision) if one.bids]
    assert len(decisions) == 8
    model = bundle.load(trained / "models", version).predictor
    for decision in decisions:
        assert decision.model_version == version
        (bid,) = decision.bids
        request, ads = np.frombuffer(bid.request_features, "<i8"), np.frombuffer(bid.ad_features, "<i8")
        alone = predict(model, request, ads[np.newaxis, :])
        assert bid.pctr == pytest.approx(float(alone.pctr[0]), abs=1e-7)


async def test_a_gpu_that_is_demanded_and_not_there_is_refused(tmp_path: Path) -> None:
    reason = refusal()
    async with places.world(tmp_path, DSP_BIDDER_PREDICT_PROVIDER="cuda") as bidder:
        with pytest.raises(AssertionError):
            await bidder.start()
        assert reason in bidder.log()
