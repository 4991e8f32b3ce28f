"""Importance by what cannot be made up for: channels go one after another, the rest takes over what it can.

Where a layer with weights W reads channels of covariance S and the best linear compensation follows every cut, taking
channel c away costs an error of w_c^2 / [S^-1]_cc on its outputs, w_c the weights on c as earlier compensations left
them: Hassibi and Stork 1993, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", equation 5, with
the layer's output for a loss. Two equal channels cost nothing apart and everything together, which no score of single
channels says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RIDGE = 1e-3  # added to the variances, in means of them
TURNS = 128  # in which a group is taken apart: channels of wide ones go several at a time


@dataclass(kw_only=True)
class Reading:
    """How one layer reads a group of channels.

    Attributes:
        products: `(inputs, inputs)`, sums of products of its weights over outputs and taps.
        covariance: `(inputs, inputs)`, of what it reads.
        places: `(channels, positions)`, where each channel of the group is among the inputs.
        seen: `(channels,)`, whether it is there at all.
    """

    products: torch.Tensor
    covariance: torch.Tensor
    places: torch.Tensor
    seen: torch.Tensor


def elimination_scores(readings: Sequence[Reading], channels: int) -> NDArray[np.float64]:
    """Return the importance of each channel, (channels,): the error when it goes and all below it have gone.

    Of every layer, the squared error of its outputs over their mean square; the sum over layers.

    Args:
        readings: of the layers that read the group; each channel is seen by one at least.
        channels: of the group.
    """
    states = [_State(reading) for reading in readings]
    scores = torch.zeros(channels, dtype=torch.float64)
    left = torch.ones(channels, dtype=torch.bool)
    total = 0.0
    at_once = max(1, channels // TURNS)
    while bool(left.any()):
        losses = torch.stack([state.losses() for state in states]).sum(0)
        losses[~left] = torch.inf
        going = torch.argsort(losses, stable=True)[: min(at_once, int(left.sum()))]
        for channel in going.tolist():
            total += max(float(losses[channel]), 0.0)
            scores[channel] = total
            left[channel] = False
            for state in states:
                state.remove(channel)
    return scores.numpy()


class _State:
    """A reading while channels go: weights as compensated, the inverse covariance of what is left."""

    def __init__(self, reading: Reading) -> None:
        self.places, self.seen = reading.places, reading.seen
        tiny = torch.finfo(torch.float32).tiny
        least = reading.covariance.diagonal().mean().clamp(min=tiny)
        identity = torch.eye(len(reading.covariance), dtype=torch.float64)
        self.inverse = torch.linalg.inv(reading.covariance + identity * least * RIDGE)
        self.products = reading.products.clone()
        self.energy = float((reading.products * reading.covariance).sum().clamp(min=tiny))

    def losses(self) -> torch.Tensor:
        """Return the error that each channel's going adds, `(channels,)`; what it is of those gone means nothing."""
        rows, columns = self.places.unsqueeze(2), self.places.unsqueeze(1)
        inside = self.inverse[rows, columns]
        inside[(inside == 0).all((1, 2))] = torch.eye(inside.shape[1], dtype=inside.dtype)  # gone
        found = torch.linalg.solve(inside, self.products[rows, columns]).diagonal(dim1=1, dim2=2).sum(1)
        return torch.where(self.seen, found / self.energy, 0.0)

    def remove(self, channel: int) -> None:
        """Let a channel go."""
        if not bool(self.seen[channel]):
            return
        gone = self.places[channel]
        taken = torch.linalg.solve(self.inverse[gone][:, gone], self.inverse[gone])
        products = self.products
        cross = products[:, gone] @ taken
        self.products = products - cross - cross.T + taken.T @ products[gone][:, gone] @ taken
        self.inverse = self.inverse - self.inverse[:, gone] @ taken
        for square in (self.products, self.inverse):
            square[gone] = 0
            square[:, gone] = 0
