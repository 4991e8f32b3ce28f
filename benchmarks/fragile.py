"""ResNet-20 with one layer that int8 breaks: its input channels, and the weights that read them, spread 100x.

Channel i of one activation is multiplied by s_i, log-spaced from 1 to 100, and the weights that read it are divided
by s_i. ReLU(s x) = s ReLU(x) for s > 0, so the float answers are unchanged, while one scale must now serve
channels of which many are a hundredth of the largest: the case that Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction" (2019), section 3, takes apart. `EDGEPORT_ZOO` names the
file with `resnet20_jpeg`.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import nn

SPREAD = 100.0


def net() -> nn.Module:
    """Return the fragile network; the layer is `layer3.1.conv2`."""
    place = os.environ["EDGEPORT_ZOO"]
    spec = importlib.util.spec_from_file_location("zoo", place)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {place}")
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    network: nn.Module = zoo.resnet20_jpeg()
    block = network.get_submodule("layer3.1")
    norm, reader = block.get_submodule("bn1"), block.get_submodule("conv2")
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(reader, nn.Conv2d)
    shuffled = torch.randperm(norm.num_features, generator=torch.Generator().manual_seed(0))
    factors = torch.logspace(0, float(torch.log10(torch.tensor(SPREAD))), norm.num_features)[shuffled]
    with torch.no_grad():
        norm.weight.mul_(factors)
        norm.bias.mul_(factors)
        reader.weight.div_(factors.reshape(1, -1, 1, 1))
    return network.eval()
