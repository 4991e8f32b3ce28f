"""Where the int8 files of a backend round values, as its runtime runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What differs between runtimes; all of them round a layer's input and its weights.

    Attributes:
        rounded: which values are 8-bit: `all` of them; `inner` ones and convolutions' results, but no others that only
            leave the network; or `read`, those that a layer or an addition reads.
        rounds_addends: whether a layer's result is 8-bit where it is only added to something; if not, it is clipped to
            the range of 8 bits and added as it is.
        clips_on_grid: whether a ReLU or clip that cannot be part of the layer before it keeps that one's grid.
        fuses_additions: whether two grids are added by two fused multiply-adds in float32, on integers; if not, the
            sum of what they stand for.
        rounds_bias: whether biases are 32-bit integers; if not, they are float32.
    """

    rounded: Literal["all", "inner", "read"]
    rounds_addends: bool
    clips_on_grid: bool
    fuses_additions: bool
    rounds_bias: bool
