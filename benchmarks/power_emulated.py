"""Whether what emulated cores count predicts metered energy better than the model's terms alone; a part of power.py.

Eight candidates, named before any was fitted. Each is judged like the model itself: constants of a number format
are fitted to all families but one, which is then predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from power_counts import FIGURES, Table, place, plain
from power_fit import Array, Quality, Row, amounts, left_out, quality
from scipy.stats import spearmanr

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
        without: how good the model is.
        found: candidate -> how good it is.
        gains: candidate -> Spearman's less the model's: 2.5th and 97.5th percentile over resampled networks.
    """

    named: str
    is_check: bool
    core: str
    networks: int
    without: Quality
    found: Mapping[str, Quality]
    gains: Mapping[str, tuple[float, float]]


def core_of(system: str) -> str:
    """Return the emulated core whose kernels a system's core would get.

    Cortex-A78AE (Orin) has the dot products of Cortex-A76; Carmel (Xavier) has none and gets those of Cortex-A72.
    """
    return "cortex-a76" if system.startswith(("firefly", "orin")) else "cortex-a72"


def trial(rows: Sequence[Row], table: Table, runtimes: Mapping[str, str], *, system: str, named: str) -> Trial:
    """Return how candidates do on one system.

    Args:
        rows: its networks; those that were not counted are left aside.
        table: what was counted.
        runtimes: number format -> runtime that it was counted with.
        system: the log's name of it.
        named: in words.
    """
    core = core_of(system)
    parts = {dtype: table.get(place(runtime, core, dtype), {}) for dtype, runtime in runtimes.items()}
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
    """Return the 2.5th and 97.5th percentile of what Spearman's gains, over networks drawn with replacement."""
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(metered), size=len(metered))
        ranks = [spearmanr(values[drawn], metered[drawn])[0] for values in (found, without)]
        differences.append(ranks[0] - ranks[1])
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)
