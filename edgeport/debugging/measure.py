"""Errors of a value against another, summed over samples: signal-to-quantization-noise ratio and cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

HIGHEST_DB = 140.0  # beyond float32's rounding: 24 bits of mantissa are 144 dB
LOWEST_DB = -40.0


@dataclass
class Sums:
    """What both figures need, in float64.

    SQNR = 10 log10(sum r^2 / sum (r - x)^2) in dB, over all elements of all samples; r is the reference.
    Cosine = sum r x / sqrt(sum r^2 sum x^2).
    """

    signal: float = 0.0
    noise: float = 0.0
    power: float = 0.0
    product: float = 0.0

    def add(self, reference: np.ndarray, found: np.ndarray) -> None:
        """Add one sample; a value of another shape, or one that is not finite, counts as nothing but noise."""
        known = reference.astype(np.float64).ravel()
        signal = float(known @ known)
        self.signal += signal
        other = found.astype(np.float64).ravel()
        if reference.shape != found.shape or not np.isfinite(other).all():
            self.noise += max(signal, 1e-30) * 10 ** (-LOWEST_DB / 10)
            return
        self.noise += float((known - other) @ (known - other))
        self.power += float(other @ other)
        self.product += float(known @ other)

    @property
    def sqnr_db(self) -> float:
        """Within LOWEST_DB..HIGHEST_DB, also where there is no noise or no signal."""
        if self.noise <= 0.0:
            return HIGHEST_DB
        if self.signal <= 0.0:
            return LOWEST_DB
        return min(HIGHEST_DB, max(LOWEST_DB, 10 * math.log10(self.signal / self.noise)))

    @property
    def cosine(self) -> float:
        """1 for two values that are both nothing."""
        if self.signal <= 0.0 or self.power <= 0.0:
            return 1.0 if self.signal <= 0.0 and self.power <= 0.0 else 0.0
        return self.product / math.sqrt(self.signal * self.power)
