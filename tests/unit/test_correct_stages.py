"""The stages `equalize` and `correct` in a chain: what `auto` decides, what is stored, what comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chain_case import Project, project, samples
from graph_case import traced
from torch import nn

from edgeport.dataset import open_dataset
from edgeport.graph.float_graph import FloatGraph
from edgeport.quant.corrections import Corrections
from edgeport.stages.calibrate import Calibrate
from edgeport.stages.chain import Chain
from edgeport.stages.context import Context
from edgeport.stages.correct import Correct
from edgeport.stages.equalize import Equalize


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Chain]:
    """Run a chain with every correction once."""
    ready = project(tmp_path_factory.mktemp("corrected"))
    chain = ready.chain(prune=0.0, distill=0, correction="equalize,bias,adaround", target="cpu,intel-vnni")
    chain.records()
    return ready, chain


def again(ready: Project) -> Chain:
    return ready.chain(prune=0.0, distill=0, correction="equalize,bias,adaround", target="cpu,intel-vnni")


def equal(first: Corrections | None, second: Corrections | None) -> None:
    assert first is not None
    assert second is not None
    assert list(first.layers) == list(second.layers)
    for bits, layers in first.layers.items():
        assert list(layers) == list(second.layers[bits])
        for key, layer in layers.items():
            other = second.layers[bits][key]
            np.testing.assert_array_equal(layer.weight, other.weight)
            np.testing.assert_array_equal(np.asarray(layer.bias), np.asarray(other.bias))


def test_stages_stand_around_calibration(built: tuple[Project, Chain]) -> None:
    _, chain = built
    records = {record.name: record for record in chain.records()}
    assert list(records) == ["trace", "equalize", "calibrate", "correct"]
    assert records["equalize"].metrics["kept"] is True
    bits: Any = records["correct"].metrics["bits"]
    assert set(bits) == {"7", "8"}  # cpu has 7-bit weights, intel-vnni 8
    assert bits["7"]["kept"] == ["bias", "adaround"]


def test_model_is_equalized_and_the_yardstick_is_not(built: tuple[Project, Chain]) -> None:
    _, chain = built
    sample = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    before, after = chain.float_model(), chain.model()
    assert before.module is chain.original().module
    assert not chain.is_changed
    assert chain.lowered_key not in (chain.float_key, chain.key)
    torch.testing.assert_close(after.module(sample), before.module(sample), rtol=1e-4, atol=1e-5)
    assert not any("folded" in name for name in before.module.state_dict())
    graph = FloatGraph.from_model(after)
    assert after.corrections is not None
    assert set(graph.corrections) == {7, 8}
    assert len(graph.corrections[7]) == 3
    torch.testing.assert_close(graph.outputs_of((sample[:1],))[0], before.module(sample[:1]), rtol=1e-4, atol=1e-5)


def test_restored_model_is_equal_and_nothing_runs(built: tuple[Project, Chain]) -> None:
    ready, first = built
    second = again(ready)
    assert second.records() == first.records()
    model = second.model()
    assert ready.progress.labels == []
    left, right = first.model().module.state_dict(), model.module.state_dict()
    assert list(left) == list(right)
    assert all(torch.equal(left[name], right[name]) for name in left)
    equal(first.model().corrections, model.corrections)


@pytest.mark.parametrize("lost", ["equalize", "correct"])
def test_lost_entry_is_made_again_and_equal(built: tuple[Project, Chain], lost: str, tmp_path: Path) -> None:
    ready, first = built
    place = [record.name for record in first.records()].index(lost)
    folder = first.weight_folders()[place]
    kept = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "record.json"}
    parts = {"equalize": {"equalized.safetensors", "equalized.json"}, "correct": {"corrections.npz"}}
    assert set(kept) == parts[lost]
    folder.rename(tmp_path / "lost")
    chain = again(ready)
    chain.records()
    made = chain.weight_folders()[place]
    assert made == folder
    found = {file.name: file.read_bytes() for file in made.iterdir() if file.name != "record.json"}
    assert found == kept


def test_auto_without_tune_samples_turns_nothing_on_and_says_so(tmp_path: Path) -> None:
    ready = project(tmp_path)
    few = samples(tmp_path / "few.npz", 8, 5)  # too few to hold some out for tuning
    chain = ready.chain(prune=0.0, distill=0, correction="auto", calibrate=few)
    records = {record.name: record for record in chain.records()}
    assert list(records) == ["trace", "equalize", "calibrate", "correct"]
    assert records["equalize"].metrics == {"kept": False, "why": "no samples to tune on"}
    assert records["correct"].metrics["why"] == "no samples to tune on"
    model = chain.model()
    assert model.corrections == Corrections()
    assert model.module is chain.original().module


class Biased(nn.Module):
    """Two layers; the first's small weights vanish when it is rounded, which shifts every output the same way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(16, 8), nn.Linear(8, 4)
        with torch.no_grad():
            self.first.weight.copy_(0.4 * torch.rand(8, 16) / 127 * 3)
            self.first.weight[:, 0] = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.first(x))
        return out


def context(tmp_path: Path, width: int) -> Context:
    """Return positive samples to calibrate and to tune on."""
    chance = np.random.default_rng(0)
    for name in ("calibrate", "tune"):
        x = chance.random((64, width)).astype(np.float32) * np.float32(4)
        x[:, 0] *= 0.01
        np.savez(tmp_path / f"{name}.npz", x=x)
    calibrate, tune = (open_dataset(str(tmp_path / f"{name}.npz")) for name in ("calibrate", "tune"))
    return Context(calibrate=calibrate, tune=tune)


def test_auto_keeps_bias_correction_where_it_helps(tmp_path: Path) -> None:
    surroundings = context(tmp_path, 16)
    model, _ = Calibrate(method="minmax")(traced(Biased().eval(), torch.rand(1, 16)), surroundings)
    corrected, metrics = Correct(weight_bits=(7, 8))(model, surroundings)
    figures: Any = metrics["bits"]
    for bits in ("7", "8"):
        assert "bias" in figures[bits]["kept"]
        assert figures[bits]["bias"]["error"] < 0.95 * figures[bits]["none"]["error"]
    assert corrected.corrections is not None
    assert set(corrected.corrections.layers[7]) == {"first/linear", "second/linear"}
    once_more, same = Correct(weight_bits=(7, 8))(model, surroundings)
    assert same == metrics
    equal(corrected.corrections, once_more.corrections)


def test_auto_does_not_try_equalization_of_even_channels(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    model, metrics = Equalize()(traced(net, torch.rand(1, 16)), context(tmp_path, 16))
    assert metrics["kept"] is False
    assert str(metrics["why"]).startswith("not tried: channels are spread")
    assert "after" not in metrics
    assert model.module.state_dict().keys() == net.state_dict().keys()


def test_auto_keeps_equalization_of_badly_spread_channels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(16, 8), nn.Linear(8, 4)
    with torch.no_grad():
        spread = torch.logspace(0, 3.5, 8)
        first.weight.mul_(spread.reshape(-1, 1))
        first.bias.mul_(spread)
        second.weight.div_(spread)
    net = nn.Sequential(first, second).eval()
    surroundings = context(tmp_path, 16)
    before = traced(net, torch.rand(1, 16))
    model, metrics = Equalize()(before, surroundings)
    figures: Any = metrics
    assert figures["kept"] is True
    assert figures["worst_spread"] > 8
    assert figures["after"]["error"] < 0.5 * figures["before"]["error"]
    sample = torch.rand(4, 16)
    torch.testing.assert_close(model.module(sample), before.module(sample), rtol=1e-4, atol=1e-5)
    assert replace(model, module=before.module) == before
