"""The float network as ONNX: the same numbers, the graph's names, nothing of the building machine."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from graph_case import image, residual, traced
from torch import nn

from edgeport.errors import LoweringError
from edgeport.graph.float_graph import FloatGraph

pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")


class TwoInOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, picture: torch.Tensor, facts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.bn(self.conv(picture)))
        return hidden, torch.softmax(hidden.mean((2, 3)) + facts, 1)


@pytest.fixture(scope="module")
def graph() -> FloatGraph:
    return FloatGraph.from_model(traced(residual(), image()))


def check_against_torch(graph: FloatGraph, network: nn.Module, *inputs: torch.Tensor) -> None:
    session = ort.InferenceSession(graph.onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {spec.name: value.numpy() for spec, value in zip(graph.inputs, inputs, strict=True)}
    found = session.run([spec.name for spec in graph.outputs], feed)
    with torch.no_grad():
        wanted = network(*inputs)
    for ours, theirs in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4, rtol=1e-4)


def test_residual_network_gives_torchs_outputs(graph: FloatGraph) -> None:
    for seed in range(3):
        check_against_torch(graph, residual(), image(seed=seed))


def test_several_inputs_and_outputs() -> None:
    torch.manual_seed(0)
    network, inputs = TwoInOut(), (image(), torch.randn(1, 4))
    check_against_torch(FloatGraph.from_model(traced(network, *inputs)), network, *inputs)


def test_value_names_are_node_names(graph: FloatGraph) -> None:
    onnx = graph.onnx.graph
    assert [value.name for value in onnx.input] == ["x"]
    assert [value.name for value in onnx.output] == [graph.outputs[0].name]
    made = {name for node in onnx.node for name in node.output}
    activations = {node.name for node in graph.module.graph.nodes if node.op == "call_function"}
    assert activations - made == {"adaptive_avg_pool2d", "flatten"}  # the exporter takes these two apart
    convolutions = [node.output[0] for node in onnx.node if node.op_type == "Conv"]
    assert [graph.provenance[name] for name in convolutions] == [
        "stem/conv2d",
        "layer1.0.conv1/conv2d",
        "layer1.0.conv2/conv2d",
        "layer1.1.conv1/conv2d",
        "layer1.1.conv2/conv2d",
        "depthwise/conv2d",
    ]


def test_batch_is_one(graph: FloatGraph) -> None:
    dims = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.onnx.graph.input]
    assert dims == [[1, 3, 8, 8]]


def test_nothing_of_this_machine_is_inside(graph: FloatGraph) -> None:
    content = graph.onnx.SerializeToString()
    places = (
        sys.prefix,
        Path.cwd(),
        Path(torch.__file__).parent,
        Path(__file__).parent,
        Path.home(),
        tempfile.gettempdir(),
    )
    for text in (*map(str, places), "stack_trace", ".py", "graph_case"):
        assert text.encode() not in content, text


def test_exporting_twice_gives_the_same_bytes(graph: FloatGraph) -> None:
    again = FloatGraph.from_model(traced(residual(), image()))
    assert again.onnx.SerializeToString(deterministic=True) == graph.onnx.SerializeToString(deterministic=True)


class Unsupported(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.special.bessel_j0(x)
        return found


def test_operator_without_an_onnx_form_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LoweringError, match="bessel_j0"):
        _ = FloatGraph.from_model(traced(Unsupported(), image())).onnx
    assert capfd.readouterr().out == ""
