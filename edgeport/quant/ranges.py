"""Range estimators: from the streamed statistics of one activation to the ends that its 256 integers span.

All read the same histogram, so trying another estimator costs no second pass over the samples. Every range lies within
what was seen and, with zero added, holds zero: integers must be able to say 0.0. Exact zeros (half of a ReLU's output)
are left out of the error and entropy models, since every candidate represents them exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeport.quant.observer import BINS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeport.quant.observer import Statistics

Range = tuple[float, float]
Estimator = Literal["minmax", "percentile", "entropy", "mse"]

STEPS = 255  # between the 256 integers
COARSE_ENDS = 64  # ends a side of the first, exhaustive grid; coordinate descent then looks at every bin
COARSE_ENTROPY_ENDS = 24  # ends a side of the first, exhaustive grid
ENTROPY_ENDS = 128  # ends a side whose divergence is computed
LEAST_GAIN = 0.01  # share of the error that a narrower range must save: less is the histogram's own resolution
PERCENT = 99.99


def minmax_range(seen: Statistics) -> Range:
    """Return the smallest and largest value seen."""
    return seen.low, seen.high


def percentile_range(seen: Statistics, percent: float = PERCENT) -> Range:
    """Return the range that keeps `percent` of the values, the same share cut at either end; zero stays inside."""
    return _within(seen, *seen.percentile_range(percent))


def mse_range(seen: Statistics) -> Range:
    """Return the range with the least expected squared quantization error.

    With steps of D = (high - low) / 255, a value inside is off by an error that is uniform in +-D/2, whose square is
    D**2 / 12 on average (Bennett, "Spectra of Quantized Signals", 1948); a value outside is off by its distance to the
    end. The expected error is the sum of both parts over the histogram, as in Banner et al., "Post Training 4-bit
    Quantization of Convolutional Networks for Rapid-Deployment" (2019), section 2, which has closed forms for
    Gaussian and Laplacian densities; here the density is the histogram itself and either end is free.
    """
    ends = _Ends.of(seen)
    if ends is None:
        return seen.low, seen.high
    whole = ends.errors(0, -1)
    lows = np.unique(np.linspace(0, len(ends.lows) - 1, COARSE_ENDS).astype(int))
    highs = np.unique(np.linspace(0, len(ends.highs) - 1, COARSE_ENDS).astype(int))
    grid = ends.errors(lows[:, None], highs[None])
    row, column = np.unravel_index(int(grid.argmin()), grid.shape)
    first, last = int(lows[row]), int(highs[column])
    best = float(grid.min())
    while True:
        first = int(ends.errors(np.arange(len(ends.lows)), last).argmin())
        last = int(ends.errors(first, np.arange(len(ends.highs))).argmin())
        found = float(ends.errors(first, last))
        if found >= best:
            break
        best = found
    if min(best, found) > (1 - LEAST_GAIN) * float(whole):
        return seen.low, seen.high
    return _within(seen, float(ends.lows[first]), float(ends.highs[last]))


def squared_error(seen: Statistics, ends: Range) -> float:
    """Return the expected squared error a value of quantizing to a range: rounding and clipping, see `mse_range`.

    Ends that lie inside a bin of the histogram are taken as they are; values of a bin lie at its centre.
    """
    counts, centres = _nonzero(seen)
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    clipped = np.clip(centres, low, high) - centres
    inside = float(counts[clipped == 0].sum())
    total = max(1, int(seen.counts.sum()))
    return (inside * ((high - low) / STEPS) ** 2 / 12 + float(counts @ clipped**2)) / total


def entropy_range(seen: Statistics) -> Range:
    """Return the range whose quantized distribution diverges least from the one seen.

    KL(P || Q) = sum P log(P / Q), where P is the histogram between the ends with everything outside added to its first
    and last bin, and Q is that histogram without what was outside, merged into the integers' levels and spread evenly
    over each level's occupied bins. Migacz, "8-bit Inference with TensorRT" (GPU Technology Conference 2017). There one
    end of a symmetric range is moved; here either end is, in turn, and a range is never narrower than a bin a level.
    """
    ends = _Ends.of(seen)
    if ends is None:
        return seen.low, seen.high
    coarse = [
        np.unique(np.linspace(0, len(side) - 1, COARSE_ENTROPY_ENDS).astype(int)) for side in (ends.lows, ends.highs)
    ]
    rows, columns = (grid.ravel() for grid in np.meshgrid(coarse[0], coarse[1][::-1], indexing="ij"))  # widest first
    start = ends.divergences(rows, columns)
    first, last, best = int(rows[start.argmin()]), int(columns[start.argmin()]), np.inf
    lows = np.unique(np.linspace(0, len(ends.lows) - 1, ENTROPY_ENDS).astype(int))
    highs = np.unique(np.linspace(0, len(ends.highs) - 1, ENTROPY_ENDS).astype(int))[::-1]
    while True:
        last = int(highs[ends.divergences(np.full(len(highs), first), highs).argmin()])
        found = ends.divergences(lows, np.full(len(lows), last))
        first = int(lows[found.argmin()])
        if not found.min() < best:
            break
        best = float(found.min())
    return _within(seen, float(ends.lows[first]), float(ends.highs[last]))


ESTIMATORS: Mapping[Estimator, Callable[[Statistics], Range]] = {
    "minmax": minmax_range,
    "percentile": percentile_range,
    "mse": mse_range,
    "entropy": entropy_range,
}


def _within(seen: Statistics, low: float, high: float) -> Range:
    """Return the range with zero inside, as far as zero was inside of what was seen."""
    return max(seen.low, min(low, 0.0)), min(seen.high, max(high, 0.0))


def _nonzero(seen: Statistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the counts of values other than exactly zero, and where the values of each bin lie; both `(BINS,)`."""
    width = 2 * seen.span / BINS
    centres = np.clip((np.arange(BINS) - BINS // 2 + 0.5) * width, seen.low, seen.high)
    counts = seen.counts.astype(np.float64)
    counts[BINS // 2] -= seen.zeros
    return counts, centres


@dataclass(frozen=True)
class _Ends:
    """Candidate ends on the bins' edges, from the widest low and to the widest high, with sums to judge them by.

    Attributes:
        lows: `(L,)` float64, rising to 0; the first is the smallest value seen (or 0).
        highs: `(H,)` float64, rising from 0; the last is the largest value seen (or 0).
        first: bin whose lower edge `lows[0]` is in; candidate i starts at bin `first + i`.
        counts: `(BINS,)` float64, without exact zeros.
        sums: `(3, BINS + 1)` float64: running sums of counts, of counts * centre, of counts * centre**2.
    """

    lows: NDArray[np.float64]
    highs: NDArray[np.float64]
    first: int
    counts: NDArray[np.float64]
    sums: NDArray[np.float64]

    @classmethod
    def of(cls, seen: Statistics) -> _Ends | None:
        """Return the candidates; None where there is nothing to choose: a constant, or nothing was counted."""
        counts, centres = _nonzero(seen)
        if seen.low == seen.high or not counts.any():
            return None
        width = 2 * seen.span / BINS
        middle = BINS // 2
        first = middle + min(0, int(np.floor(seen.low / width)))
        last = middle + max(0, int(np.floor(seen.high / width)) + 1)  # one past the bin of the largest
        lows = np.arange(first - middle, 1, dtype=np.float64) * width
        highs = np.arange(0, last - middle + 1, dtype=np.float64) * width
        lows[0], highs[-1] = min(seen.low, 0.0), max(seen.high, 0.0)
        moments = np.stack([counts, counts * centres, counts * centres**2])
        sums = np.concatenate([np.zeros((3, 1)), np.cumsum(moments, axis=1)], axis=1)
        return cls(lows, highs, first, counts, sums)

    def errors(self, low: NDArray[np.int64] | int, high: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """Return the summed squared error for candidates (indices into `lows` and `highs`, broadcast together)."""
        starts, stops = self.first + np.asarray(low), BINS // 2 + np.asarray(high) % len(self.highs)
        bottom, top = self.lows[low], self.highs[high]
        below, above = self.sums[:, starts], self.sums[:, -1:].reshape(3, *[1] * np.ndim(stops)) - self.sums[:, stops]
        clipped = _spread(below, bottom) + _spread(above, top)
        inside = self.sums[0, stops] - self.sums[0, starts]
        found: NDArray[np.float64] = inside * ((top - bottom) / STEPS) ** 2 / 12 + clipped
        return found

    def divergences(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return KL(P || Q) for candidates, `(n,)` each; infinite where an end has no mass or bins are too few."""
        starts, stops = self.first + low, BINS // 2 + high
        levels = min(STEPS + 1, len(self.lows) + len(self.highs) - 2)
        totals = self.sums[0]
        total, inside = totals[-1], totals[stops] - totals[starts]
        outside = np.stack([totals[starts], total - totals[stops]])
        edges = starts[:, None] + (np.arange(levels + 1) * (stops - starts)[:, None]) // levels
        is_usable = (stops - starts >= levels) & (inside > 0)
        edges = np.clip(edges, 0, BINS)
        mass = np.diff(totals[edges], axis=1)
        occupied = np.diff(np.concatenate([[0], np.cumsum(self.counts > 0)])[edges], axis=1)
        ending = np.stack([self.counts[np.clip(starts, 0, BINS - 1)], self.counts[np.clip(stops - 1, 0, BINS - 1)]])
        whole = mass.copy()
        for place, column in ((0, 0), (1, -1)):
            whole[:, column] += outside[place]
            occupied[:, column] += (ending[place] == 0) & (outside[place] > 0)
        running = np.concatenate([[0.0], np.cumsum(_xlogx(self.counts))])
        own = running[stops] - running[starts] + (_xlogx(ending + outside) - _xlogx(ending)).sum(0)
        is_usable &= ~((whole > 0) & (mass == 0)).any(1)
        spread = np.log(np.where(mass > 0, mass, 1.0) / np.maximum(occupied, 1))
        found = (own - (whole * spread).sum(1)) / total + np.log(np.maximum(inside, 1) / total)
        return np.where(is_usable, found, np.inf)


def _spread(sums: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sum c (x - end)**2 from the sums of c, c x and c x**2; never below zero by rounding."""
    found: NDArray[np.float64] = np.maximum(sums[2] - 2 * end * sums[1] + end**2 * sums[0], 0.0)
    return found


def _xlogx(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return x log x, 0 at 0."""
    found: NDArray[np.float64] = values * np.log(np.where(values > 0, values, 1.0))
    return found
