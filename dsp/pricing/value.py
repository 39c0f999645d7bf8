"""What an impression is worth to a line item, from its goal and the predictions."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.entities import ConversionRule
from dsp.catalog.terms import Goal, GoalKind
from dsp.kernel.money import IMPRESSIONS_PER_MILLE, MICROS_PER_UNIT, Micros

#: Goal kinds as they stand in a snapshot's `goal_kind` column.
GOAL_CODES = {GoalKind.CPM: 0, GoalKind.CPC: 1, GoalKind.CPA: 2, GoalKind.ROAS: 3}
# Constants are arrays without dimensions: with few candidates, half the time of a scalar operand is its conversion.
_PER_MILLE = np.array(float(IMPRESSIONS_PER_MILLE))


class UnitPrices(NamedTuple):
    """What line items pay for each thing they may buy, in micros, (K,) each; nothing but for their goals' units."""

    per_mille: NDArray[np.float64]  # for a thousand impressions
    per_click: NDArray[np.float64]
    per_conversion: NDArray[np.float64]


def value_micros_cpm(
    goal_kind: NDArray[np.int8],
    target_micros: NDArray[np.int64],
    pctr: NDArray[np.float64],
    pcvr: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the value of a thousand such impressions in micros, float64 (K,).

    Bought at their value, the goal's units cost their target on average, whatever the goal.

    Args:
        goal_kind: codes of `GOAL_CODES`, (K,).
        target_micros: what the goal's unit may cost (`unit_micros`), (K,): a thousand impressions, a click or a
            conversion.
        pctr: probability of a click given an impression, (K,).
        pcvr: probability of a conversion given a click, (K,).
    """
    return value_by_unit_micros_cpm(*unit_prices(goal_kind, target_micros), pctr, pcvr)


def unit_prices(goal_kind: NDArray[np.int8], target_micros: NDArray[np.int64]) -> UnitPrices:
    """Return what line items with such goals pay; arguments as of `value_micros_cpm`."""
    target = target_micros.astype(np.float64)
    cpm, cpc = goal_kind == GOAL_CODES[GoalKind.CPM], goal_kind == GOAL_CODES[GoalKind.CPC]
    return UnitPrices(target * cpm, target * cpc, target * ~(cpm | cpc))


def value_by_unit_micros_cpm(
    per_mille: NDArray[np.float64],
    per_click: NDArray[np.float64],
    per_conversion: NDArray[np.float64],
    pctr: NDArray[np.float64],
    pcvr: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return `value_micros_cpm` given `UnitPrices`, to the last bit the same for predictions that are finite."""
    clicks = pctr * _PER_MILLE
    value: NDArray[np.float64] = clicks * pcvr
    value *= per_conversion
    clicks *= per_click
    value += clicks
    value += per_mille
    return value


def unit_micros(goal: Goal, conversion_micros: Micros) -> Micros:
    """Return what one unit of the goal may cost, given what a conversion is worth to the advertiser.

    A target on the return is one on the cost of a conversion, the unit of both; without a value there is none to pay.
    """
    if goal.kind is not GoalKind.ROAS:
        return goal.target_micros
    return conversion_micros * MICROS_PER_UNIT // goal.target_micros


def conversion_micros(rules: Iterable[ConversionRule]) -> Micros:
    """Return what a conversion is worth before it is known under which of an advertiser's rules it will fall.

    That is the mean over the rules that have a value; 0 without any. What is realised may differ, and the pacing
    controller, which sees it in the book, corrects for that.
    """
    values = [rule.value_micros for rule in rules if rule.value_micros is not None]
    return sum(values) // len(values) if values else 0


def conversion_worths(rules: Iterable[ConversionRule]) -> dict[int, Micros]:
    """Return `conversion_micros` of each advertiser that has rules, by its id."""
    by_advertiser: dict[int, list[ConversionRule]] = {}
    for rule in rules:
        by_advertiser.setdefault(rule.advertiser_id, []).append(rule)
    return {advertiser_id: conversion_micros(members) for advertiser_id, members in by_advertiser.items()}
