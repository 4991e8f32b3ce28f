"""Bias correction: what rounding shifts in the mean of a layer's output is taken back through its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section 4.2: the shift
of output channel c is E[y'_c] - E[y_c], and b_c loses it. With exact inputs it is (W' - W) E[x] (equation 17). Here it
is measured on calibration samples (their appendix D), layer after layer, each given what arrives from the layers
corrected before it, so that shifts from clipped ranges and from earlier layers go too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def expected_shift(weight: torch.Tensor, rounded: torch.Tensor, mean_input: torch.Tensor) -> torch.Tensor:
    """Return (W' - W) E[x] of a linear layer, `(out,)`.

    Args:
        weight: W, `(out, in)`.
        rounded: W', as its integers stand for it.
        mean_input: E[x], `(in,)`.
    """
    return (rounded - weight) @ mean_input


def measured_shift(exact: Sequence[torch.Tensor], rounded: Sequence[torch.Tensor], dimension: int) -> torch.Tensor:
    """Return the shift of each channel's mean, E[y'] - E[y], as far as the samples prove it, `(channels,)` float32.

    A mean of few samples is uncertain by its standard error e, and correcting by noise adds noise. So the shift m is
    shrunk to m max(0, 1 - e^2 / m^2) (the positive part of James and Stein, "Estimation with Quadratic Loss", 1961, for
    one mean): what lies within the error is left alone. One sample proves nothing of a linear layer's.

    Args:
        exact: batches of the layer's output in the float network; the first dimension is the samples.
        rounded: the same in the int8 network, before it is rounded itself.
        dimension: of the channels.
    """
    parts = []
    for one, other in zip(exact, rounded, strict=True):
        kept = (other - one).movedim(dimension, 1) if dimension else (other - one).unsqueeze(0)
        parts.append(kept.reshape(*kept.shape[:2], -1).double().mean(-1))
    shifts = torch.cat(parts)  # (samples, channels)
    mean = shifts.mean(0)
    if len(shifts) == 1:
        return torch.zeros_like(mean).float()
    error = shifts.var(0) / len(shifts)
    kept_share = (1 - error / mean.square().clamp(min=1e-300)).clamp(min=0)
    return (mean * kept_share).float()
