"""Batch-norm statistics after pruning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pruning_networks import NETWORKS, inputs_of, randomised, traced
from torch import nn

from edgeport.pruning.recalibrate import recalibrate_batch_norm


def test_statistics_are_the_sample_weighted_average_over_batches() -> None:
    convolution = nn.Conv2d(1, 2, 1, bias=False)
    nn.init.ones_(convolution.weight)
    network = nn.Sequential(convolution, nn.BatchNorm2d(2))
    module = traced(network.eval(), (torch.zeros(2, 1, 1, 2),))
    # means 2 and 12, unbiased variances of [0, 1, 3, 4] = 10 / 3 and of [10, 14] = 8
    batches = [
        (np.array([[0, 1], [3, 4]], np.float32).reshape(2, 1, 1, 2),),
        (np.array([[10, 14]], np.float32).reshape(1, 1, 1, 2),),
    ]

    result = recalibrate_batch_norm(module, batches)

    for channel in (0, 1):
        assert float(result.get_buffer("1.running_mean")[channel]) == pytest.approx((2 * 2 + 12) / 3, rel=1e-6)
        assert float(result.get_buffer("1.running_var")[channel]) == pytest.approx((2 * 10 / 3 + 8) / 3, rel=1e-6)


def test_agrees_with_pytorch_in_training_mode() -> None:
    network = randomised(NETWORKS["padded_resnet"][0](), 0)
    module = traced(network, inputs_of("padded_resnet"))
    batches = [inputs_of("padded_resnet", batch=8, seed=seed) for seed in range(3)]

    result = recalibrate_batch_norm(module, batches)

    network.train()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # PyTorch's cumulative average
    with torch.no_grad():
        for batch in batches:
            network(*batch)
    for name, value in network.state_dict().items():
        if "running" in name:  # atol: float32 sums in another order (channels last)
            torch.testing.assert_close(result.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_input_module_and_weights_stay() -> None:
    module = traced(randomised(NETWORKS["flattened"][0](), 1), inputs_of("flattened"))
    state = {name: value.clone() for name, value in module.state_dict().items()}

    result = recalibrate_batch_norm(module, [inputs_of("flattened", batch=8)])

    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    changed = {name for name, value in result.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == {"bn.running_mean", "bn.running_var"}
    assert result.code == module.code  # inference behaviour
    assert all(value.is_contiguous() for value in result.state_dict().values())


def test_network_without_norm_is_copied() -> None:
    module = traced(nn.Conv2d(3, 2, 1).eval(), (torch.zeros(2, 3, 4, 4),))

    result = recalibrate_batch_norm(module, [])

    assert result is not module
    assert torch.equal(result.get_parameter("weight"), module.get_parameter("weight"))


def test_no_batches_is_an_error() -> None:
    module = traced(nn.BatchNorm2d(3).eval(), (torch.zeros(2, 3, 4, 4),))

    with pytest.raises(ValueError, match="no batches"):
        recalibrate_batch_norm(module, [])
