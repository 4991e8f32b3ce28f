"""Holds figures against a target's limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from edgeport.profile import Limits, TargetProfile
from edgeport.types import Metric

# Figures that depend on the processor: on a stand-in they say nothing about the target, so they are not judged there.
_HARDWARE_UNITS = frozenset({"ms", "mj"})


def judge(metric: Metric, *, at_most: float | None = None, at_least: float | None = None) -> Metric:
    """Return the metric with its limit and judgement, or as it is where it cannot be judged.

    Not judged: no limit given; a latency or an energy that was not measured on the target's own kind of hardware,
    unless its whole interval lies on one side of the limit. NaN never passes.

    Raises:
        ValueError: both limits were given.
    """
    if at_most is not None and at_least is not None:
        raise ValueError("one limit a metric: at_most or at_least")
    limit = at_most if at_most is not None else at_least
    if limit is None:
        return metric

    def passes(value: float) -> bool:
        return value <= limit if at_most is not None else value >= limit

    passed = passes(metric.value)
    if metric.unit in _HARDWARE_UNITS and metric.origin != "measured":
        if metric.interval is None or len({passes(end) for end in metric.interval}) != 1:
            return metric
        passed = passes(metric.interval[0])
    return replace(metric, limit=limit, passed=passed)


def without_agreement_limits(target: TargetProfile) -> TargetProfile:
    """Return the target for figures on random inputs: which class of noise scores highest is no decision to keep.

    Cosines are judged as ever: on any input a float file must compute what PyTorch does.
    """
    limits = msgspec.structs.replace(target.limits, min_agreement=None, min_float_agreement=None)
    return msgspec.structs.replace(target, limits=limits)


def judge_all(metrics: Iterable[Metric], limits: Limits, *, max_drop: float | None = None) -> tuple[Metric, ...]:
    """Return the metrics, those that a target's limits are about with limit and judgement.

    Args:
        metrics: figures of one target.
        limits: the target's.
        max_drop: points of top-1 that may be lost (`--max-drop`), over the target's own.
    """
    highest = {"top1_drop": limits.max_top1_drop if max_drop is None else max_drop}
    lowest = {
        "agreement": limits.min_agreement,
        "cosine_min": limits.min_cosine,
        "agreement@float32": limits.min_float_agreement,
        "cosine_min@float32": limits.min_float_cosine,
    }
    return tuple(judge(m, at_most=highest.get(m.name), at_least=lowest.get(m.name)) for m in metrics)
