"""ResNet-20 with one layer that int8 breaks: its weights spread 100x over its input channels.

An eighth of the channels of one activation are multiplied by 100, and the weights that read them are divided by 100.
ReLU(s x) = s ReLU(x) for s > 0, so the float answers are unchanged, while one scale must now serve channels of which
most are a hundredth of the largest: the case that Nagel et al., "Data-Free Quantization Through Weight Equalization
and Bias Correction" (2019), section 3, takes apart. `EDGEPORT_ZOO` names the file with `resnet20_jpeg`.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import nn

SPREAD, SHARE = 100.0, 1 / 8


def net() -> nn.Module:
    """Return the fragile network; the layer is `layer1.2.conv2`."""
    place = os.environ["EDGEPORT_ZOO"]
    spec = importlib.util.spec_from_file_location("zoo", place)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {place}")
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    network: nn.Module = zoo.resnet20_jpeg()
    block = network.get_submodule("layer1.2")
    norm, reader = block.get_submodule("bn1"), block.get_submodule("conv2")
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(reader, nn.Conv2d)
    chosen = torch.randperm(norm.num_features, generator=torch.Generator().manual_seed(0))
    factors = torch.ones(norm.num_features)
    factors[chosen[: int(SHARE * norm.num_features)]] = SPREAD
    with torch.no_grad():
        norm.weight.mul_(factors)
        norm.bias.mul_(factors)
        reader.weight.div_(factors.reshape(1, -1, 1, 1))
    return network.eval()
