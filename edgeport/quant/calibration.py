"""The calibration that all targets share: statistics of every activation, keyed by provenance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeport.quant.observer import Statistics
from edgeport.quant.ranges import ESTIMATORS, Estimator

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Method = Literal["auto", "minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("auto", "minmax", "percentile", "entropy", "mse")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The range of one activation.

    Attributes:
        estimator: what found it.
        low: lower end, at least the smallest value seen.
        high: upper end, at most the largest value seen.
    """

    estimator: Estimator
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Activation statistics of one float network, and the ranges that were made of them.

    Attributes:
        statistics: provenance key (see `edgeport.graph.provenance`) -> statistics.
        samples: how many samples were seen.
        method: how ranges were chosen.
        choices: provenance key -> range; an activation without one spans what was seen.
    """

    statistics: Mapping[str, Statistics]
    samples: int
    method: Method = "minmax"
    choices: Mapping[str, Choice] = field(default_factory=dict)

    def range_of(self, key: str) -> tuple[float, float] | None:
        """Return the calibrated float range of an activation; None when it was never materialised."""
        chosen = self.choices.get(key)
        if chosen is not None:
            return chosen.low, chosen.high
        seen = self.statistics.get(key)
        return None if seen is None else (seen.low, seen.high)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Provenance key -> calibrated float range of every activation that was materialised."""
        found = {key: self.range_of(key) for key in self.statistics}
        return {key: ends for key, ends in found.items() if ends is not None}

    def estimators(self) -> dict[Estimator, int]:
        """Return estimator -> number of activations whose range is its, most first."""
        chosen = (self.choices.get(key) for key in self.statistics)
        return dict(Counter[Estimator]("minmax" if one is None else one.estimator for one in chosen).most_common())

    def save(self, path: Path) -> None:
        """Write to one `.npz` without pickle."""
        keys = list(self.statistics)
        seen = [self.statistics[key] for key in keys]
        chosen = list(self.choices.items())
        with path.open("wb") as file:
            np.savez(
                file,
                keys=np.array(keys, dtype=np.str_),
                ends=np.array([[s.low, s.high, s.span] for s in seen], np.float64).reshape(-1, 3),
                counts=np.stack([s.counts for s in seen]) if seen else np.zeros((0, 0), np.int64),
                zeros=np.array([s.zeros for s in seen], np.int64),
                samples=np.array(self.samples),
                method=np.array(self.method),
                chosen=np.array([key for key, _ in chosen], dtype=np.str_),
                estimators=np.array([choice.estimator for _, choice in chosen], dtype=np.str_),
                ranges=np.array([[choice.low, choice.high] for _, choice in chosen], np.float64).reshape(-1, 2),
            )

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            rows = zip(data["keys"], data["ends"], data["counts"], data["zeros"], strict=True)
            chosen = zip(data["chosen"], data["estimators"], data["ranges"], strict=True)
            known = {str(name): name for name in ESTIMATORS}
            return cls(
                statistics={
                    str(key): Statistics(
                        low=float(low), high=float(high), span=float(span), counts=counts, zeros=int(zeros)
                    )
                    for key, (low, high, span), counts, zeros in rows
                },
                samples=int(data["samples"]),
                method=next(method for method in METHODS if method == str(data["method"])),
                choices={
                    str(key): Choice(estimator=known[str(name)], low=float(low), high=float(high))
                    for key, name, (low, high) in chosen
                },
            )
