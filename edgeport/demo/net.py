"""The network of the embedded default: a residual net with a depthwise convolution, for 8x8 digits."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

WEIGHTS = Path(__file__).with_name("weights.safetensors")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input: relu(x + f(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, h, w) to the same shape."""
        hidden = torch.relu(self.bn1(self.conv1(inputs)))
        return torch.relu(inputs + self.bn2(self.conv2(hidden)))


class Downsample(nn.Module):
    """A depthwise 3x3 convolution of stride two and a pointwise one: half the size, other width."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, h, w) to (n, width, h / 2, w / 2)."""
        hidden = torch.relu(self.bn1(self.depthwise(inputs)))
        return torch.relu(self.bn2(self.pointwise(hidden)))


class DigitsNet(nn.Module):
    """Stem, residual block at 8x8, downsampling, residual block at 4x4, global average pool, linear: 96,074 parameters.

    Args:
        narrow: channels at 8x8.
        wide: channels at 4x4.
        classes: number of logits.
    """

    def __init__(self, *, narrow: int = 32, wide: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, narrow, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(narrow)
        self.block1 = ResidualBlock(narrow)
        self.downsample = Downsample(narrow, wide)
        self.block2 = ResidualBlock(wide)
        self.classifier = nn.Linear(wide, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (n, 1, 8, 8), float32 in 0..1, to logits (n, classes)."""
        hidden = torch.relu(self.bn(self.stem(images)))
        hidden = self.block2(self.downsample(self.block1(hidden)))
        logits: torch.Tensor = self.classifier(hidden.mean(dim=(2, 3)))
        return logits


def digits() -> nn.Module:
    """Return the network with its shipped weights, in inference mode."""
    network = DigitsNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()
