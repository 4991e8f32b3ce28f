"""Multiply-adds and parameters, by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning_networks import traced
from torch import nn

from edgeport.pruning.macs import count_macs, count_parameters


class _Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.linear = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.up(self.depthwise(torch.relu(self.bn(self.conv(x))))).flatten(2)
        return self.linear((x @ x.transpose(1, 2)).mean(2))


@pytest.mark.parametrize("batch", [1, 3])
def test_macs_of_one_sample(batch: int) -> None:
    module = traced(_Counted().eval(), (torch.randn(2, 3, 8, 8),))

    by_hand = (
        4 * 4 * 8 * 3 * 9  # conv: 4x4 outputs, 8 filters of 3x3x3
        + 4 * 4 * 8 * 9  # depthwise
        + 4 * 4 * 8 * 4 * 2 * 2  # up: every input value times 4 filters of 2x2
        + 4 * 4 * 64  # (4, 64) @ (64, 4)
        + 4 * 10
    )
    assert count_macs(module, (torch.randn(batch, 3, 8, 8),)) == by_hand


def test_parameters_are_weights_without_statistics() -> None:
    module = traced(_Counted().eval(), (torch.randn(2, 3, 8, 8),))

    assert count_parameters(module) == (8 * 27 + 8) + 16 + (8 * 9 + 8) + (8 * 4 * 4 + 4) + (4 * 10 + 10)


@pytest.mark.parametrize(
    ("name", "shape", "macs"), [("resnet8", (3, 32, 32), 12_501_632), ("anomaly_autoencoder", (640,), 264_192)]
)
def test_published_networks(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, ...], macs: int
) -> None:
    # MLPerf Tiny (Banbury et al. 2021): 12.5 M multiply-adds for ResNet-8, 264 k for the autoencoder
    monkeypatch.syspath_prepend(str(shared_data))
    sys.modules.pop("zoo", None)
    module = traced(getattr(__import__("zoo"), name)(), (torch.zeros(2, *shape),))

    assert count_macs(module, (torch.zeros(1, *shape),)) == macs
