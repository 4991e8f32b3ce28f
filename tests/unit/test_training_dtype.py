"""Which number format a training computes in."""

from __future__ import annotations

import pytest
import torch
from distill_case import traced
from torch import nn

from edgeport.stages.distill import fastest_dtype


@pytest.mark.parametrize(
    ("has_amx", "has_bf16", "is_amd", "groups", "expected"),
    [
        (True, True, False, 8, "bfloat16"),
        (False, True, True, 1, "bfloat16"),
        (False, True, True, 8, "float32"),
        (False, True, False, 1, "float32"),
        (False, False, True, 1, "float32"),
    ],
)
def test_training_is_in_the_format_that_the_processor_is_faster_in(
    monkeypatch: pytest.MonkeyPatch, *, has_amx: bool, has_bf16: bool, is_amd: bool, groups: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr("edgeport.devices.processor.is_amd", lambda: is_amd)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, groups=groups), nn.Flatten(), nn.Linear(1568, 4)
    )
    assert fastest_dtype(traced(network).module) == expected
