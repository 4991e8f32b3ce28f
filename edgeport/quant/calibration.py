"""The calibration that all targets share: statistics of every activation, keyed by provenance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeport.quant.observer import Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Method = Literal["auto", "minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("auto", "minmax", "percentile", "entropy", "mse")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Activation statistics of one float network.

    Attributes:
        statistics: provenance key (see `edgeport.graph.provenance`) -> statistics.
        samples: how many samples were seen.
        method: how a range is made of the statistics.
        percent: share of values that the `percentile` method keeps, in percent.
    """

    statistics: Mapping[str, Statistics]
    samples: int
    method: Method = "minmax"
    percent: float = 99.99

    def range_of(self, key: str) -> tuple[float, float] | None:
        """Return the calibrated float range of an activation; None when it was never materialised."""
        seen = self.statistics.get(key)
        if seen is None:
            return None
        if self.method == "percentile":
            return seen.percentile_range(self.percent)
        return seen.low, seen.high

    def save(self, path: Path) -> None:
        """Write to one `.npz` without pickle."""
        keys = list(self.statistics)
        seen = [self.statistics[key] for key in keys]
        with path.open("wb") as file:
            np.savez(
                file,
                keys=np.array(keys, dtype=np.str_),
                ends=np.array([[s.low, s.high, s.span] for s in seen], np.float64).reshape(-1, 3),
                counts=np.stack([s.counts for s in seen]) if seen else np.zeros((0, 0), np.int64),
                samples=np.array(self.samples),
                method=np.array(self.method),
                percent=np.array(self.percent),
            )

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            method = next(method for method in METHODS if method == str(data["method"]))
            statistics = {
                str(key): Statistics(low=float(low), high=float(high), span=float(span), counts=counts)
                for key, (low, high, span), counts in zip(data["keys"], data["ends"], data["counts"], strict=True)
            }
            return cls(
                statistics=statistics, samples=int(data["samples"]), method=method, percent=float(data["percent"])
            )
