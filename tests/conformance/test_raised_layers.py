"""Raised layers on every runtime: out of int8, with an input that was not rounded on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from edgeport.backends import backend
from edgeport.dataset import open_dataset
from edgeport.devices import host
from edgeport.errors import MissingPackageError
from edgeport.formats import format_of
from edgeport.graph.float_graph import FloatGraph
from edgeport.graph.network import Network
from edgeport.profile import Int8Scheme, TargetProfile
from edgeport.quant.scheme import Raised, Scheme
from edgeport.stages.calibrate import Calibrate
from edgeport.stages.context import Context
from edgeport.stages.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeport.types import Artifact

SPREAD = 100.0  # two of the sixteen channels that `reader` takes in are that much larger; it does not listen to them
RAISED = ("tflite", "float32"), ("tflite", "int16"), ("openvino", "float32"), ("onnxruntime", "float32")
LAYERS = ("writer/conv2d", "reader/conv2d")


class Fragile(nn.Module):
    """A sum, a convolution whose output channels differ a hundredfold, and one that reads them; then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.side = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.writer, self.reader = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)
        factors = torch.ones(16)
        factors[:2] = SPREAD
        with torch.no_grad():
            self.writer.weight.mul_(factors[:, None, None, None])
            self.writer.bias.mul_(factors)  # type: ignore[union-attr]  # it has one
            self.reader.weight[:, :2] = 0.0  # so that 8-bit weights are good enough, which int16 keeps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.side(x))
        x = torch.relu(self.reader(torch.relu(self.writer(x))))
        scores: torch.Tensor = self.head(x.mean((2, 3)))
        return scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("raised")
    images = np.random.default_rng(0).standard_normal((64, 3, 12, 12)).astype(np.float32)
    np.savez(made / "images.npz", x=images)
    np.save(made / "in0.npy", images)
    return made


@cache
def graph(folder: Path) -> FloatGraph:
    network = Network(name="fragile", module=Fragile().eval(), example_inputs=None, fingerprint="")
    data = open_dataset(str(folder / "images.npz"))
    model = Trace()(network, (torch.from_numpy(next(data.batches(1)).inputs[0]),))[0]
    return FloatGraph.from_model(Calibrate()(model, Context(calibrate=data))[0])


@cache
def lowered(folder: Path, name: str, form: Raised | None) -> Artifact:
    """Return a file with `LAYERS` in that format."""
    module, raised = backend(name), {} if form is None else dict.fromkeys(LAYERS, form)
    made = folder / f"{name}-{form}"
    made.mkdir()
    target = TargetProfile(name="test", description="", backend=name, isa="any", int8=Int8Scheme(weight_bits=7))
    try:
        floating = module.lower_float(graph(folder), target, made / f"float{module.suffix}")
        scheme = replace(Scheme.of(target), raised=raised)
        artifact = module.lower_int8(graph(folder), scheme, floating, made / f"model{module.suffix}")
    except MissingPackageError as error:
        pytest.skip(str(error))
    (made / "io.json").write_text(json.dumps(module.bindings(graph(folder), artifact.path)))
    return artifact


def error(folder: Path, name: str, form: Raised | None) -> float:
    """Return |file - float| / |float - its mean over samples| of the scores, Euclidean."""
    found = host.run(lowered(folder, name, form).path, (folder / "in0.npy",)).outputs[0]
    images = torch.from_numpy(np.load(folder / "in0.npy"))
    wanted = torch.cat([graph(folder).outputs_of((image[None],))[0] for image in images]).numpy()
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted - wanted.mean(0)))


def formats_of_layers(artifact: Artifact) -> Mapping[int, str]:
    """Return multiply-adds -> number format of each layer of a file."""
    from importlib import import_module

    reader = import_module(f"edgeport.formats.{format_of(artifact.path)}")
    return {cost.macs: cost.dtype for cost in reader.read_costs(artifact.path) if cost.macs}


@pytest.mark.parametrize(("name", "form"), RAISED)
def test_raised_layers_undo_what_int8_broke(folder: Path, name: str, form: Raised) -> None:
    broken, held = error(folder, name, None), error(folder, name, form)
    assert broken > 1.0
    assert held < broken / 4


@pytest.mark.parametrize(("name", "form"), RAISED)
def test_only_raised_layers_leave_int8(folder: Path, name: str, form: Raised) -> None:
    macs = {"stem": 31104, "side": 82944, "writer": 41472, "reader": 82944, "head": 160}  # out * in * 9 * pixels
    kinds = formats_of_layers(lowered(folder, name, form))
    assert kinds[macs["stem"]] == kinds[macs["head"]] == "int8"
    assert kinds[macs["writer"]] == form


@pytest.mark.parametrize("name", ["tflite", "openvino", "onnxruntime"])
def test_every_backend_can_raise_to_float32(name: str) -> None:
    assert backend(name).raised_formats[0] == "float32"


@pytest.mark.parametrize(("name", "form"), RAISED)
def test_raised_layers_are_written_the_same_every_time(folder: Path, name: str, form: Raised) -> None:
    first = lowered(folder, name, form)
    module = backend(name)
    target = TargetProfile(name="test", description="", backend=name, isa="any", int8=Int8Scheme(weight_bits=7))
    scheme = replace(Scheme.of(target), raised=dict.fromkeys(LAYERS, form))
    floating = module.lower_float(graph(folder), target, first.path.with_name(f"again-float{module.suffix}"))
    again = module.lower_int8(graph(folder), scheme, floating, first.path.with_name(f"again{module.suffix}"))
    assert [file.read_bytes() for file in again.files] == [file.read_bytes() for file in first.files]
