"""Fits the constants of `edgeport.cost_model` to metered boards, and predicts what was left out; a part of power.py."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from power_networks import operators
from scipy.optimize import nnls
from scipy.stats import kendalltau, spearmanr

from edgeport.cost_model import FORMATS, TERMS, Format, Terms, features
from edgeport.types import OpCost

Array = NDArray[np.float64]
Figure = Literal["energy", "latency"]

COVERAGE = 0.9  # share of networks that an interval is to hold
ROUNDS = 8  # of reweighting; the weights settle after four
ROBUST = 1.5  # standard deviations beyond which a residual counts linearly (Huber 1964)
LEAST_SPREAD = 0.01  # relative; below, all residuals count alike
DIGITS = 4  # significant ones of the constants
HOROWITZ_PJ = {"int8": 0.23, "float32": 4.6}  # a multiply and an add, 45 nm (Horowitz, ISSCC 2014, figure 1.1.9)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network on one board, repeated runs averaged.

    Attributes:
        network: as the log names it.
        dtype: number format.
        family: architecture family, which is left out as a whole.
        costs: its operators.
        energy_nj: of the whole board, mean of an inference.
        latency_ns: median.
        watts: mean of the board while it infers.
        idle_watts: lowest sample outside of that.
    """

    network: str
    dtype: Format
    family: str
    costs: tuple[OpCost, ...]
    energy_nj: float
    latency_ns: float
    watts: float
    idle_watts: float

    def figure(self, name: Figure) -> float:
        """Return energy in nanojoules, or latency in nanoseconds."""
        return self.energy_nj if name == "energy" else self.latency_ns

    @property
    def terms(self) -> Array:
        """What the network has of each term of its number format."""
        found = features(self.costs)[self.dtype]
        return np.array([found[name] for name in TERMS])


def read(folder: Path, *, name: str = "mlperf_edge_singlestream.csv") -> dict[str, tuple[Row, ...]]:
    """Return system -> its metered networks, in the order of the log; systems with both number formats only."""
    runs: dict[tuple[str, str, str, str], list[tuple[float, ...]]] = defaultdict(list)
    with (folder / name).open(newline="") as file:
        for row in csv.DictReader(file):
            if row["mJ_per_inf"] and row["macs"]:
                dtype = "int8" if row["dtype"] == "int8" else "float32"
                key = row["system"], row["model"], dtype, row["family"]
                idle = float(row["idle_W_minlog"] or "nan")
                figures = float(row["mJ_per_inf"]) * 1e6, float(row["p50_ms"]) * 1e6, float(row["avg_W"]), idle
                runs[key].append(figures)
    systems: dict[str, list[Row]] = defaultdict(list)
    for (system, network, dtype, family), found in runs.items():
        energy, latency, watts, idle = np.mean(found, axis=0)
        form: Format = "int8" if dtype == "int8" else "float32"
        systems[system].append(
            Row(
                network=network,
                dtype=form,
                family=family,
                costs=operators(network, form),
                energy_nj=float(energy),
                latency_ns=float(latency),
                watts=float(watts),
                idle_watts=float(idle),
            )
        )
    return {system: tuple(rows) for system, rows in systems.items() if len({row.dtype for row in rows}) == len(FORMATS)}


def constants(rows: Sequence[Row], figure: Figure) -> Terms:
    """Return the constants, none negative, that leave the least relative error, outliers counting less."""
    values = solve(amounts(rows), np.array([row.figure(figure) for row in rows]))
    return Terms(**dict(zip(TERMS, values.tolist(), strict=True)))


def solve(counted: Array, metered: Array) -> Array:
    """Return what each term costs, not negative, with the least relative error, outliers counting less.

    Iteratively reweighted least squares (Holland and Welsch 1977) with Huber's weights.

    Args:
        counted: how much of each term a network has, (networks, terms).
        metered: (networks,).
    """
    scale = counted.max(axis=0)
    scale[scale == 0] = 1.0
    relative = counted / scale / metered[:, None]
    weights = np.ones(len(metered))
    solution = np.zeros(len(scale))
    for _ in range(ROUNDS):
        solution = nnls(relative * weights[:, None], weights)[0]
        residuals = np.abs(relative @ solution - 1)
        spread = max(LEAST_SPREAD, 1.4826 * float(np.median(residuals)))
        weights = 1 / np.sqrt(np.maximum(1, residuals / (ROBUST * spread)))
    return np.array([float(f"{value:.{DIGITS}g}") for value in solution / scale])


def amounts(rows: Sequence[Row]) -> Array:
    """Return how much of each of `TERMS` each network has, (networks, terms)."""
    return np.array([row.terms for row in rows])


def predict(terms: Terms, rows: Sequence[Row]) -> Array:
    """Return the figure of each row."""
    values = np.array([getattr(terms, name) for name in TERMS])
    return amounts(rows) @ values


def left_out(rows: Sequence[Row], figure: Figure, counted: Array | None = None) -> Array:
    """Return each row's prediction by constants fitted to the other families of its number format.

    Args:
        rows: networks of one board.
        figure: what is predicted.
        counted: how much of each term a row has, (rows, terms); None: of `TERMS`.
    """
    counted = amounts(rows) if counted is None else counted
    metered = np.array([row.figure(figure) for row in rows])
    found = np.zeros(len(rows))
    for form in FORMATS:
        for family in {row.family for row in rows if row.dtype == form}:
            own = np.array([row.dtype == form and row.family == family for row in rows])
            others = np.array([row.dtype == form and row.family != family for row in rows])
            found[own] = counted[own] @ solve(counted[others], metered[others])
    return found


def factor(predicted: Array, metered: Array) -> float:
    """Return the factor within which `COVERAGE` of the predictions lie."""
    ratios = np.exp(np.abs(np.log(predicted / metered)))
    rank = min(len(ratios) - 1, int(np.ceil((len(ratios) + 1) * COVERAGE)) - 1)
    return float(np.sort(ratios)[rank])


def coverage(rows: Sequence[Row], figure: Figure, predicted: Array) -> float:
    """Return the share of rows inside an interval that their own family had no part in.

    The predictions come from the other families, and so does the factor: it is that of the predictions made for the
    other families (the jackknife of cross-conformal prediction; Barber et al. 2021).
    """
    metered = np.array([row.figure(figure) for row in rows])
    inside = np.zeros(len(rows), dtype=bool)
    for form in FORMATS:
        for family in {row.family for row in rows if row.dtype == form}:
            own = np.array([row.dtype == form and row.family == family for row in rows])
            others = np.array([row.dtype == form and row.family != family for row in rows])
            limit = np.log(factor(predicted[others], metered[others]))
            inside |= own & (np.abs(np.log(predicted / metered)) <= limit)
    return float(inside.mean())


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How predictions compare with a meter.

    Attributes:
        spearman: rank correlation.
        kendall: tau.
        p50: median of the relative error.
        p90: nine of ten errors are at most this.
        covered: share inside the interval that their own family had no part in; None: no interval.
    """

    spearman: float
    kendall: float
    p50: float
    p90: float
    covered: float | None = None


def quality(predicted: Array, metered: Array, covered: float | None = None) -> Quality:
    """Return how well predictions do."""
    errors = np.abs(predicted / metered - 1)
    return Quality(
        spearman=float(spearmanr(predicted, metered)[0]),
        kendall=float(kendalltau(predicted, metered)[0]),
        p50=float(np.median(errors)),
        p90=float(np.quantile(errors, 0.9)),
        covered=covered,
    )


def _macs(row: Row) -> float:
    return float(sum(cost.macs for cost in row.costs))


def _bytes(row: Row) -> float:
    return float(sum(cost.weight_bytes + cost.activation_bytes for cost in row.costs))


def _picojoules(row: Row) -> float:
    return _macs(row) * HOROWITZ_PJ[row.dtype]


PROXIES: dict[str, Callable[[Row], float]] = {
    "MACs": _macs,
    "bytes moved": _bytes,
    "MACs x Horowitz's pJ": _picojoules,
}


def proxy_rank(rows: Sequence[Row], proxy: Callable[[Row], float]) -> float:
    """Return the rank correlation of a plain count with metered energy."""
    return float(spearmanr([proxy(row) for row in rows], [row.energy_nj for row in rows])[0])


def transferred(source: Sequence[Row], board: Sequence[Row], *, point: int) -> tuple[Array, Array]:
    """Predict another board from a metered one, scaled by one metered network of it.

    Args:
        source: of the board whose constants are used.
        board: of the other.
        point: index of the network that was metered there.

    Returns:
        Predicted and metered energy of all other networks, nanojoules.
    """
    raw = np.zeros(len(board))
    for form in FORMATS:
        places = [index for index, row in enumerate(board) if row.dtype == form]
        terms = constants([row for row in source if row.dtype == form], "energy")
        raw[places] = predict(terms, [board[place] for place in places])
    metered = np.array([row.energy_nj for row in board])
    rest = np.arange(len(board)) != point
    return (raw * metered[point] / raw[point])[rest], metered[rest]
