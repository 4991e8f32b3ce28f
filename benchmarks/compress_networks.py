"""Networks that pruners without zero-padded shortcuts can cut too; a part of compress.py.

    python benchmarks/compress_networks.py --data ../shared/data --out projected.safetensors

Writes the weights of ResNet-20 with projection shortcuts: those of the zoo's ResNet-20, whose zero-padded shortcuts (He
et al. 2015, option A) become 1x1 convolutions (option B) that start as the very same function. The MobileNetV2-like
network starts from PyTorch's initial weights; compress.py trains it.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

EPSILON = 1e-5  # of the shortcuts' batch norms, taken from their variance so that they start as the identity

WIDEN = 6  # of inverted residuals
STAGES = ((24, 2), (24, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1))  # outputs and stride of a block


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm; a projection where width or resolution change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Make a block from `inputs` to `outputs` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs, eps=EPSILON)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class ProjectedResNet(nn.Module):
    """ResNet-20 of He et al. 2015, section 4.2, with option B shortcuts: (n, 3, 32, 32) to (n, 10)."""

    def __init__(self) -> None:
        """Make the layers, with PyTorch's initial weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = torch.relu(self.bn1(self.conv1(x)))
        scores: torch.Tensor = self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
        return scores


def projected() -> nn.Module:
    """Return the network in inference mode; its weights come from a file."""
    return ProjectedResNet().eval()


class Inverted(nn.Module):
    """An inverted residual: widen, filter each channel, narrow without an activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Make a block from `inputs` to `outputs` channels."""
        super().__init__()
        width = WIDEN * inputs
        self.is_residual = stride == 1 and inputs == outputs
        self.expand = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.project = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        y = nn.functional.relu6(self.bn1(self.expand(x)))
        y = self.bn3(self.project(nn.functional.relu6(self.bn2(self.depthwise(y)))))
        return x + y if self.is_residual else y


class SmallMobileNet(nn.Module):
    """Inverted residuals of Sandler et al. 2018, table 2, narrow and for small pictures: (n, 3, 32, 32) to (n, 10)."""

    def __init__(self) -> None:
        """Make the layers, with PyTorch's initial weights."""
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, *(outputs for outputs, _ in STAGES)]
        blocks = [Inverted(inputs, *stage) for inputs, stage in zip(widths, STAGES, strict=False)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(widths[-1], 256, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(256)
        self.linear = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = self.blocks(nn.functional.relu6(self.bn1(self.stem(x))))
        scores: torch.Tensor = self.linear(nn.functional.relu6(self.bn2(self.head(x))).mean((2, 3)))
        return scores


def mobile() -> nn.Module:
    """Return the network in inference mode; its weights come from a file, or from a seed."""
    return SmallMobileNet().eval()


def converted(padded: nn.Module) -> ProjectedResNet:
    """Return the network that computes what a ResNet-20 with zero-padded shortcuts does."""
    network = ProjectedResNet()
    state = {**network.state_dict(), **padded.state_dict()}
    for name in ("layer2.0", "layer3.0"):
        weight = torch.zeros_like(state[f"{name}.shortcut.0.weight"])
        outputs, inputs = weight.shape[:2]
        before = (outputs - inputs) // 2
        for channel in range(inputs):
            weight[before + channel, channel] = 1.0
        state[f"{name}.shortcut.0.weight"] = weight
        state[f"{name}.shortcut.1.running_var"] = torch.full((outputs,), 1.0 - EPSILON)
    network.load_state_dict(state)
    return network.eval()


def main() -> None:
    """Write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    spec = importlib.util.spec_from_file_location("zoo", arguments.data / "zoo.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"no zoo.py in {arguments.data}")
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    padded = zoo.resnet20_jpeg()
    network = converted(padded)
    inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(inputs), padded(inputs), rtol=1e-4, atol=1e-4)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, arguments.out)


if __name__ == "__main__":
    main()
