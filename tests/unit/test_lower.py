"""Lowering: a target's files come from the store when nothing that decides them has changed."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
import torch
from graph_case import image, residual, traced
from torch import nn

from edgeport.errors import LoweringError
from edgeport.graph.float_graph import FloatGraph
from edgeport.profile import Int8Scheme, TargetProfile, load
from edgeport.quant.calibration import Calibration
from edgeport.quant.observer import Observer
from edgeport.stages.lower import Lowered, lower
from edgeport.store import Store
from edgeport.types import Model

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def graph() -> FloatGraph:
    model = traced(residual(), image())
    return FloatGraph.from_model(model.with_(calibration=calibrated(model)))


def calibrated(model: Model) -> Calibration:
    """Watch four pictures."""
    from edgeport.graph.canonical import canonicalize
    from edgeport.graph.execute import Executor

    observers: dict[str, Observer] = {}
    executor = Executor(canonicalize(model.module, model.example_inputs), model.example_inputs)
    executor.run([image(4)], lambda key, value: observers.setdefault(key, Observer()).update(value))
    return Calibration(statistics={key: seen.statistics() for key, seen in observers.items()}, samples=4)


@pytest.fixture
def backend() -> ModuleType:
    from edgeport.backends import onnxruntime

    return onnxruntime


class Maker:
    """Gives the network and counts how often it was asked."""

    def __init__(self, graph: FloatGraph) -> None:
        self.graph, self.calls = graph, 0

    def __call__(self) -> FloatGraph:
        self.calls += 1
        return self.graph


def both(store: Store, backend: ModuleType, make: Maker, profile: TargetProfile) -> tuple[Lowered, Lowered]:
    floating = lower(store, backend, profile, make, source_key="network")
    quantized = lower(store, backend, profile, make, source_key="calibration", float_file=floating)
    return floating, quantized


def test_files_are_written_and_described(tmp_path: Path, backend: ModuleType, graph: FloatGraph) -> None:
    floating, quantized = both(Store(tmp_path), backend, Maker(graph), load("cpu"))
    for lowered, precision in ((floating, "float32"), (quantized, "int8")):
        artifact = lowered.artifact
        assert (artifact.path.name, artifact.precision, artifact.backend) == ("model.onnx", precision, "onnxruntime")
        assert artifact.path.is_file()
        assert artifact.files == (artifact.path,)
        bindings = json.loads((artifact.path.parent / "io.json").read_text())
        assert [entry["name"] for entry in bindings["inputs"]] == ["x"]
        # stem and four convolutions on 8 x 8: 64 * (3 + 4 * 8) * 9 * 8; depthwise 4 * 4 * 9 * 8; linear 8 * 4
        assert sum(cost.macs for cost in lowered.costs) == 64 * 35 * 72 + 16 * 72 + 32
        assert "findings" in lowered.quality
    assert quantized.key != floating.key
    assert quantized.artifact.size_bytes < floating.artifact.size_bytes


def test_second_time_the_network_is_not_asked_for(tmp_path: Path, backend: ModuleType, graph: FloatGraph) -> None:
    store, make = Store(tmp_path), Maker(graph)
    first = both(store, backend, make, load("cpu"))
    calls = make.calls
    assert both(store, backend, make, load("cpu")) == first
    assert make.calls == calls


def test_same_network_gives_the_same_bytes(tmp_path: Path, backend: ModuleType, graph: FloatGraph) -> None:
    files = [
        [
            lowered.artifact.path.read_bytes()
            for lowered in both(Store(tmp_path / name), backend, Maker(graph), load("cpu"))
        ]
        for name in "ab"
    ]
    assert files[0] == files[1]


def test_only_what_decides_a_file_is_in_its_key(tmp_path: Path, backend: ModuleType, graph: FloatGraph) -> None:
    store, profile = Store(tmp_path), load("cpu")
    floating, quantized = both(store, backend, Maker(graph), profile)
    renamed = msgspec.structs.replace(profile, name="board", description="other", threads=4, cores=("cortex-a53",))
    assert [lowered.key for lowered in both(store, backend, Maker(graph), renamed)] == [floating.key, quantized.key]
    wider = msgspec.structs.replace(profile, int8=Int8Scheme(weight_bits=8))
    other = both(store, backend, Maker(graph), wider)
    assert other[0].key == floating.key  # the float file has no integers
    assert other[1].key != quantized.key
    again = lower(store, backend, profile, Maker(graph), source_key="other calibration", float_file=floating)
    assert again.key != quantized.key


class Unsupported(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.special.bessel_j0(x)
        return found


def test_failed_lowering_leaves_nothing(tmp_path: Path, backend: ModuleType) -> None:
    store, make = Store(tmp_path), Maker(FloatGraph.from_model(traced(Unsupported(), image())))
    for _ in range(2):
        with pytest.raises(LoweringError, match="bessel_j0"):
            lower(store, backend, load("cpu"), make, source_key="network")
    assert list(tmp_path.glob("entries/*/*")) == list(tmp_path.glob("tmp/*")) == []
