"""What a report says of predicted figures: where they come from, how good they are, which limits they leave open."""

from __future__ import annotations

from collections.abc import Sequence

from edgeport.profile import TargetProfile
from edgeport.types import Metric, OpCost
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
    return [*said, *undecided(metrics, target.limits, target.boards)]
