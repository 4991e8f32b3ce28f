"""A small network in a file with data beside it, for the tests of a build's stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from edgeport.graph.network import load_network
from edgeport.options import Options
from edgeport.plan import Plan, resolve
from edgeport.stages.chain import Chain
from edgeport.stages.data import open_data
from edgeport.store import Store

SOURCE = """
import torch
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))

def net():
    return Net()
"""


class Seen:
    """A progress that remembers what was shown."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.steps: dict[str, int] = {}

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Seen]:
        """Remember the work."""
        self.labels.append(label)
        self.steps[label] = self.steps.get(label, 0)
        self._label = label
        yield self

    def advance(self, steps: int = 1) -> None:
        """Count."""
        self.steps[self._label] += steps

    def note(self, text: str) -> None:
        """Ignore it."""

    def log(self, message: str) -> None:
        """Remember the line."""
        self.labels.append(message)


def samples(path: Path, count: int, seed: int, *, labels: bool = True, low: int = 0, high: int = 4) -> str:
    """Write random pictures, `(count, 3, 8, 8)`, and labels."""
    chance = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {"x": chance.normal(size=(count, 3, 8, 8)).astype(np.float32)}
    if labels:
        arrays["y"] = chance.integers(low, high, count)
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes allow_pickle for a key
    return str(path)


@dataclass
class Project:
    """A folder with a network, data and a store."""

    folder: Path
    options: Options
    progress: Seen = field(default_factory=Seen)

    @property
    def store(self) -> Store:
        """Return the store of the folder."""
        return Store(self.folder / "store")

    def plan(self, **said: object) -> Plan:
        """Return the plan with other options."""
        return resolve(msgspec.structs.replace(self.options, **said))

    def chain(self, **said: object) -> Chain:
        """Return a new chain, as another process would make it."""
        self.progress = Seen()
        plan = self.plan(**said)
        network = load_network(plan.model, plan.weights, seed=plan.seed)
        return Chain(plan, network, open_data(plan, self.store), self.store, self.progress)


def project(folder: Path) -> Project:
    """Write a network and its data."""
    (folder / "chain_net.py").write_text(SOURCE)
    options = Options(
        model=f"{folder / 'chain_net.py'}:net",
        target="cpu",
        calibrate=samples(folder / "calibrate.npz", 24, 0),
        evaluate=samples(folder / "evaluate.npz", 20, 1),
        train=samples(folder / "train.npz", 64, 2),
        prune=0.4,
        distill=1,
        correction="none",
    )
    return Project(folder=folder, options=options)
