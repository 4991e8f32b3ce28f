"""float16 and int8 weights on every backend: smaller files that answer as float does, with reproducible bytes."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from uuid import uuid4

import numpy as np
import pytest
import torch
from lowering_case import LOWERABLE, WITH_LAYERS, float_graph, profile, reference, relative_error, samples
from torch import nn

from edgeport.backends import NAMES, backend
from edgeport.devices.host import run
from edgeport.formats import reader_of
from edgeport.graph.float_graph import FloatGraph
from edgeport.graph.network import Network
from edgeport.quant.scheme import Scheme
from edgeport.quant.storage import NOTHING_STORED
from edgeport.stages.trace import Trace
from edgeport.types import Artifact

PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tflite": "litert_torch"}
FOLDER = TemporaryDirectory(prefix="edgeport-test-")
WRITTEN: dict[tuple[str, int], tuple[FloatGraph, Artifact]] = {}
FORMS = ("float16", "dynamic_int8")
# float16 rounds weights by at most 2**-11 = 0.0005 of each, over some seven layers; int8 by half of 1/127 of a
# channel's largest, 0.4 % of it, which is about 1 % of a typical one, and errors of many weights cancel
LARGEST_ERROR = {"float16": 0.003, "dynamic_int8": 0.03}


@pytest.fixture(params=NAMES)
def runtime(request: pytest.FixtureRequest) -> ModuleType:
    """Return each backend whose packages are there."""
    pytest.importorskip(PACKAGES[request.param])
    module = backend(request.param)
    assert isinstance(module, ModuleType)
    return module


def lowered(module: ModuleType, graph: FloatGraph, form: str, folder: Path) -> tuple[Artifact, Artifact]:
    """Write the float file and the smaller one, each in a folder with its bindings."""
    floating = float_file(module, graph)
    (folder / form).mkdir(parents=True)
    out = folder / form / f"model{module.suffix}"
    if form == "float16":
        small = module.lower_float16(graph, floating, out)
    else:
        small = module.lower_dynamic(graph, Scheme.of(profile(floating.backend, weight_bits=7)), floating, out)
    (folder / form / "io.json").write_text(json.dumps(module.bindings(graph, out)))
    return floating, small


def float_file(module: ModuleType, graph: FloatGraph) -> Artifact:
    """Return the float file, written once for all tests: converting to TFLite takes seconds."""
    known = WRITTEN.get((module.__name__, id(graph)))
    if known is not None:
        return known[1]
    folder = Path(FOLDER.name, uuid4().hex)
    folder.mkdir()
    target = profile(module.__name__.rpartition(".")[2])
    artifact = module.lower_float(graph, target, folder / f"model{module.suffix}")
    assert isinstance(artifact, Artifact)
    WRITTEN[module.__name__, id(graph)] = (graph, artifact)  # the graph too, so that no other one gets its id
    return artifact


def outputs(artifact: Artifact, inputs: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return what the file answers in its runtime."""
    places = []
    for index, array in enumerate(inputs):
        places.append(artifact.path.with_name(f"in{index}.npy"))
        np.save(places[-1], array)
    return run(artifact.path, places).outputs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LOWERABLE)
def test_file_with_small_weights_agrees_with_torch(name: str, form: str, runtime: ModuleType, tmp_path: Path) -> None:
    floating, small = lowered(runtime, float_graph(name), form, tmp_path)
    inputs = samples(name, seed=1)
    for found, expected in zip(outputs(small, inputs), reference(name, inputs), strict=True):
        assert found.shape == expected.shape
        assert relative_error(found, expected) <= LARGEST_ERROR[form]
    assert (small.precision, floating.precision) == (form, "float32")
    assert (NOTHING_STORED in small.notes) == (name not in WITH_LAYERS)


@pytest.mark.parametrize("form", FORMS)
def test_file_says_how_weights_are_kept_and_what_computes(form: str, runtime: ModuleType, tmp_path: Path) -> None:
    _, small = lowered(runtime, float_graph("residual"), form, tmp_path)
    rows = [row for row in reader_of(small.path).read_costs(small.path) if row.macs]
    expected = ("float32", "float16") if form == "float16" else ("int8-weights", "int8")
    count = 8 if small.backend == "tflite" else 7  # the strided shortcut is a convolution there
    assert [(row.dtype, row.weight_dtype) for row in rows] == [expected] * count


@pytest.mark.parametrize("form", FORMS)
def test_same_network_gives_the_same_small_file(form: str, runtime: ModuleType, tmp_path: Path) -> None:
    files = [lowered(runtime, float_graph("residual"), form, tmp_path / place)[1].files for place in "ab"]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


class Wide(nn.Module):
    """Layers wide enough that weights are most of the file, 99 %; a plain convolution, a depthwise one and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 128, 3, 1, 1), nn.Conv2d(128, 128, 3, 1, 1, groups=128)
        self.body, self.head = nn.Conv2d(128, 256, 3, 1, 1), nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.body(torch.relu(self.depthwise(torch.relu(self.stem(x))))))
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


def graph_of(module: nn.Module, *shape: int) -> FloatGraph:
    """Trace a network without calibrating it."""
    network = Network(name="net", module=module.eval(), example_inputs=None, fingerprint="")
    model, _ = Trace()(network, (torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)),))
    return FloatGraph.from_model(model)


@pytest.mark.parametrize(("form", "least"), [("float16", 1.95), ("dynamic_int8", 3.7)])
def test_file_is_half_or_a_quarter_of_float(form: str, least: float, runtime: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    floating, small = lowered(runtime, graph_of(Wide(), 3, 8, 8), form, tmp_path)
    assert floating.size_bytes / small.size_bytes >= least


class OutOfRange(nn.Module):
    """A layer with larger numbers than float16 has, and one with smaller ones; their product is ordinary."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.huge, self.tiny = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        with torch.no_grad():
            self.huge.weight *= 1e7
            self.tiny.weight *= 1e-7

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.tiny(torch.relu(self.huge(torch.relu(self.plain(x)))))
        return out


def test_layers_beyond_float16_are_named_and_stay_in_float32(runtime: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = graph_of(OutOfRange(), 8)
    _, small = lowered(runtime, graph, "float16", tmp_path)
    named = [note for note in small.notes if "stay in float32" in note]
    assert [note.partition(":")[0] for note in named] == [
        "the weights of 'huge/linear' stay in float32",
        "the weights of 'tiny/linear' stay in float32",
    ]
    assert "beyond float16's 65504" in named[0]
    assert "too small for float16" in named[1]
    stored = [row.weight_dtype for row in reader_of(small.path).read_costs(small.path) if row.macs]
    assert stored == ["float16", "float32", "float32"]
    inputs = [np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)]
    expected = graph.module(torch.from_numpy(inputs[0][:1])).detach().numpy()
    assert relative_error(outputs(small, inputs)[0][:1], expected) <= LARGEST_ERROR["float16"]
