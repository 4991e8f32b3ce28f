"""Networks and the way into a `Model`, for the tests of the traced graph."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention
from torch import nn

from edgeport.graph.network import Network
from edgeport.stages.trace import Trace
from edgeport.types import Model

torch.set_num_threads(1)


def traced(module: nn.Module, *inputs: torch.Tensor) -> Model:
    """Trace a network as a build does."""
    network = Network(name="net", module=module.eval(), example_inputs=None, fingerprint="none")
    return Trace()(network, inputs)[0]


def operators(module: torch.fx.GraphModule) -> list[str]:
    """Return the operators of a graph in order, such as `conv2d.default`."""
    found = (node.target for node in module.graph.nodes if node.op == "call_function")
    return [str(target).removeprefix("aten.") for target in found]


def image(batch: int = 1, channels: int = 3, size: int = 8, seed: int = 0) -> torch.Tensor:
    """Return random pixels, `(batch, channels, size, size)`."""
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch norm scales, shifts and statistics that matter."""
    chance = torch.Generator().manual_seed(seed)
    for layer in norms(module):
        for value, low, high in (
            (layer.weight, 0.5, 1.5),
            (layer.bias, -1.0, 1.0),
            (layer.running_mean, -1.0, 1.0),
            (layer.running_var, 0.3, 2.0),
        ):
            assert value is not None
            value.data.copy_(torch.rand(value.shape, generator=chance) * (high - low) + low)
    return module.eval()


def norms(module: nn.Module) -> Iterable[nn.BatchNorm1d | nn.BatchNorm2d]:
    """Return the batch norms of a network."""
    return (layer for layer in module.modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)))


class Block(nn.Module):
    """A residual block that calls the functional ReLU twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Residual(nn.Module):
    """Stem, two residual blocks, a depthwise layer with ReLU6, a mean over the picture, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.act = nn.ReLU6()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer1(F.relu(self.bn(self.stem(x))))
        x = self.act(self.depthwise(x))
        scores: torch.Tensor = self.linear(x.mean((2, 3)))
        return scores


def residual(seed: int = 0) -> Residual:
    """Return the residual network with random weights and statistics."""
    torch.manual_seed(seed)
    network = Residual()
    randomized(network, seed)
    return network
