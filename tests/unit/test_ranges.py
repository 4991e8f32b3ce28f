"""Range estimators: hand-computed cases, brute force over every pair of ends, and laws that hold for any histogram."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeport.quant.observer import BINS, Observer, Statistics
from edgeport.quant.ranges import (
    ESTIMATORS,
    STEPS,
    Estimator,
    entropy_range,
    minmax_range,
    mse_range,
    percentile_range,
    squared_error,
)

NAMES: tuple[Estimator, ...] = ("minmax", "percentile", "entropy", "mse")


def collected(values: np.ndarray | torch.Tensor) -> Statistics:
    observer = Observer()
    observer.update(torch.as_tensor(np.asarray(values, np.float32)).reshape(-1, 50))
    return observer.statistics()


def gaussian(*outliers: float, low: float = -math.inf) -> Statistics:
    """Return 100,000 normal values, cut off at `low` as a ReLU does, and a few more."""
    values = np.random.default_rng(0).normal(size=100_000)
    values[: len(outliers)] = outliers
    return collected(np.maximum(values, low))


@st.composite
def histograms(draw: st.DrawFn) -> Statistics:
    """Return statistics of arbitrary values: few or many, at one side of zero or both, with or without exact zeros."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "laplace", "uniform", "cauchy", "few"]))
    values = {
        "normal": chance.normal(size=400),
        "laplace": chance.laplace(size=400),
        "uniform": chance.uniform(-1, 1, size=400),
        "cauchy": chance.standard_cauchy(size=400),
        "few": chance.choice([0.0, 1.0, -3.0, 100.0], size=400),
    }[kind]
    values = values * 2.0 ** draw(st.integers(-30, 30)) + draw(st.sampled_from([0.0, 0.5, -20.0]))
    return collected(np.maximum(values, 0) if draw(st.booleans()) else values)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(seen=histograms())
def test_range_holds_zero_and_lies_within_what_was_seen(name: Estimator, seen: Statistics) -> None:
    low, high = ESTIMATORS[name](seen)
    assert seen.low <= low <= max(0.0, seen.low)
    assert min(0.0, seen.high) <= high <= seen.high


@settings(deadline=None, max_examples=100)
@given(seen=histograms())
def test_mse_range_errs_no_more_than_any_other(seen: Statistics) -> None:
    least = squared_error(seen, mse_range(seen))
    for name in NAMES:
        assert least <= squared_error(seen, ESTIMATORS[name](seen)) * 1.02 + 1e-300  # 1 %: what it must win to narrow


@pytest.mark.parametrize("name", NAMES)
def test_relu_output_starts_at_zero(name: Estimator) -> None:
    low, high = ESTIMATORS[name](gaussian(30.0, low=0.0))
    assert low == 0.0
    assert high > 2.0


@pytest.mark.parametrize("name", NAMES)
def test_all_zeros_stay_zero(name: Estimator) -> None:
    assert ESTIMATORS[name](collected(np.zeros(100))) == (0.0, 0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [3.7, -3.7, 1e-40, 1e30])
def test_constant_keeps_its_value(name: Estimator, value: float) -> None:
    exact = float(np.float32(value))
    assert ESTIMATORS[name](collected(np.full(100, value))) == (exact, exact)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_counted_gives_the_ends(name: Estimator) -> None:
    nothing = Statistics(low=-2.0, high=3.0, span=4.0, counts=np.zeros(BINS, np.int64))
    assert ESTIMATORS[name](nothing) == (-2.0, 3.0)


@pytest.mark.parametrize("name", ["minmax", "mse"])
@pytest.mark.parametrize("ends", [(-1.0, 1.0), (0.0, 1.0), (-0.25, 3.0)])
def test_uniform_distribution_keeps_min_and_max(name: Estimator, ends: tuple[float, float]) -> None:
    seen = collected(np.linspace(*ends, 100_000))
    assert ESTIMATORS[name](seen) == minmax_range(seen) == ends


def test_squared_error_by_hand() -> None:
    # Bins are 8 / 4096 wide. 90 values at 1 (their bin's centre: 1 + 1/1024) and 10 at 3. Within [0, 2.55] steps are
    # 0.01: 90 values are off by 0.01**2 / 12, and 10 by (3 + 1/1024 - 2.55)**2, but the last bin's centre is clipped to
    # the largest value seen, 3.
    seen = collected(np.array([1.0] * 90 + [3.0] * 10))
    expected = (90 * 0.01**2 / 12 + 10 * 0.45**2) / 100
    assert squared_error(seen, (0.0, 2.55)) == pytest.approx(expected, rel=1e-9)
    assert squared_error(seen, (0.0, 3.0)) == pytest.approx((3.0 / STEPS) ** 2 / 12, rel=1e-9)


def test_exact_zeros_make_no_error() -> None:
    half = np.array([0.0] * 500 + list(np.linspace(0.01, 1, 500)))
    assert squared_error(collected(half), (0.0, 1.0)) == pytest.approx((1 / STEPS) ** 2 / 12 / 2, rel=1e-9)


def test_modelled_error_is_that_of_real_rounding() -> None:
    values = np.random.default_rng(1).normal(size=200_000).astype(np.float32)
    for ends in ((-5.0, 5.0), (-2.0, 3.0), (-1.0, 1.0)):
        step = (ends[1] - ends[0]) / STEPS
        zero = round(-ends[0] / step)
        rounded = (np.clip(np.rint(values / step) + zero, 0, STEPS) - zero) * step
        assert squared_error(collected(values), ends) == pytest.approx(
            float(np.mean((rounded - values) ** 2)), rel=0.02
        )


def all_ends(seen: Statistics) -> tuple[np.ndarray, np.ndarray]:
    """Return every bin edge below and above zero, and the ends seen."""
    edges = (np.arange(BINS + 1) - BINS // 2) * (2 * seen.span / BINS)
    lows = np.concatenate([[min(seen.low, 0.0)], edges[(edges > seen.low) & (edges <= 0)]])
    highs = np.concatenate([edges[(edges >= 0) & (edges < seen.high)], [max(seen.high, 0.0)]])
    return lows, highs


@pytest.mark.parametrize("scale", [(0.2, 4.0), (4.0, 0.2), (1.0, 1.0)])
def test_mse_range_is_the_best_of_all_pairs_of_ends(scale: tuple[float, float]) -> None:
    chance = np.random.default_rng(2)
    tail = chance.laplace(size=20_000)
    # 60 makes bins of 1/32 wide enough that every pair can be tried.
    seen = collected(np.concatenate([np.where(tail < 0, tail * scale[0], tail * scale[1]), [60.0] * 50]))
    lows, highs = all_ends(seen)
    best = min(squared_error(seen, (low, high)) for low in lows for high in highs[:: max(1, len(highs) // 150)])
    assert squared_error(seen, mse_range(seen)) <= best * 1.001


def test_mse_range_of_a_gaussian_is_the_known_one() -> None:
    # The least of D**2 / 12 + 2 int_a^inf (x - a)**2 p(x) dx with D = 2a / 255 is at a = 3.94 for a standard normal.
    grid = np.linspace(2, 6, 4001)
    density = [math.erfc(a / math.sqrt(2)) / 2 for a in grid]
    peak = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    clipped = 2 * ((1 + grid**2) * density - grid * peak)
    known = grid[((2 * grid / STEPS) ** 2 / 12 * (1 - 2 * np.array(density)) + clipped).argmin()]
    assert known == pytest.approx(3.94, abs=0.05)
    low, high = mse_range(collected(np.random.default_rng(3).normal(size=1_000_000)))  # its largest is near 5
    assert -low == pytest.approx(known, abs=0.2)  # tails of a sample are rough: 80 values lie past 3.94
    assert high == pytest.approx(known, abs=0.2)


def test_outlier_is_cut_off_by_all_but_minmax() -> None:
    seen = gaussian(40.0)
    assert minmax_range(seen)[1] == 40.0
    for estimate in (percentile_range, entropy_range):
        assert 3.0 < estimate(seen)[1] < 8.0
    assert 3.0 < mse_range(gaussian(10.0))[1] < 10.0


def test_lone_outlier_is_kept_by_mse_when_it_costs_more_than_rounding() -> None:
    # One of 100,000 values at 40: clipped to 5 it costs 35**2 / 100,000 = 0.012, the wider steps (45 / 255)**2 / 12 =
    # 0.0026.
    assert mse_range(gaussian(40.0))[1] > 30.0


def divergence(seen: Statistics, first: int, last: int) -> float:
    """Return KL(P || Q) of bins [first, last), bin by bin, as the docstring of `entropy_range` says."""
    counts = seen.counts.astype(float)
    counts[BINS // 2] -= seen.zeros
    reference = counts[first:last].copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last:].sum()
    merged = np.zeros(last - first)
    edges = [level * (last - first) // 256 for level in range(257)]
    for start, stop in itertools.pairwise(edges):
        occupied = reference[start:stop] > 0
        if occupied.any():
            merged[start:stop] = np.where(occupied, counts[first + start : first + stop].sum() / occupied.sum(), 0)
    p, q = reference / reference.sum(), merged / merged.sum()
    if ((p > 0) & (q == 0)).any():
        return math.inf
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


def test_entropy_range_diverges_least_of_the_ends_tried() -> None:
    seen = gaussian(12.0, low=0.0)
    low, high = entropy_range(seen)
    width = 2 * seen.span / BINS
    middle = BINS // 2
    found = divergence(seen, middle, middle + round(high / width))
    highest = middle + math.floor(seen.high / width) + 1
    tried = np.unique(np.linspace(0, highest - middle, 128).astype(int))
    everything = {stop: divergence(seen, middle, middle + stop) for stop in tried if stop >= 256}
    assert low == 0.0
    assert found == pytest.approx(min(everything.values()), abs=1e-12)
    assert found < divergence(seen, middle, highest)


def test_entropy_of_identical_distributions_is_zero_and_keeps_the_ends() -> None:
    # 200 values 1/64 apart: each has a level of its own, so merging changes nothing and KL is 0.
    seen = collected(np.arange(200) / 64 + 1e-3)
    assert entropy_range(seen) == minmax_range(seen)
    assert divergence(seen, BINS // 2, BINS) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_mirrored_values_have_the_mirrored_range(name: Estimator) -> None:
    values = np.random.default_rng(5).laplace(size=50_000)
    values[:3] = 30.0
    width = 2 * 32 / BINS
    low, high = ESTIMATORS[name](collected(values))
    mirrored = ESTIMATORS[name](collected(-values))
    tolerance = 3.0 if name == "entropy" else 4 * width  # its two ends are found in turn, low after high
    assert mirrored == pytest.approx((-high, -low), abs=tolerance)
