"""A chain of depthwise and 1x1 convolutions, of the kind that XNNPACK's sparse kernels take on ARM.

    edgeport build benchmarks/separable.py:separable --target arm64 --precision float32 --prune fine:0.8 --input 3x96x96

With emulated cores set up (`edgeport devices setup qemu:arm64`), the report counts the instructions of the file without
zeros ("sparse float32") beside those of the dense one.
"""

from __future__ import annotations

import torch
from torch import nn

BLOCKS = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), *[(256, 256, 1)] * 4)  # inputs, outputs, stride


def separable() -> nn.Module:
    """Return the network with random weights: (n, 3, 96, 96) to (n, 10)."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU6()]
    for inputs, outputs, stride in BLOCKS:
        layers += [nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs), nn.ReLU6()]
        layers += [nn.Conv2d(inputs, outputs, 1), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)).eval()
