"""Networks of one kind of layer each, to see what int8 kernels give over float ones on a processor.

Each has some 20 to 60 million multiply-adds, so that nothing but the kernel counts: what a whole network gains can
hardly be more than its layers do here.
"""

from __future__ import annotations

from torch import nn


def _chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).eval()


def conv3x3() -> nn.Module:
    """Return four 3x3 convolutions, 64 channels, 16x16; input `(N, 64, 16, 16)`."""
    return _chain(*(layer for _ in range(4) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())))


def conv3x3_narrow() -> nn.Module:
    """Return eight 3x3 convolutions of ResNet-20's first stage, 16 channels, 32x32; input `(N, 16, 32, 32)`."""
    return _chain(*(layer for _ in range(8) for layer in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())))


def conv1x1() -> nn.Module:
    """Return four pairs of 1x1 convolutions of EfficientNet-Lite0, 40 to 240 channels, 28x28; `(N, 40, 28, 28)`."""
    return _chain(
        *(layer for _ in range(4) for layer in (nn.Conv2d(40, 240, 1), nn.ReLU6(), nn.Conv2d(240, 40, 1), nn.ReLU6()))
    )


def depthwise() -> nn.Module:
    """Return eight depthwise 3x3 convolutions, 240 channels, 28x28; input `(N, 240, 28, 28)`."""
    return _chain(*(layer for _ in range(8) for layer in (nn.Conv2d(240, 240, 3, padding=1, groups=240), nn.ReLU6())))
