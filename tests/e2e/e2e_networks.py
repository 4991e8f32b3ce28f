"""Networks as a user would hand them in; the end-to-end tests name them as `e2e_networks.py:factory`."""

from __future__ import annotations

import torch
from torch import nn


class Small(nn.Module):
    """Two convolutions and a linear layer: (n, 3, 12, 12) -> (n, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.bn(self.first(images)))
        hidden = torch.relu(self.second(hidden))
        scores: torch.Tensor = self.head(hidden.mean(dim=(2, 3)))
        return scores


def small() -> nn.Module:
    """Return the small network with seeded weights."""
    return Small().eval()


class TwoByTwo(nn.Module):
    """Two inputs, two outputs, in an order that names and shapes tell apart.

    picture (n, 3, 12, 12) and numbers (n, 5) -> map (n, 2, 6, 6) and scores (n, 3).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.map = nn.Conv2d(8, 2, 1)
        self.numbers = nn.Linear(5, 8)
        self.scores = nn.Linear(16, 3)

    def forward(self, picture: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.stem(picture))
        joined = torch.cat([hidden.mean(dim=(2, 3)), torch.relu(self.numbers(numbers))], dim=1)
        return self.map(hidden), self.scores(joined)


def two_by_two() -> nn.Module:
    """Return the network of two inputs and two outputs."""
    return TwoByTwo().eval()


class Determinant(nn.Module):
    """Computes a determinant: ONNX Runtime has an operator for it, TensorFlow Lite has none."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 16)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        matrix = self.linear(values).reshape(-1, 4, 4) + 8 * torch.eye(4)
        found: torch.Tensor = torch.linalg.det(matrix)
        return found.unsqueeze(1)


def determinant() -> nn.Module:
    """Return the network with `linalg.det`."""
    return Determinant().eval()


class Branching(nn.Module):
    """Decides by the values of its input, which no trace can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if values.sum() > 0:  # the line that the error must name
            values = -values
        result: torch.Tensor = self.linear(values)
        return result


def branching() -> nn.Module:
    """Return the network that cannot be traced."""
    return Branching().eval()


def raising() -> nn.Module:
    """Raise."""
    raise ValueError("width must be even, got 7")


def leaving() -> nn.Module:
    """End the process, as a script's `main` would."""
    raise SystemExit("usage: train.py")


def no_network() -> dict[str, int]:
    """Return something that is no network."""
    return {"layers": 3}


def with_nan() -> nn.Module:
    """Return the small network with one weight that is no number."""
    network = Small().eval()
    with torch.no_grad():
        network.second.weight[0, 0, 0, 0] = float("nan")
    return network


def talking() -> nn.Module:
    """Print while it is made, as many factories do."""
    print("loading the network ...")  # noqa: T201  # what the test is about
    return Small().eval()


NOT_CALLABLE = 3


class Scalar(nn.Module):
    """Returns one number for the whole batch, as a loss does."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean()


def scalar() -> nn.Module:
    """Return the network without a batch dimension."""
    return Scalar().eval()


class Static(nn.Module):
    """Takes batches of four only."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)).view(4, 3)


def static() -> nn.Module:
    """Return the network whose batch size is part of its code."""
    return Static().eval()


class NoTensor(nn.Module):
    """Returns Python numbers."""

    def forward(self, images: torch.Tensor) -> list[float]:
        numbers: list[float] = images.flatten()[:2].tolist()
        return numbers


def no_tensor() -> nn.Module:
    """Return the network whose outputs are no tensors."""
    return NoTensor().eval()


class Biased(nn.Module):
    """Six layers whose biases matter, with a stride, a residual addition and a ReLU6: (n, 3, 16, 16) -> (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.down, self.mid = nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.depthwise, self.pointwise = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.down(torch.relu(self.bn(self.stem(images)))))
        hidden = torch.relu(self.mid(hidden) + hidden)
        hidden = torch.relu(self.pointwise(nn.functional.relu6(self.depthwise(hidden))))
        scores: torch.Tensor = self.head(hidden.mean(dim=(2, 3)))
        return scores


def biased() -> nn.Module:
    """Return the network with biases of a third of a standard deviation and a realistic norm."""
    network = Biased().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
                layer.bias.copy_(0.3 * torch.randn(layer.bias.shape, generator=generator))
        network.bn.running_mean = torch.randn(16, generator=generator)
        network.bn.running_var = torch.rand(16, generator=generator) + 0.5
    return network


class Chain(nn.Module):
    """Five convolutions in a row and a linear layer: (n, 3, 16, 16) -> (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.third, self.fourth = nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 32, 3, padding=1)
        self.fifth, self.head = nn.Conv2d(32, 32, 1), nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.second, self.third, self.fourth, self.fifth):
            images = torch.relu(layer(images))
        scores: torch.Tensor = self.head(images.mean(dim=(2, 3)))
        return scores


def fragile_rows() -> nn.Module:
    """Return the chain with one filter of `third` 100x larger, which `fourth` takes back: the same function."""
    torch.manual_seed(1)
    network = Chain().eval()
    with torch.no_grad():
        network.third.weight[0] *= 100
        network.third.bias[0] *= 100  # type: ignore[index]  # it has a bias
        network.fourth.weight[:, 0] /= 100
    return network


def fragile_columns() -> nn.Module:
    """Return the chain with one input of `third` 100x smaller and its weights 100x larger: the same function."""
    torch.manual_seed(1)
    network = Chain().eval()
    with torch.no_grad():
        network.second.weight[0] /= 100
        network.second.bias[0] /= 100  # type: ignore[index]  # it has a bias
        network.third.weight[:, 0] *= 100
    return network
