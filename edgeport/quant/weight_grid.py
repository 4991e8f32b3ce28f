"""Which integers weights may become with a number of bits, and the scale a channel that fits them.

8, 7 and 4 bits: the largest weight is the largest integer. 2 bits: ternary. 1 bit: binary.

With 4 bits, scales of least squared error, which clip the largest weights, were measured and rejected: error of the
outputs of ResNet-20 0.040 instead of 0.013 rounded to nearest, 0.0035 instead of 0.0043 with AdaRound (512 images).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.types import WeightBits

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST: Mapping[WeightBits, int] = {8: 127, 7: 63, 4: 7, 2: 1, 1: 1}  # integers reach from -LARGEST to LARGEST
PACKED_BITS = 4  # weights of at most so many bits lie two to a byte where a file format has that
SMALLEST_SCALE = 2.0**-100  # products of two such scales with float32 activations stay clear of float32 denormals' end
TERNARY_THRESHOLD = 0.7  # of the mean magnitude (Li et al., "Ternary Weight Networks", 2016, equation 6)


def kept_bits(weight_bits: WeightBits) -> WeightBits:
    """Return the bits of layers that are too fragile for `weight_bits`.

    Below 7 bits that is 7 on every target, of which no pair of products saturates in 16 bits: so all targets share one
    training and one set of corrections.
    """
    return max(weight_bits, 7)


def channel_scales(rows: NDArray[Any], bits: WeightBits) -> NDArray[np.float32]:
    """Return the step of each channel's integers, `(channels,)` float32, > 0.

    What lies on its grid already has the same scale again, up to float32's rounding.

    Args:
        rows: `(channels, weights)`.
        bits: of the integers.
    """
    magnitudes = np.abs(rows).astype(np.float64)
    if bits == 2:
        scales = _mean(magnitudes, magnitudes > _threshold(magnitudes))
    elif bits == 1:
        scales = _mean(magnitudes, magnitudes > 0)
    else:
        scales = magnitudes.max(axis=1) / LARGEST[bits]
    return np.maximum(scales.astype(np.float32), np.float32(SMALLEST_SCALE))


def target_steps(rows: NDArray[Any], scales: NDArray[np.float32], bits: WeightBits) -> NDArray[np.float64]:
    """Return `(channels, weights)` float64, in steps, of what is rounded to the nearest integer within +-LARGEST.

    Ternary: t = 1 where w > threshold, -1 where w < -threshold, else 0 (Li et al. 2016, equation 3). Binary: sign(w)
    (Rastegari et al., "XNOR-Net", 2016, equation 4); a weight that is exactly zero was pruned, and stays so. Both times
    the scale that `channel_scales` gives, in steps of `scales`, which may be wider.
    """
    exact = rows.astype(np.float64)
    if bits > 2:
        steps: NDArray[np.float64] = exact / scales.astype(np.float64)[:, None]
        return steps
    magnitudes = np.abs(exact)
    least = _threshold(magnitudes) if bits == 2 else 0.0
    own = channel_scales(rows, bits).astype(np.float64)[:, None]
    chosen = np.sign(exact) * (magnitudes > least)
    return np.asarray(chosen * (own / scales.astype(np.float64)[:, None]))


def _threshold(magnitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(TERNARY_THRESHOLD * magnitudes.mean(axis=1, keepdims=True))


def _mean(magnitudes: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each channel's mean of the chosen magnitudes: Li et al. 2016, equation 5; Rastegari et al. 2016, 6."""
    total = (magnitudes * chosen).sum(axis=1)
    return np.asarray(total / np.maximum(chosen.sum(axis=1), 1))
