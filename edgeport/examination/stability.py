"""Whether there are enough samples: how much ranges still grow with their number."""

from __future__ import annotations

from math import lgamma

import numpy as np

from edgeport.examination.finding import Finding

FEWEST = 16  # below, an unseen sample leaves a range at either end with a chance above 1 / 17
GROWTH = 0.065  # of the ranges when the samples double; ResNet-20: 0.08 at 4 samples, 0.06 at 32, 0.04 at 512
ADVISED = 128

Curve = tuple[tuple[int, float], ...]


def range_curve(lows: np.ndarray, highs: np.ndarray) -> Curve:
    """Return (samples, share of the range of all samples that so many of them show on average).

    The expected largest of k of n values, drawn without replacement, is the sum over their order statistics x_(i) of
    x_(i) C(i - 1, k - 1) / C(n, k): every choice of k is covered, and nothing is random.

    Args:
        lows: `(tensors, n)`, smallest value of each sample.
        highs: `(tensors, n)`, largest value.
    """
    total = lows.shape[1] if lows.ndim == 2 else 0
    if not total:
        return ()
    sizes = [size for size in (2**power for power in range(20)) if size < total] + [total]
    ranges = np.stack([_expected_largest(highs, size) + _expected_largest(-lows, size) for size in sizes])
    usable = ranges[-1] > 0
    if not usable.any():
        return ()
    shares = (ranges[:, usable] / ranges[-1, usable]).mean(1)
    return tuple((size, float(share)) for size, share in zip(sizes, shares, strict=True))


def _expected_largest(values: np.ndarray, size: int) -> np.ndarray:
    """Return `(tensors,)`: the expected largest value of `size` samples."""
    total = values.shape[1]
    ranks = np.arange(size, total + 1)
    logs = [lgamma(rank) - lgamma(size) - lgamma(rank - size + 1) for rank in ranks.tolist()]
    chances = np.exp(np.array(logs) - (lgamma(total + 1) - lgamma(size + 1) - lgamma(total - size + 1)))
    return np.asarray(np.sort(values.astype(np.float64), axis=1)[:, size - 1 :] @ chances)


def last_growth(curve: Curve) -> float:
    """Return by which share the ranges grew when the samples doubled last."""
    if len(curve) < 2:
        return 0.0
    (before, share), (total, last) = curve[-2:]
    return float((last / share - 1) / np.log2(total / before))


def too_few(samples: int, curve: Curve) -> list[Finding]:
    """Return a finding when the ranges of `samples` samples cannot be trusted; `curve`: of all of them, or empty."""
    growth = last_growth(curve)
    if samples >= FEWEST and growth <= GROWTH:
        return []
    wanted = max(ADVISED, 4 * samples)
    are = "is 1 sample" if samples == 1 else f"are {samples} samples"
    grew = f"; doubling their number still widened the ranges by {growth:.0%}" if growth > 0 else ""
    sentence = f"there {are}{grew}; give {wanted} or more, or unseen inputs will be clipped"
    evidence = {"samples": samples, "growth": growth, "advised": wanted}
    return [Finding(kind="too_few", sentence=sentence, evidence=evidence)]
