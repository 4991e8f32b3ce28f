"""Whether what emulated cores count predicts metered energy better than the model's terms alone; a part of power.py.

Eight candidates, named before any was fitted. Each is judged like the model itself: constants of a number format
are fitted to all families but one, which is then predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from power_counts import FIGURES, RUNTIMES, Table, place, plain
from power_fit import Array, Quality, Row, amounts, left_out, quality
from power_layers import BYTES
from scipy.stats import rankdata

from edgeport.cost_model import TERMS

ALONE = ("fixed",)
CANDIDATES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # terms of the model that stay; what is added
    "and instructions": (TERMS, ("instructions",)),
    "and vector instructions": (TERMS, ("simd",)),
    "and bytes loaded and stored": (TERMS, ("memory_bytes",)),
    "and first-level misses": (TERMS, ("l1d_misses",)),
    "and second-level misses": (TERMS, ("l2_misses",)),
    "instructions instead of multiply-adds": (
        tuple(name for name in TERMS if name not in ("mac", "depthwise_mac")),
        ("instructions",),
    ),
    "second-level misses instead of bytes": (
        tuple(name for name in TERMS if not name.endswith("_byte")),
        ("l2_misses",),
    ),
    "instructions and misses of both levels alone": (ALONE, ("instructions", "l1d_misses", "l2_misses")),
}
RESAMPLES = 1000  # of the networks, for the spread of a difference


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One system with and without candidates, on the networks that were counted.

    Attributes:
        named: the system in words.
        is_check: it had no part in choosing the model's terms.
        core: that stands in for it.
        networks: how many.
        absent: those that were not counted.
        without: how good the model is.
        found: candidate -> how good it is.
        gains: candidate -> Spearman's less the model's: 2.5th and 97.5th percentile over resampled networks.
    """

    named: str
    is_check: bool
    core: str
    networks: int
    absent: tuple[str, ...]
    without: Quality
    found: Mapping[str, Quality]
    gains: Mapping[str, tuple[float, float]]

    def change(self, name: str) -> float:
        """Return by how much a candidate raises the rank correlation."""
        return self.found[name].spearman - self.without.spearman

    def is_sure(self, name: str) -> bool:
        """Whether the change has one sign in 95 % of resampled sets of networks."""
        low, high = self.gains[name]
        return low > 0 or high < 0


def core_of(system: str) -> str:
    """Return the emulated core whose kernels a system's core would get.

    Cortex-A78AE (Orin) has the dot products of Cortex-A76; Carmel (Xavier) has none and gets those of Cortex-A72.
    """
    return "cortex-a76" if system.startswith(("firefly", "orin")) else "cortex-a72"


def trial(rows: Sequence[Row], table: Table, *, system: str, named: str) -> Trial:
    """Return how candidates do on one system.

    Args:
        rows: its networks; those that were not counted are left aside.
        table: what was counted.
        system: the log's name of it.
        named: in words.
    """
    core = core_of(system)
    parts = {dtype: table.get(place(RUNTIMES[0], core, dtype), {}) for dtype in BYTES}
    absent = [f"{row.network} {row.dtype}" for row in rows if plain(row.network) not in parts[row.dtype]]
    rows = [row for row in rows if plain(row.network) in parts[row.dtype]]
    counts = np.array([parts[row.dtype][plain(row.network)] for row in rows], dtype=np.float64)
    metered = np.array([row.energy_nj for row in rows])
    base = left_out(rows, "energy")
    predictions = {name: left_out(rows, "energy", counted(rows, counts, *what)) for name, what in CANDIDATES.items()}
    return Trial(
        named=named,
        is_check=named == system,
        core=core,
        networks=len(rows),
        absent=tuple(absent),
        without=quality(base, metered),
        found={name: quality(values, metered) for name, values in predictions.items()},
        gains={name: gain(base, values, metered) for name, values in predictions.items()},
    )


def counted(rows: Sequence[Row], counts: Array, kept: Sequence[str], added: Sequence[str]) -> Array:
    """Return how much of each term a network has, (networks, terms).

    Args:
        rows: the networks.
        counts: (networks, figures) as in `FIGURES`.
        kept: terms of the model.
        added: figures; `memory_bytes` is loaded and stored ones together.
    """
    terms = amounts(rows)[:, [TERMS.index(name) for name in kept]]
    names = {name: counts[:, index] for index, name in enumerate(FIGURES)}
    names["memory_bytes"] = names["load_bytes"] + names["store_bytes"]
    return np.column_stack([terms, *(names[name] for name in added)])


def gain(without: Array, found: Array, metered: Array) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of Spearman's change, over networks drawn with replacement."""
    drawn = np.random.default_rng(0).integers(len(metered), size=(RESAMPLES, len(metered)))
    ranks = [rankdata(values[drawn], axis=1) for values in (found, without, metered)]
    new, old, meter = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    gains = [
        (each * meter).sum(axis=1) / np.sqrt((each**2).sum(axis=1) * (meter**2).sum(axis=1)) for each in (new, old)
    ]
    least, most = np.quantile(gains[0] - gains[1], [0.025, 0.975])
    return float(least), float(most)


def section(trials: Sequence[Trial]) -> list[str]:
    """Return the page's section, a line each."""
    absent = sorted({name for one in trials for name in one.absent})
    return [
        "## Emulated counts as further terms",
        "",
        "The files that were metered are not published. `python benchmarks/power_counts.py` writes stand-ins with",
        "random weights from the same layers and counts one inference of each on an emulated core in LiteRT 2.3",
        "(`docs/power_counts.json`; emulated: exact, without latency). Orin's cores are stood in for by Cortex-A76;",
        "Xavier's, which have no dot products, by Cortex-A72. The boards ran TensorFlow Lite 2.4 to 2.11 or Arm NN, so",
        "kernels may differ from those counted. The candidates were named before any was fitted. Each is judged like",
        "the model: energy of left-out families, the same networks with and without. A star marks a change of",
        "Spearman's that has one sign in 95 % of resampled sets of networks.",
        *([f"Not counted, so in no fit of this section: {', '.join(absent)}."] if absent else []),
        "",
        *_table("Spearman", trials, _spearman),
        *_table("Kendall", trials, _kendall),
        *_table("Error p50 / p90", trials, _errors),
        *verdict(trials),
        "",
    ]


def _table(title: str, trials: Sequence[Trial], cell: Callable[[Trial, str | None], str]) -> list[str]:
    """Return a table with a row a system and a column a candidate."""
    rows = [
        f"| {one.named}{' (check)' if one.is_check else ''} | {one.networks} | {one.core} |"
        f" {' | '.join(cell(one, name) for name in (None, *CANDIDATES))} |"
        for one in trials
    ]
    header = f"| system | networks | counted on | the model | {' | '.join(CANDIDATES)} |"
    return [f"{title}:", "", header, f"|---|---|---|---|{'---|' * len(CANDIDATES)}", *rows, ""]


def verdict(trials: Sequence[Trial]) -> list[str]:
    """Return what the trials decide, a line a candidate and a conclusion."""
    calibrated = sum(not one.is_check for one in trials)
    lines, helps = [], []
    for name in CANDIDATES:
        changes = [one.change(name) for one in trials]
        raised = [sum(change > 0 for change in part) for part in (changes[:calibrated], changes[calibrated:])]
        lines.append(
            f"- {name}: raises Spearman's on {raised[0]} of {calibrated} calibrated systems and {raised[1]} of"
            f" {len(trials) - calibrated} checks; changes of {min(changes):+.4f} to {max(changes):+.4f}."
        )
        if raised == [calibrated, len(trials) - calibrated]:
            helps.append(name)
    sure = [one.change(name) > 0 for one in trials for name in CANDIDATES if one.is_sure(name)]
    lines += ["", f"Starred: {sum(sure)} rises and {len(sure) - sum(sure)} falls."]
    if helps:
        return [*lines, f"On all systems the rank correlation is higher with: {'; '.join(helps)}."]
    return [*lines, "None raises the rank correlation on all systems, so no count became a term of the model."]


def _spearman(one: Trial, name: str | None) -> str:
    if name is None:
        return f"{one.without.spearman:.4f}"
    return f"{one.found[name].spearman:.4f}{' *' if one.is_sure(name) else ''}"


def _kendall(one: Trial, name: str | None) -> str:
    return f"{(one.found[name] if name else one.without).kendall:.3f}"


def _errors(one: Trial, name: str | None) -> str:
    found = one.found[name] if name else one.without
    return f"{found.p50:.1%} / {found.p90:.1%}"
