"""Channels first or last, told by how smooth pictures are along their axes."""

from __future__ import annotations

import numpy as np

from edgeport.examination.finding import Finding
from edgeport.examination.samples import CHANNELS, SMALLEST_SIDE

SMOOTHER = 0.7  # roughness of the right axis order over that of the wrong one; measured on photographs: 0.2 to 0.6
SMOOTH = 0.7  # roughness of a photograph's neighbours over that of any two pixels; noise: 1


def channels_last(shape: tuple[int, ...], values: np.ndarray) -> list[Finding]:
    """Return a finding when samples of `shape` (without batch) are pictures with the channels last.

    Args:
        shape: of one sample.
        values: `(n, *shape)`, the samples.
    """
    if len(shape) != 3 or shape[2] not in CHANNELS or shape[0] in CHANNELS or min(shape[:2]) < SMALLEST_SIDE:
        return []
    usual = _usual_difference(values)
    smoothness = _roughness(values, (1, 2)) / usual if usual > 0 else 0.0
    if smoothness > SMOOTH:
        return []
    sentence = (
        f"samples are {'x'.join(map(str, shape))}, channels last (NHWC), networks in PyTorch take channels first"
        f" ({shape[2]}x{shape[0]}x{shape[1]}): save x.transpose(0, 3, 1, 2)"
    )
    return [Finding(kind="axis_order", sentence=sentence, evidence={"shape": list(shape), "smoothness": smoothness})]


def mislabelled_axes(values: np.ndarray) -> tuple[list[Finding], np.ndarray]:
    """Return a finding when `(n, c, h, w)` holds pictures reshaped from channels last, and the pictures put right.

    Reshaping instead of transposing keeps the values in the order row, column, channel: neighbours are then channels.
    """
    n, channels, height, width = values.shape
    if channels == 1:
        return [], values
    righted = np.ascontiguousarray(values.reshape(n, height, width, channels).transpose(0, 3, 1, 2))
    rough, smooth = _roughness(values, (2, 3)), _roughness(righted, (2, 3))
    if rough == 0 or smooth / rough > SMOOTHER:
        return [], values
    sentence = (
        f"samples have the shape of channels first ({channels}x{height}x{width}), but their values lie channels last"
        " (NHWC): they were reshaped, not transposed; use x.transpose(0, 3, 1, 2) on the original"
        f" ({height}, {width}, {channels}) arrays"
    )
    return [Finding(kind="axis_order", sentence=sentence, evidence={"roughness": smooth / rough})], righted


def _roughness(values: np.ndarray, axes: tuple[int, int]) -> float:
    """Return the mean absolute difference of neighbours along two axes."""
    return float(np.mean([np.abs(np.diff(values.astype(np.float32), axis=axis)).mean() for axis in axes]))


def _usual_difference(values: np.ndarray) -> float:
    """Return the mean absolute difference of pixels far apart in `(n, h, w, c)`: half a picture, both ways."""
    floats = values.astype(np.float32)
    height, width = values.shape[1:3]
    return float(np.abs(floats - np.roll(floats, (height // 2, width // 2), axis=(1, 2))).mean())
