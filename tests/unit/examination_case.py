"""Pictures that look natural enough, and a small network trained on them, for the tests of the examination."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeport.dataset import Dataset, open_dataset
from edgeport.graph.network import Network
from edgeport.stages.trace import Trace
from edgeport.types import Model

SIDE = 16
# one colour a class, far from grey and not symmetric in red and blue
PALETTE = np.array([[0.9, 0.4, 0.1], [0.2, 0.6, 0.3], [0.75, 0.7, 0.35], [0.3, 0.3, 0.7]])
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `(count, 3, 16, 16)` float32 in 0..1, smooth with some black and white, and labels, `(count,)` int64."""
    chance = np.random.default_rng(seed)
    labels = np.arange(count) % len(PALETTE)
    rough = chance.normal(size=(count, 1, 5, 5)) * 0.25 + chance.normal(size=(count, 3, 5, 5)) * 0.1
    smooth = nn.functional.interpolate(torch.from_numpy(rough), size=SIDE, mode="bilinear", align_corners=True).numpy()
    values = np.clip(PALETTE[labels][:, :, None, None] + smooth, 0, 1)
    values[:, :, 0, 0], values[:, :, -1, -1] = 0, 1
    return values.astype(np.float32), labels.astype(np.int64)


def normalised(raw: np.ndarray) -> np.ndarray:
    """Return pixels as the network was trained on them: with ImageNet's mean and standard deviation."""
    return np.asarray((raw - MEAN[:, None, None]) / STD[:, None, None], np.float32)


class Net(nn.Module):
    """Two convolutions with batch norms, and a classifier."""

    def __init__(self, *, has_norms: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1, bias=not has_norms)
        self.bn1 = nn.BatchNorm2d(12) if has_norms else nn.Identity()
        self.conv2 = nn.Conv2d(12, 16, 3, stride=2, bias=not has_norms)
        self.bn2 = nn.BatchNorm2d(16) if has_norms else nn.Identity()
        self.linear = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(n, 4)` scores."""
        x = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        scores: torch.Tensor = self.linear(x.mean((2, 3)))
        return scores


@cache
def trained(*, has_norms: bool = True) -> Net:
    """Return a network trained for 60 steps on 256 pictures."""
    torch.manual_seed(0)
    net = Net(has_norms=has_norms)
    raw, labels = pictures(256, seed=100)
    x, y = torch.from_numpy(normalised(raw)), torch.from_numpy(labels)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for step in range(60):
        chosen = slice(step % 4 * 64, step % 4 * 64 + 64)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[chosen]), y[chosen]).backward()  # type: ignore[no-untyped-call]  # torch's own stub
        optimiser.step()
    return net.eval()


def model(net: nn.Module, *example: torch.Tensor) -> Model:
    """Return the traced network."""
    inputs = example or (torch.zeros(1, 3, SIDE, SIDE),)
    return Trace()(Network(name="net", module=net, example_inputs=None, fingerprint=""), inputs)[0]


def arrays(path: Path, x: np.ndarray, y: np.ndarray | None = None) -> Dataset:
    """Write inputs as the network takes them, and open them."""
    given = {"x": np.ascontiguousarray(x)} | ({} if y is None else {"y": y})
    np.savez(path, **given)  # type: ignore[arg-type]  # numpy's stub takes allow_pickle for a key
    return open_dataset(str(path))


def recipe(folder: Path, raw: np.ndarray, labels: np.ndarray | None, keys: str) -> Dataset:
    """Write pictures of 8 bits and a recipe for them, and open that."""
    stored = {"images": np.round(raw.transpose(0, 2, 3, 1) * 255).astype(np.uint8)}
    np.savez(folder / "pictures.npz", **stored, **({} if labels is None else {"labels": labels}))  # type: ignore[arg-type]  # as above
    path = folder / "recipe.toml"
    path.write_text(f'source = "pictures.npz"\n{keys}\n')
    return open_dataset(str(path))
