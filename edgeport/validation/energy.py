"""What an inference costs in energy: counted in the file, predicted for boards that were metered, or measured here.

Multiply-adds by number format and bytes moved are counts, no joules. Joules come from a board's cost model
(`edgeport.cost_model`), fitted to metered boards of that kind, or from the processor's own counter (RAPL).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from edgeport import cost_model
from edgeport.cost_model import CostModel
from edgeport.profile import TargetProfile
from edgeport.types import Metric, OpCost

SECONDS_A_DAY = 86_400


def metrics(costs: Iterable[OpCost]) -> list[Metric]:
    """Return `macs`, `macs@int8` and so on (a figure a number format that multiplies at all), and `bytes_moved`.

    `bytes_moved` counts each operator's weights once and its activations as read and written, caches disregarded:
    an upper bound of what passes between processor and memory in one inference.
    """
    macs: dict[str, int] = {}
    moved = 0
    for cost in costs:
        if cost.macs:
            macs[cost.dtype] = macs.get(cost.dtype, 0) + cost.macs
        moved += cost.weight_bytes + cost.activation_bytes
    rows = chain(
        [("macs", sum(macs.values()), "macs")],
        ((f"macs@{dtype}", count, "macs") for dtype, count in sorted(macs.items())),
        [("bytes_moved", moved, "bytes")],
    )
    return [Metric(name=name, value=value, unit=unit, origin="measured") for name, value, unit in rows]


def modelled(
    profile: TargetProfile,
    costs: Sequence[OpCost],
    float_costs: Sequence[OpCost] | None = None,
    *,
    per_day: int | None = None,
) -> list[Metric]:
    """Return what an inference takes on the target, or on each of its boards (their names behind an `@`).

    `energy_mj`: millijoules of the whole board, what it takes idle included; `energy_net_mj`: without that;
    `energy_day_j`: joules of a day with `per_day` inferences, idle otherwise; `energy_ratio`: the float file's energy
    over this one's. Where no such board was metered there is only the ratio; where no network of that size was, there
    is none.

    Args:
        profile: the target.
        costs: operators of the file.
        float_costs: operators of the float file; None: the file is the float file.
        per_day: inferences a day; None: no such figure.
    """
    found = []
    for at, model in profile.cost_models.items():
        if model.has_joules:
            found += _joules(model, costs, per_day, at)
        if float_costs is not None and model.covers(costs):
            ratio = cost_model.energy(model, float_costs).value / cost_model.energy(model, costs).value
            found.append(Metric(name=f"energy_ratio{at}", value=ratio, unit="x", origin="modelled"))
    return found


def _joules(model: CostModel, costs: Sequence[OpCost], per_day: int | None, at: str) -> list[Metric]:
    energy = cost_model.energy(model, costs)
    whole = energy.value * 1e-6
    idle = model.idle_w * cost_model.latency(model, costs).value * 1e-6  # millijoules, as it would have taken anyway
    net = max(0.0, whole - idle)
    rows = [("energy_mj", whole, "mJ", 0.0), ("energy_net_mj", net, "mJ", 0.0)]
    if per_day is not None:
        rows.append(("energy_day_j", per_day * net * 1e-3, "J", model.idle_w * SECONDS_A_DAY))
    return [
        Metric(
            name=f"{name}{at}",
            value=certain + value,
            unit=unit,
            origin="modelled",
            interval=(certain + value / energy.factor, certain + value * energy.factor),
        )
        for name, value, unit, certain in rows
    ]


def measured(joules: float, inferences: int) -> list[Metric]:
    """Return `energy_mj` of the processor as its own counter says, everything that runs on it included.

    Args:
        joules: what the counter rose by.
        inferences: meanwhile.
    """
    return [Metric(name="energy_mj", value=joules * 1e3 / inferences, unit="mJ", origin="measured")]
