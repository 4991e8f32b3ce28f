"""Which layers' rounding changes the answer most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from chain_case import project
from graph_case import traced
from torch import nn

from edgeport.dataset import Dataset, open_dataset
from edgeport.graph.canonical import canonicalize
from edgeport.quant.sensitivity import divergence, layer_writers, sensitivities
from edgeport.stages.calibrate import Calibrate
from edgeport.stages.context import SILENT, Context
from edgeport.stages.raise_precision import ranked
from edgeport.types import Model


class Chain(nn.Module):
    """Four linear layers; `widen` makes the values between the second and the third spread."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third, self.last = (nn.Linear(16, 16) for _ in range(4))

    def widen(self, spread: float) -> Chain:
        """Multiply half of the values by `spread` and divide them where they are read: the function is the same."""
        factors = torch.ones(16)
        factors[::2] = spread
        with torch.no_grad():
            self.second.weight.mul_(factors[:, None])
            self.second.bias.mul_(factors)
            self.third.weight.div_(factors)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x))
        scores: torch.Tensor = self.last(torch.relu(self.third(x)))
        return scores


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32))
    return open_dataset(str(tmp_path / "x.npz"))


def calibrated(net: nn.Module, data: Dataset) -> Model:
    return Calibrate()(traced(net, torch.zeros(1, 16)), Context(calibrate=data))[0]


def test_layer_that_reads_values_of_wide_spread_comes_first(data: Dataset) -> None:
    found = sensitivities(calibrated(Chain().widen(100.0), data), data, output=0, progress=SILENT)
    assert found[0].layer == "third/linear"
    assert found[0].divergence > 10 * found[1].divergence
    assert found[0].writer == "second/linear"


def test_without_spread_no_layer_stands_out(data: Dataset) -> None:
    found = sensitivities(calibrated(Chain(), data), data, output=0, progress=SILENT)
    assert [one.divergence for one in found] == sorted((one.divergence for one in found), reverse=True)
    assert all(0 < one.divergence < 1e-3 for one in found)
    assert {one.layer for one in found} == {f"{name}/linear" for name in ("first", "second", "third", "last")}


def test_divergence_of_three_to_one_from_even_odds() -> None:
    # 1/4 ln(1/4 / 1/2) + 3/4 ln(3/4 / 1/2) = -0.173287 + 0.304099
    scores, other = torch.tensor([[0.0, np.log(3.0)]]), torch.zeros(1, 2)
    assert divergence(scores, other) == pytest.approx(0.130812, abs=1e-6)
    assert divergence(scores, scores + 5.0) == pytest.approx(0.0, abs=1e-12)


def test_a_sum_has_no_single_writer() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            x = x + self.second(nn.functional.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1])
            third: torch.Tensor = self.third(x)
            return third

    sample = torch.zeros(1, 3, 8, 8)
    writers = layer_writers(canonicalize(traced(Sum(), sample).module, (sample,)))
    assert writers == {"first/conv2d": None, "second/conv2d": "first/conv2d", "third/conv2d": None}


def test_ranking_puts_the_writer_behind_its_reader_and_is_computed_once(tmp_path: Path) -> None:
    ready = project(tmp_path)
    said = {"prune": 0.0, "distill": 0}
    chain = ready.chain(**said)
    tune = chain.data.tune
    assert tune is not None
    first = ranked(ready.store, chain, tune, 0, ready.progress)
    order = first.order
    assert sorted(order) == ["conv1/conv2d", "conv2/conv2d", "linear/linear"]
    assert order.index("conv1/conv2d") <= order.index("conv2/conv2d") + 1
    again = ready.chain(**said)
    assert ranked(ready.store, again, tune, 0, ready.progress) == first
    assert "rank layers" not in ready.progress.labels
