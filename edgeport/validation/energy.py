"""What an inference costs in energy: counted in the file, predicted for boards that were metered, or measured here.

Multiply-adds by number format and bytes moved are counts, no joules. Joules come from a board's cost model
(`edgeport.cost_model`), fitted to metered boards of that kind, or from the processor's own counter (RAPL).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from edgeport import cost_model
from edgeport.cost_model import CostModel
from edgeport.profile import TargetProfile
from edgeport.types import Metric, OpCost

SECONDS_A_DAY = 86_400

# Of processors without a cost model: two files' energies differ as their latencies do, because a board's power hardly
# depends on what it computes. Fitted by benchmarks/power.py to all metered systems: ARM, no x86 processor was metered.
STEADY_FACTOR = 1.35  # of files of one family, nine of ten ratios lie within [prediction / factor, prediction x factor]
STEADY_RANK = 0.989  # Spearman's, of latency with metered energy, the systems' median
STEADY_LEAST_RANK = 0.934  # the lowest


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
    over this one's; `rank_correlation`: Spearman's, of such predictions with metered energy. Where no such board was
    metered there is only the ratio; where no network of that size was, there is none.

    Args:
        profile: the target.
        costs: operators of the file.
        float_costs: operators of the float file; None: the file is the float file.
        per_day: inferences a day; None: no such figure.
    """
    found: list[Metric] = []
    for at, model in profile.cost_models.items():
        before = len(found)
        if model.has_joules:
            found += _joules(model, costs, per_day, at)
        if float_costs is not None and model.covers(costs):
            ratio = cost_model.energy(model, float_costs).value / cost_model.energy(model, costs).value
            found.append(Metric(name=f"energy_ratio{at}", value=ratio, unit="x", origin="modelled"))
        if len(found) > before:
            found.append(_rank(model.rank_correlation, at))
    return found


def _rank(correlation: float, at: str = "") -> Metric:
    return Metric(name=f"rank_correlation{at}", value=correlation, unit="spearman", origin="modelled")


def shares(
    profile: TargetProfile, files: Sequence[tuple[Sequence[OpCost], float] | None]
) -> tuple[Mapping[str, float], ...]:
    """Return for each file board -> its energy over that of the first file; the target's name where it has no boards.

    Predicted by the board's cost model; without one as if power were constant. Empty where there is no file, or none
    of that size was metered.

    Args:
        profile: the target.
        files: operators of each, and median milliseconds of an inference here; None: there is no such file.
    """
    first = files[0]
    models = profile.cost_models

    def of(file: tuple[Sequence[OpCost], float] | None) -> Mapping[str, float]:
        if file is None or first is None:
            return {}
        if not models:
            return {profile.name: file[1] / first[1]}
        return {
            at.removeprefix("@") or profile.name: cost_model.energy(model, file[0]).value
            / cost_model.energy(model, first[0]).value
            for at, model in models.items()
            if model.covers(file[0]) and model.covers(first[0])
        }

    return tuple(of(file) for file in files)


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


def by_time(timed: Iterable[Metric]) -> list[Metric]:
    """Return `energy_ratio` where there is a `speedup`: the same, as if power were constant; and `rank_correlation`.

    With an interval where the speed-up was measured on the target's own kind of processor; else both are of a stand-in.
    """
    found = []
    for metric in timed:
        if metric.name == "speedup":
            ends = (metric.value / STEADY_FACTOR, metric.value * STEADY_FACTOR)
            interval = ends if metric.origin == "measured" else None
            ratio = Metric(name="energy_ratio", value=metric.value, unit="x", origin="modelled", interval=interval)
            found += [ratio, _rank(STEADY_RANK)]
    return found


def measured(joules: float, float_joules: float | None = None) -> list[Metric]:
    """Return `energy_mj` of the processor as its own counter says, and beside another file `energy_ratio`.

    Args:
        joules: of an inference, everything that runs on the processor included.
        float_joules: of one of the float file; None: the file is the float file.
    """
    found = [Metric(name="energy_mj", value=joules * 1e3, unit="mJ", origin="measured")]
    if float_joules is not None:
        found.append(Metric(name="energy_ratio", value=float_joules / joules, unit="x", origin="measured"))
    return found
