"""Zeros in weights: what becomes zero, what training keeps zero, and what int8 files hold of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from distill_case import data, traced
from torch import nn

from edgeport.errors import StageError
from edgeport.pruning.grains import parse
from edgeport.quant.affine import symmetric_weight
from edgeport.stages.context import Context
from edgeport.stages.distill import Distill
from edgeport.stages.sparsify import Sparsify


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.linear(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return scores


def network() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


def samples(count: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 16, 16)).astype(np.float32)


def test_figures_say_how_many_weights_and_multiplications_are_zero() -> None:
    model = traced(network())
    before = {name: value.clone() for name, value in model.module.named_parameters()}
    sparse, metrics = Sparsify(sparsity=parse("fine:0.75").sparsity)(model, Context())
    # convolution 3 * 8 * 9 = 216 weights at 8 x 8 places, linear 8 * 4 = 32 weights at one
    assert (metrics["weights"], metrics["weights_nonzero"]) == (248, 54 + 8)
    assert (metrics["macs"], metrics["macs_nonzero"]) == (216 * 64 + 32, 54 * 64 + 8)
    for name, value in model.module.named_parameters():
        assert torch.equal(value, before[name])  # the network given stays
    gone = {name: value == 0 for name, value in sparse.module.named_parameters() if value.dim() > 1}
    assert all(
        torch.equal(value[~gone[name]], before[name][~gone[name]])
        for name, value in sparse.module.named_parameters()
        if name in gone
    )


@pytest.mark.parametrize("text", ["fine:0.001", "vector:0.01"])
def test_a_share_too_small_to_reach_a_weight_is_refused(text: str) -> None:
    with pytest.raises(StageError, match="sparsify: no weight of this network becomes zero"):
        Sparsify(sparsity=parse(text).sparsity)(traced(network()), Context())


def test_training_keeps_what_is_zero_at_zero_and_moves_the_rest(tmp_path: Path) -> None:
    model = traced(network())
    sparse, _ = Sparsify(sparsity=parse("fine:0.5").sparsity)(model, Context())
    train = data(tmp_path, samples())
    kept, _ = Distill(epochs=2, batch_size=8, keep_zeros=True)(sparse, Context(teachers=(model,), train=train))
    loose, _ = Distill(epochs=2, batch_size=8)(sparse, Context(teachers=(model,), train=train))
    for name, value in sparse.module.named_parameters():
        if value.dim() > 1:
            zero = value == 0
            assert zero.any()
            assert (kept.module.get_parameter(name)[zero] == 0).all()
            assert (kept.module.get_parameter(name)[~zero] != value[~zero]).any()
            assert (loose.module.get_parameter(name)[zero] != 0).any()


def test_zeros_stay_zero_in_int8() -> None:
    sparse, _ = Sparsify(sparsity=parse("fine:0.6").sparsity)(traced(network()), Context())
    weight = sparse.module.get_parameter("conv.weight").detach()
    integers = symmetric_weight(weight.numpy(), axis=0, bits=8).integers
    assert (integers[(weight == 0).numpy()] == 0).all()
