"""Random flips and shifts of image batches, the same for student and teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALLEST_SIDE = 16  # pixels; in smaller images a shift removes too much
SHIFT_SHARE = 8  # shift by up to 1/8 of a side: 4 pixels for 32 (He et al. 2015, "Deep Residual Learning", section 4.2)
COLOURS = 3


def is_image(shape: Sequence[int]) -> bool:
    """Whether a sample of this shape, (channels, height, width) without batch, is augmented."""
    return len(shape) == 3 and min(shape[1:]) >= SMALLEST_SIDE


def augmented(
    inputs: tuple[NDArray[np.generic], ...], generator: np.random.Generator
) -> tuple[NDArray[np.generic], ...]:
    """Return copies with each sample flipped left to right (chance 1/2) and shifted by up to 1/8 of its sides.

    Edges are filled by reflection, which needs no knowledge of the normalisation. Only colour images are flipped: one
    channel usually holds digits, text or a spectrogram, whose mirror image is something else. Inputs that are no images
    come back as they are; all images of one sample get the same flip and the same relative shift.

    Args:
        inputs: an array a network input, each (batch, ...); images are (batch, channels, height, width), any dtype.
        generator: source of chance.
    """
    count = len(inputs[0])
    is_flipped = generator.random(count) < 0.5
    offsets = generator.random((count, 2))  # 0..1: top and left of the crop in the padded image
    return tuple(
        _moved(array, is_flipped & (array.shape[1] == COLOURS), offsets) if is_image(array.shape[1:]) else array
        for array in inputs
    )


def _moved(
    images: NDArray[np.generic], is_flipped: NDArray[np.bool_], offsets: NDArray[np.float64]
) -> NDArray[np.generic]:
    height, width = images.shape[2:]
    down, right = height // SHIFT_SHARE, width // SHIFT_SHARE
    padded = np.pad(images, ((0, 0), (0, 0), (down, down), (right, right)), mode="reflect")
    tops = (offsets[:, 0] * (2 * down + 1)).astype(np.int64)
    lefts = (offsets[:, 1] * (2 * right + 1)).astype(np.int64)
    result = np.empty_like(images)
    for index, (top, left, flip) in enumerate(zip(tops, lefts, is_flipped, strict=True)):
        crop = padded[index, :, top : top + height, left : left + width]
        result[index] = crop[:, :, ::-1] if flip else crop
    return result
