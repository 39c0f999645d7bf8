"""A champion's scorer is made ready for a snapshot's ads before it is asked."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidder.predictors import Predictors
from models.serving.bundle import Bundle
from models.serving.predictor import Predictions, RateTable, Scorer
from models.serving.prior import ConstantPredictor

ADS = np.zeros((3, 12), dtype=np.int64)


class Rates(RateTable):
    """Says whom it has followed."""

    def __init__(self) -> None:
        super().__init__(np.full(len(ADS), 0.5))
        self.followed: list[Any] = []

    def follow(self, before: object) -> Iterator[None]:
        self.followed.append(before)
        yield


class Model:
    """A predictor whose scorers follow."""

    version = "m"

    def prepare(self, ads: NDArray[np.int64]) -> Scorer:
        return Scorer("m", Rates(), RateTable(np.full(len(ads), 0.5)))

    def predict_rows(self, requests: NDArray[np.int64], ads: NDArray[np.int64]) -> Predictions:
        raise AssertionError("not asked for rows")


def bundle() -> Bundle:
    return Bundle("m", {}, Model(), ConstantPredictor("prior"))


def followed(scorer: Scorer) -> list[Any]:
    assert isinstance(scorer.pctr, Rates)
    return scorer.pctr.followed


def test_each_scorer_follows_the_one_before() -> None:
    predictors = Predictors()
    assert predictors.prepared(ADS).predictor.version == "prior"
    predictors.take_champion(bundle())
    first = predictors.prepared(ADS).predictor
    assert followed(first) == []
    predictors.take_champion(bundle())
    second = predictors.prepared(ADS).predictor
    assert followed(second) == [first.pctr]
    predictors.forget()  # another snapshot
    third = predictors.prepared(ADS).predictor
    assert third is not second
    assert followed(third) == [second.pctr]
    assert predictors.prepared(ADS).predictor is third
