"""Streaming statistics of one activation: memory does not depend on how many samples are seen."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

BINS = 4096  # over [-span, span); with the span a power of two, growing it merges bins exactly
SMALLEST_EXPONENT = -100  # of the span: float32 cannot hold the bins a unit of a smaller one
OUTERMOST = 4  # samples an end whose extremes are remembered
SAMPLED_VALUES = 2048  # values of each sample that enter the histogram; minimum and maximum see every value


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What is known of one activation after calibration.

    Attributes:
        low: smallest value seen.
        high: largest value seen.
        span: the histogram covers [-span, span).
        counts: `(BINS,)` int64, values per bin, of an evenly strided share of all values.
        zeros: how many of the counted values are exactly zero; they lie in bin `BINS // 2`.
    """

    low: float
    high: float
    span: float
    counts: np.ndarray
    zeros: int = 0

    @property
    def is_set_by_outliers(self) -> bool:
        """Whether all but a thousandth of the values that are not zero lie within a hundredth of the largest.

        Integers over such a range can say little of the many: they have two or three of 256 for them.
        """
        counts = self.counts.copy()
        counts[BINS // 2] -= self.zeros
        largest = max(abs(self.low), abs(self.high))
        reach = int(np.ceil(largest / 100 / (2 * self.span) * BINS)) if self.span else 0
        inner = int(counts[BINS // 2 - reach : BINS // 2 + reach].sum())
        return largest > 0 and inner >= 0.999 * counts.sum()

    def percentile_range(self, percent: float) -> tuple[float, float]:
        """Return the range that keeps `percent` of the values, cutting the same share at either end.

        An end whose cut falls into the bin of the extreme itself is kept exact.
        """
        total = int(self.counts.sum())
        if total == 0:
            return self.low, self.high
        cut = (1 - percent / 100) / 2 * total
        cumulative = np.cumsum(self.counts)
        first = int(np.searchsorted(cumulative, cut, side="right"))
        last = int(np.searchsorted(cumulative, total - cut, side="left"))
        width = 2 * self.span / BINS
        low = max(self.low, -self.span + first * width)
        high = min(self.high, -self.span + (last + 1) * width)
        return low, high


class Observer:
    """Collects `Statistics` batch by batch.

    Attributes:
        extremes: `(2, OUTERMOST)` float64, the largest -minimum and maximum of a sample, falling.
        holders: `(2, OUTERMOST)` int64, the samples that these are of, counted from 0; -1: none.
    """

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.low = np.inf
        self.high = -np.inf
        self.span = 0.0
        self.counts = np.zeros(BINS, np.int64)
        self.zeros = 0
        self.extremes = np.full((2, OUTERMOST), -np.inf)
        self.holders = np.full((2, OUTERMOST), -1)
        self._samples = 0

    def update(self, values: torch.Tensor) -> None:
        """Take in one batch, `(samples, ...)` of any floating dtype and layout.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        if values.numel() == 0:
            return
        array = _memory_order(values.float()).numpy()
        lows, highs = array.min(axis=1), array.max(axis=1)  # a tenth of the time of torch.aminmax(dim=1)
        low, high = float(lows.min()), float(highs.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("NaN or infinite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(abs(low), abs(high)))
        self._count(_strided_share(array))
        self._remember(np.stack([-lows.astype(np.float64), highs.astype(np.float64)]))

    def _remember(self, ends: np.ndarray) -> None:
        numbers = np.broadcast_to(np.arange(self._samples, self._samples + ends.shape[1]), ends.shape)
        self._samples += ends.shape[1]
        if (ends <= self.extremes[:, -1:]).all():
            return
        ends, numbers = np.hstack([self.extremes, ends]), np.hstack([self.holders, numbers])
        order = np.argsort(-ends, axis=1, kind="stable")[:, :OUTERMOST]
        self.extremes, self.holders = np.take_along_axis(ends, order, 1), np.take_along_axis(numbers, order, 1)

    def _grow(self, largest: float) -> None:
        if largest < self.span or largest == 0.0:
            return
        wanted = math.ldexp(1.0, max(SMALLEST_EXPONENT, math.frexp(largest)[1]))  # the next power of two above
        if self.span == 0.0:
            zeros = int(self.counts.sum())  # everything so far was exactly zero
            self.counts[:] = 0
            self.counts[BINS // 2] = zeros
            self.span = wanted
        while self.span < wanted:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
            self.span *= 2

    def _count(self, values: np.ndarray) -> None:
        self.zeros += values.size - int(np.count_nonzero(values))
        if self.span == 0.0:
            self.counts[BINS // 2] += values.size
            return
        scaled = values * np.float32(BINS / (2 * self.span))  # exact: a power of two; adding the span first would round
        bins = np.floor(scaled, out=scaled).astype(np.int32) + BINS // 2
        self.counts += np.bincount(bins, minlength=BINS)

    def statistics(self) -> Statistics:
        """Return what was seen so far."""
        return Statistics(low=self.low, high=self.high, span=self.span, counts=self.counts.copy(), zeros=self.zeros)


def outermost_samples(observers: Iterable[Observer], count: int) -> list[int]:
    """Return up to `count` samples, rising, that hold the most and the furthest extremes of all activations.

    A sample gains, an end of an activation, the square of how far it reaches past the `OUTERMOST`-th sample, as a share
    of the furthest reach: the squared error that clipping there would make.
    """
    scores: defaultdict[int, float] = defaultdict(float)
    for observer in observers:
        for extremes, holders in zip(observer.extremes, observer.holders, strict=True):
            if np.isfinite(extremes).all() and extremes[0] > max(extremes[-1], 0.0):
                shares = (extremes - max(extremes[-1], 0.0)) / extremes[0]
                for sample, share in zip(holders[:-1], shares[:-1], strict=True):
                    scores[int(sample)] += max(float(share), 0.0) ** 2
    ranked = sorted(scores, key=lambda sample: (-scores[sample], sample))
    return sorted(ranked[:count])


def _memory_order(values: torch.Tensor) -> torch.Tensor:
    """Return `(samples, rest)`; activations are channels-last, so nothing is copied."""
    if values.dim() == 4:
        values = values.permute(0, 2, 3, 1)
    return values.reshape(values.shape[0] if values.dim() else 1, -1)


def _strided_share(values: np.ndarray) -> np.ndarray:
    """Return about `SAMPLED_VALUES` values a sample, evenly spaced in memory order, float32."""
    stride = max(1, values.shape[1] // SAMPLED_VALUES) | 1  # odd: coprime with power-of-two channel counts
    return values[:, ::stride].reshape(-1)
