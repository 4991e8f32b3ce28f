"""Weights kept in fewer bytes than the layers compute with: float16, or int8 with a scale a channel. Needs no data.

A file holds the small numbers and the operators that widen them; a runtime widens constants once, when it loads the
file, and computes in float32 as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgeport.types import Precision

Storage = Literal["float16", "int8"]

LARGEST_FLOAT16 = 65504.0  # IEEE 754 binary16
# Share of a tensor (Euclidean) that float16 may lose. Rounding costs at most 2**-11 of each number; below 2**-14
# numbers lose bits. Single channels are not judged: trained networks have dead ones (27 layers of EfficientNet-Lite0
# hold channels that would lose 1 % and more, up to all), and with those in float16 its lowest cosine is 0.99996.
LARGEST_LOSS = 2.0**-9
FEWEST_VALUES = 32  # a constant with fewer saves less than the operator that widens it takes
# how a file with such weights is called, and what the report says of it
MEANING: Mapping[Storage, tuple[Precision, tuple[str, ...]]] = {
    "float16": (
        "float16",
        ("float16 weights, computed in float32: half the size, float's speed; memory at run time is not halved",),
    ),
    "int8": (
        "dynamic_int8",
        (
            "int8 weights, float activations: a quarter of the size, but the runtime widens the weights and computes in"
            " float, so it is not faster than float and takes its memory; give --calibrate DATA (a few hundred"
            " unlabelled samples) for a file that computes in int8",
        ),
    ),
}
NAMED_LAYERS = 5  # how many of many layers the report describes; the others are only named
NOTHING_STORED = "no convolution or linear layer with constant weights: nothing was made smaller"


def float16_fault(values: NDArray[Any]) -> str | None:
    """Return why a constant cannot be kept in float16, in words; None where it can.

    Args:
        values: any shape, float32, finite.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if largest > LARGEST_FLOAT16:
        return f"the largest, {largest:.4g}, is beyond float16's {LARGEST_FLOAT16:g}"
    exact = values.astype(np.float64)
    loss = np.linalg.norm(exact - values.astype(np.float16)) / (np.linalg.norm(exact) or 1.0)
    return f"they are too small for float16, which would lose {loss:.0%} of them" if loss > LARGEST_LOSS else None


def stays_in_float32(faults: Mapping[str, str]) -> tuple[str, ...]:
    """Return the sentences for the report of layers (-> why) whose weights stay in float32."""
    shown = [f"the weights of '{layer}' stay in float32: {why}" for layer, why in list(faults.items())[:NAMED_LAYERS]]
    rest = list(faults)[NAMED_LAYERS:]
    return (*shown, f"and so do those of {', '.join(rest)}") if rest else tuple(shown)
