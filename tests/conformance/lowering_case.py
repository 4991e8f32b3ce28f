"""Small networks with one trouble each, traced and calibrated the way a build does it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeport.dataset import open_dataset
from edgeport.devices.processor import has_vnni
from edgeport.graph.float_graph import FloatGraph
from edgeport.graph.network import Network
from edgeport.profile import Int8Scheme, TargetProfile
from edgeport.stages.calibrate import Calibrate
from edgeport.stages.context import Context
from edgeport.stages.trace import Trace

SAMPLES = 64
EIGHT_BITS_EXACT = pytest.mark.skipif(
    platform.machine() in ("x86_64", "AMD64") and not has_vnni(),
    reason="this processor adds pairs of products in 16 bits: 8-bit weights saturate in u8 x s8 kernels",
)


class Residual(nn.Module):
    """Option A shortcut (slice, zero pad), depthwise with ReLU6, concatenation, max pooling, global mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.down, self.same = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.depthwise, self.pointwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 12, 1)
        self.grouped, self.head = nn.Conv2d(28, 8, 3, 1, 1, groups=2), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = torch.relu(self.same(torch.relu(self.down(x))) + shortcut)
        branch = self.pointwise(functional.relu6(self.depthwise(x)))
        x = functional.max_pool2d(torch.cat([x, branch], 1), 2)
        out: torch.Tensor = self.head(torch.relu(self.grouped(x)).mean((2, 3)))
        return out


class PreActivation(nn.Module):
    """A sum that is read before and after its ReLU, so that the ReLU cannot be part of the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(3 if i == 0 else 8, 8, 3, 1, 1) for i in range(3))
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.first(torch.relu(x))
        x = x + self.second(torch.relu(x))
        out: torch.Tensor = self.head(x)
        return out


class TwoByTwo(nn.Module):
    """Two inputs, and two outputs of which one is also read by the layer that makes the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.numbers = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(5, 8)
        self.scores = nn.Linear(16, 3)

    def forward(self, picture: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.stem(picture))
        joined = torch.cat([hidden.mean((2, 3)), torch.relu(self.numbers(numbers))], 1)
        return joined, self.scores(joined)


class LinearOnly(nn.Sequential):
    """Fully connected."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 6))


class TinyChannel(nn.Module):
    """A convolution whose channel 0 is almost only its bias: in steps of that channel's scale it would need 40 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 1)
        with torch.no_grad():
            assert self.conv.bias is not None
            self.conv.weight[0] *= 1e-9
            self.conv.bias[0] = 3.0
            self.conv.weight[1], self.conv.bias[1] = 0.0, -1.0  # no weights at all

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.conv(x))
        return out


class Gated(nn.Module):
    """Squeeze and excitation, hard swish and a soft maximum: operators without an integer form between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.excite = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.hardswish(self.stem(x))
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return torch.softmax(self.head(x.mean((2, 3))), 1)


class Sequence(nn.Module):
    """Linear layers on three dimensions, with and without bias, behind a convolution over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 8, 3, padding=1), nn.LayerNorm(8)
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(torch.relu(self.conv(x)).transpose(1, 2))
        out: torch.Tensor = self.second(torch.relu(self.first(x))).flatten(1)
        return out


class Upsampling(nn.Module):
    """A transposed convolution and nearest neighbour upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.up(torch.relu(self.stem(x))))
        out: torch.Tensor = self.head(functional.interpolate(x, scale_factor=2))
        return out


class ActiveDropout(nn.Module):
    """Drops values at inference, too: `F.dropout` without `training=self.training`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(functional.dropout(self.linear(x)))
        return out


class NoLayer(nn.Module):
    """Nothing to multiply with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) + x


NETWORKS: dict[str, tuple[type[nn.Module], tuple[tuple[int, ...], ...]]] = {
    "residual": (Residual, ((3, 16, 16),)),
    "pre_activation": (PreActivation, ((3, 8, 8),)),
    "two_by_two": (TwoByTwo, ((3, 8, 8), (5,))),
    "linear_only": (LinearOnly, ((20,),)),
    "tiny_channel": (TinyChannel, ((3, 8, 8),)),
    "gated": (Gated, ((3, 8, 8),)),
    "sequence": (Sequence, ((4, 10),)),
    "upsampling": (Upsampling, ((3, 8, 8),)),
    "no_layer": (NoLayer, ((4,),)),
    "active_dropout": (ActiveDropout, ((8,),)),
}
LOWERABLE = tuple(name for name in NETWORKS if name != "active_dropout")
WITH_LAYERS = tuple(name for name in LOWERABLE if name != "no_layer")


def samples(name: str, *, seed: int) -> list[np.ndarray]:
    """Return standard normal inputs, `(SAMPLES, ...)` float32 each."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((SAMPLES, *shape)).astype(np.float32) for shape in NETWORKS[name][1]]


@cache
def float_graph(name: str) -> FloatGraph:
    """Return the network with seeded weights and realistic norms, calibrated on the samples of seed 0."""
    torch.manual_seed(0)
    module = NETWORKS[name][0]().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean, part.running_var = torch.randn(part.num_features), torch.rand(part.num_features) + 0.5
    arrays = samples(name, seed=0)
    example = tuple(torch.from_numpy(array[:1]) for array in arrays)
    model, _ = Trace()(Network(name=name, module=module, example_inputs=None, fingerprint=""), example)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "calibrate.npz"
        if len(arrays) == 1:
            np.savez(file, x=arrays[0])
        else:
            np.savez(file, **{f"x{index}": array for index, array in enumerate(arrays)})  # type: ignore[arg-type]
        model, _ = Calibrate()(model, Context(calibrate=open_dataset(str(file))))
    return FloatGraph.from_model(model)


def reference(name: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return the float network's outputs for all samples, an array an output."""
    graph = float_graph(name)
    rows = [
        graph.outputs_of(tuple(torch.from_numpy(array[index : index + 1]) for array in inputs))
        for index in range(len(inputs[0]))
    ]
    return [torch.cat(column).numpy() for column in zip(*rows, strict=True)]


def profile(backend: str, *, weight_bits: int = 8) -> TargetProfile:
    """Return a target of that backend."""
    scheme = Int8Scheme(weight_bits=7 if weight_bits == 7 else 8)
    return TargetProfile(name="test", description="", backend=backend, isa="any", int8=scheme)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return |found - expected| / |expected|, Euclidean over everything."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
