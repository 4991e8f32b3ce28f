"""How far energies differ as latencies do, board by board; a part of power.py.

A processor without a cost model has no constants to predict energy from, but its files can be timed. If a board's power
did not depend on what it computes, two files' energies would have the ratio of their latencies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from power_fit import COVERAGE, Row
from scipy.stats import spearmanr

UNUSABLE = ("rpi3",)  # systems whose latencies cannot be right: 119 ms for 14 M multiply-adds


@dataclass(frozen=True, kw_only=True)
class Steady:
    """What all metered systems say of ratios of latency in place of ratios of energy.

    Attributes:
        systems: how many.
        pairs: two networks of one family on one system, of either number format.
        p50: factor that half of the pairs lie within.
        factor: the same for nine of ten.
        rank: Spearman's, of latency with energy on one system: the median of all systems.
        least_rank: the lowest.
    """

    systems: int
    pairs: int
    p50: float
    factor: float
    rank: float
    least_rank: float


def steady(systems: Mapping[str, Sequence[Row]]) -> Steady:
    """Return how good ratios of latency are; a network is set beside others of its family, as a build's steps are."""
    errors: list[float] = []
    ranks: list[float] = []
    for name, rows in systems.items():
        if name.startswith(UNUSABLE):
            continue
        energy = np.log([row.energy_nj for row in rows])
        latency = np.log([row.latency_ns for row in rows])
        ranks.append(float(spearmanr(energy, latency).statistic))
        errors += [
            abs(energy[one] - energy[other] - latency[one] + latency[other])
            for one, other in combinations(range(len(rows)), 2)
            if rows[one].family == rows[other].family
        ]
    return Steady(
        systems=len(ranks),
        pairs=len(errors),
        p50=round(float(np.exp(np.median(errors))), 2),
        factor=round(float(np.exp(np.quantile(errors, COVERAGE))), 2),
        rank=round(float(np.median(ranks)), 3),
        least_rank=round(min(ranks), 3),
    )


def section(found: Steady) -> list[str]:
    """Return the page's lines."""
    return [
        "## Processors that nobody metered",
        "",
        "`cpu`, `intel` and other targets without a cost model get no joules, but ratios and a ranking: energies are",
        f"set as latencies are. How good that is, on all {found.systems} metered systems (ARM; no x86 processor was",
        f"metered), for {found.pairs:,} pairs of networks of one family in either number format: half of the ratios",
        f"are within a factor of {found.p50}, nine of ten within {found.factor}. Latency's rank correlation with",
        f"energy is {found.rank:.3f} (the systems' median; the lowest {found.least_rank:.3f}). Where the processor has",
        "a counter of its own (RAPL) that may be read, energy is measured instead.",
        "",
    ]
