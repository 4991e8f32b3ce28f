"""Latency of a file, beside that of the float file on the same runtime: timed here, or predicted for a board."""

from __future__ import annotations

from collections.abc import Sequence

from edgeport import cost_model
from edgeport.devices.host import Timing
from edgeport.profile import TargetProfile
from edgeport.types import Metric, OpCost, Origin

HOST = "@host"  # behind the names of this machine's figures where the target's own are predicted


def metrics(timing: Timing, float_timing: Timing | None, *, origin: Origin, at: str = "") -> list[Metric]:
    """Return `latency_p50_ms`, `latency_p90_ms` and, beside another file, `latency_float_p50_ms` and `speedup`.

    Args:
        timing: of the file.
        float_timing: of the float file, interleaved with `timing`; None where the file is the float file.
        origin: of the machine that both ran on.
        at: behind the names.
    """
    found = [
        Metric(name=f"latency_p50_ms{at}", value=timing.p50_ms, unit="ms", origin=origin),
        Metric(name=f"latency_p90_ms{at}", value=timing.p90_ms, unit="ms", origin=origin),
    ]
    if float_timing is not None:
        ratio = float_timing.p50_ms / timing.p50_ms
        found.append(Metric(name=f"latency_float_p50_ms{at}", value=float_timing.p50_ms, unit="ms", origin=origin))
        found.append(Metric(name=f"speedup{at}", value=ratio, unit="x", origin=origin))
    return found


def modelled(
    profile: TargetProfile, costs: Sequence[OpCost], float_costs: Sequence[OpCost] | None = None
) -> list[Metric]:
    """Return the median latency on the target, or on each of its boards (their names behind an `@`), with intervals.

    `speedup` is left out where no network of that size was metered.

    Args:
        profile: the target.
        costs: operators of the file.
        float_costs: operators of the float file; None: the file is the float file.
    """
    found = []
    for at, model in profile.cost_models.items():
        rows = [("latency_p50_ms", cost_model.latency(model, costs))]
        if float_costs is not None:
            rows.append(("latency_float_p50_ms", cost_model.latency(model, float_costs)))
        for name, prediction in rows:
            low, high = (end * 1e-6 for end in prediction.interval)
            value = prediction.value * 1e-6
            found.append(Metric(name=f"{name}{at}", value=value, unit="ms", origin="modelled", interval=(low, high)))
        if float_costs is not None and model.covers(costs):
            ratio = rows[1][1].value / rows[0][1].value
            found.append(Metric(name=f"speedup{at}", value=ratio, unit="x", origin="modelled"))
    return found
