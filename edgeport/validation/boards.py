"""What a report says of predicted figures: where they come from, how good they are, which limits they leave open."""

from __future__ import annotations

from collections.abc import Sequence

from edgeport.profile import TargetProfile
from edgeport.types import Metric, OpCost
from edgeport.validation import energy
from edgeport.validation.judge import undecided


def board_notes(target: TargetProfile, costs: Sequence[OpCost], metrics: Sequence[Metric]) -> list[str]:
    """Return sentences for the report, e.g. `latency and energy are predicted: ...`."""
    names = {metric.name for metric in metrics}
    said = []
    for at, model in target.cost_models.items():
        if not any(name.endswith(at) and name.startswith(("latency", "energy")) for name in names):
            continue
        what = "latency and energy" if model.has_joules else "latency and the ratio of energies, not joules,"
        where = f" of {at.removeprefix('@')}" if at else ""
        sizes = f"{model.least_macs / 1e6:.0f} to {model.most_macs / 1e6:.0f} million multiply-adds"
        wide = "" if model.covers(costs) else f"; intervals are wide, networks of {sizes} were metered"
        said.append(f"{what}{where} are predicted: {model.source}; rank correlation {model.rank_correlation:.3f}{wide}")
    if not target.cost_models and "energy_ratio" in names and "energy_mj" not in names:
        said.append(
            "no joules, as no processor of this kind was metered; energies are set as latencies are. On metered ARM"
            f" systems nine of ten such ratios lie within a factor of {energy.STEADY_FACTOR}, and latency ranks"
            f" networks as energy does: rank correlation {energy.STEADY_RANK:.3f} (the systems' median; the lowest"
            f" {energy.STEADY_LEAST_RANK:.3f})"
        )
    return [*said, *undecided(metrics, target.limits, target.boards)]
