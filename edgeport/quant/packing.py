"""Integers of at most four bits, two to a byte, the earlier in the low half: how TFLite and ONNX keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeport.quant.weight_grid import PACKED_BITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgeport.quant.scheme import Scheme
    from edgeport.types import WeightBits

SHOWN = 3  # layers that a sentence of the report names


def pack(integers: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return integers within -8..7, any shape, as `(ceil(size / 2),)` bytes."""
    halves = (integers.reshape(-1) & 0xF).astype(np.uint8)
    halves = np.append(halves, np.zeros(len(halves) % 2, np.uint8))
    return np.asarray(halves[0::2] | (halves[1::2] << 4), np.uint8)


def unpack(content: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """Return the first `count` integers of packed bytes."""
    halves = np.stack([content & 0xF, content >> 4], axis=1).reshape(-1)[:count].astype(np.int8)
    return np.where(halves > 7, halves - 16, halves).astype(np.int8)


def low_bit_notes(bits: Mapping[str, WeightBits], scheme: Scheme) -> tuple[str, ...]:
    """Return what the report says of a file with weights of few bits: what they are, and what kept more.

    Args:
        bits: provenance key -> bits of each layer's weights.
        scheme: of the file.
    """
    weight_bits = scheme.weight_bits
    if weight_bits > PACKED_BITS:
        return ()
    low = [key for key, own in bits.items() if own == weight_bits and key not in scheme.raised]
    wide = [key for key, own in bits.items() if own != weight_bits and key not in scheme.raised]
    named = ", ".join(wide[:SHOWN]) + (f" and {len(wide) - SHOWN} more" if len(wide) > SHOWN else "")
    kept = f"; those that cost more accuracy than bytes keep 7 or 8: {named}" if wide else ""
    values = {4: "4-bit weights", 2: "ternary weights", 1: "binary weights"}[weight_bits]
    spent = "" if weight_bits == PACKED_BITS else " (stored in 4; computed like int8, no runtime gains speed by them)"
    return (f"{len(low)} of {len(bits)} layers have {values}{spent}{kept}",)
