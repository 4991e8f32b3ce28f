"""Networks for `--max-drop`: one that int8 breaks at one place, and one without class scores."""

from __future__ import annotations

import torch
from torch import nn

from edgeport.demo.data import split
from edgeport.demo.net import DigitsNet, digits

SPREAD = 100.0


def fragile() -> nn.Module:
    """Return the embedded network with one layer of hundredfold weight spread; its function in float is the same.

    The eight channels after the depthwise convolution that are largest anyway get a hundred times larger, and the
    weights that read them a hundred times smaller. One scale a tensor leaves the other 24 a few of 256 steps.
    """
    network = digits()
    assert isinstance(network, DigitsNet)
    peaks: list[torch.Tensor] = []
    norm, reader = network.downsample.bn1, network.downsample.pointwise
    handle = norm.register_forward_hook(lambda *found: peaks.append(found[-1].amax((0, 2, 3))))
    with torch.no_grad():
        network(torch.from_numpy(split("calibrate")[0]))
        handle.remove()
        factors = torch.ones(reader.in_channels)
        factors[peaks[0].argsort(descending=True)[:8]] = SPREAD
        norm.weight.mul_(factors)
        norm.bias.mul_(factors)
        reader.weight.div_(factors[:, None, None])
    return network


class Edges(nn.Module):
    """A picture in, a picture out: (n, 1, 8, 8) -> (n, 2, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        edges: torch.Tensor = self.conv(images)
        return edges


def edges() -> nn.Module:
    """Return the network without class scores."""
    return Edges().eval()
