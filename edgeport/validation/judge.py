"""Holds figures against a target's limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import msgspec

from edgeport.profile import Limits, TargetProfile
from edgeport.types import Metric

# Figures that depend on the processor: on a stand-in they say nothing about the target, so they are not judged there.
_HARDWARE_UNITS = frozenset({"ms", "mJ", "J"})


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


def judge_all(
    metrics: Iterable[Metric], limits: Limits, *, max_drop: float | None = None, boards: Sequence[str] = ()
) -> tuple[Metric, ...]:
    """Return the metrics, those that a target's limits are about with limit and judgement.

    Args:
        metrics: figures of one target.
        limits: the target's.
        max_drop: points of top-1 that may be lost (`--max-drop`), over the target's own.
        boards: that stand for the target; limits on latency and energy hold on each.
    """
    metrics = tuple(metrics)
    highest = {
        "top1_drop": limits.max_top1_drop if max_drop is None else max_drop,
        **{name: limit for names, limit in budgets(limits, metrics, boards).items() for name in names},
    }
    lowest = {
        "agreement": limits.min_agreement,
        "cosine_min": limits.min_cosine,
        "agreement@float32": limits.min_float_agreement,
        "cosine_min@float32": limits.min_float_cosine,
    }
    return tuple(judge(m, at_most=highest.get(m.name), at_least=lowest.get(m.name)) for m in metrics)


def budgets(
    limits: Limits, metrics: Sequence[Metric], boards: Sequence[str] = ()
) -> Mapping[tuple[str, ...], float | None]:
    """Return the names of the figures that each budget is about -> its limit; a target without that budget: None.

    Memory is what the file says of itself where it does (TFLite), else the peak of the process.
    """
    says_ram = any(metric.name == "ram_bytes" for metric in metrics)
    places = tuple(f"@{name}" for name in boards) or ("",)
    return {
        tuple(f"latency_p50_ms{at}" for at in places): limits.max_latency_ms,
        tuple(f"energy_mj{at}" for at in places): limits.max_energy_mj,
        ("size_bytes",): limits.max_size_bytes,
        ("ram_bytes" if says_ram else "peak_rss_bytes",): limits.max_ram_bytes,
    }


def undecided(metrics: Sequence[Metric], limits: Limits, boards: Sequence[str] = ()) -> list[str]:
    """Return a sentence for each budget that no figure decides: there is none, or only an interval that holds it."""
    known = {metric.name: metric for metric in metrics}
    said = []
    for names, limit in budgets(limits, metrics, boards).items():
        if limit is None:
            continue
        found = [known[name] for name in names if name in known]
        if not found:
            said.append(f"the limit of {limit:g} on {names[0]} was not judged: nothing is known of it on this target")
        said += [
            f"the limit of {limit:g} on {one.name} was not judged: {_why(one)}" for one in found if one.limit is None
        ]
    return said


def _why(metric: Metric) -> str:
    if metric.interval is None:
        return f"{metric.value:.3g} {metric.unit} is this machine's, not the target's"
    low, high = metric.interval
    return f"it is {metric.origin}, somewhere from {low:.3g} to {high:.3g} {metric.unit}"
