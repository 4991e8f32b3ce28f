"""Train the network of the embedded default: `python -m edgeport.demo.train --output weights.safetensors`.

One seed and one thread decide every bit of the result on one type of processor; on another type the convolution
kernels round differently, and the weights differ in their last digits.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from edgeport.demo import data
from edgeport.demo.net import DigitsNet
from edgeport.errors import MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Sequence

SEED = 0
EPOCHS = 60
_BATCH = 64
_PEAK_RATE = 0.1
_MOMENTUM = 0.9
_WEIGHT_DECAY = 5e-4
_LABEL_SMOOTHING = 0.1
_MAX_SHIFT = 1.0  # pixels
_MAX_ANGLE = math.radians(10)
_MAX_ZOOM = 0.1


def train(*, seed: int = SEED, epochs: int = EPOCHS) -> DigitsNet:
    """Return a network trained from scratch on the training part, in inference mode.

    Stochastic gradient descent with Nesterov momentum, a linear warm-up over the first tenth and a cosine decay, on
    images moved, turned and zoomed a little at random. Evaluation data is not touched.

    Args:
        seed: decides the initial weights, the order and the distortions.
        epochs: passes over the 1,097 training images, at least one.

    Raises:
        MissingPackageError: scikit-learn, which carries the images, is not installed.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    images, labels = (torch.from_numpy(array) for array in data.split("train"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitsNet().train()
        steps = epochs * (len(images) // _BATCH)
        optimizer = torch.optim.SGD(
            network.parameters(), lr=_PEAK_RATE, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY, nesterov=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
        for _ in range(epochs):
            order = torch.randperm(len(images))[: len(images) // _BATCH * _BATCH]
            for batch in torch.split(order, _BATCH):
                loss = cross_entropy(network(_distort(images[batch])), labels[batch], label_smoothing=_LABEL_SMOOTHING)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch's stubs
                optimizer.step()
                schedule.step()
    return network.eval()


@torch.no_grad()
def top1(network: torch.nn.Module, part: data.Part = "evaluate") -> float:
    """Return the percent of a part's images, 0..100, that the network names rightly."""
    images, labels = (torch.from_numpy(array) for array in data.split(part))
    is_right: torch.Tensor = network(images).argmax(dim=1) == labels
    return 100 * is_right.double().mean().item()


def _rate(progress: float) -> float:
    """Learning rate as a share of its peak, for progress 0..1: linear up to 0.1, then half a cosine."""
    warm_up = 0.1
    if progress < warm_up:
        return progress / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warm_up) / (1 - warm_up))


def _distort(images: torch.Tensor) -> torch.Tensor:
    """Return images (n, 1, 8, 8), each shifted, turned and zoomed at random."""
    count, size = len(images), images.shape[-1]
    zoom = 1 + _MAX_ZOOM * (2 * torch.rand(count, 1) - 1)
    angle = _MAX_ANGLE * (2 * torch.rand(count, 1) - 1)
    shift = _MAX_SHIFT * 2 / size * (2 * torch.rand(count, 2) - 1)  # a width of `size` pixels is 2 in grid units
    cosine, sine = zoom * torch.cos(angle), zoom * torch.sin(angle)
    matrix = torch.stack((torch.cat((cosine, -sine, shift[:, :1]), 1), torch.cat((sine, cosine, shift[:, 1:]), 1)), 1)
    grid = affine_grid(matrix, list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, save the weights, and print the held-out accuracy."""
    parser = argparse.ArgumentParser(prog="python -m edgeport.demo.train", description="Train the demo's network.")
    parser.add_argument("--output", type=Path, required=True, help="file to write, .safetensors")
    parser.add_argument("--seed", type=int, default=SEED, help="decides every random number (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the data (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {options.epochs}")
    if not options.output.parent.is_dir():
        parser.error(f"no folder {options.output.parent} to write {options.output.name} to")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        network = train(seed=options.seed, epochs=options.epochs)
    except MissingPackageError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    save_file(network.state_dict(), options.output)
    sys.stdout.write(f"{options.output}: {top1(network):.2f} % of {len(data.split('evaluate')[0])} held-out digits\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
