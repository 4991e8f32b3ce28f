"""What backends get: one sample at a time, names, provenance and ranges that belong together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graph_case import image, residual, traced
from torch import nn

from edgeport.errors import StageError
from edgeport.graph.float_graph import FloatGraph, check_finite
from edgeport.quant.calibration import Calibration
from edgeport.quant.observer import BINS, Statistics


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.conv(left))
        return hidden, hidden.mean((2, 3)) * right


def test_outputs_are_named_as_the_nodes_that_make_them() -> None:
    torch.manual_seed(0)
    network, inputs = TwoOutputs(), (image(), torch.randn(1, 4))
    graph = FloatGraph.from_model(traced(network, *inputs))
    assert [spec.name for spec in graph.inputs] == ["left", "right"]
    assert [(spec.name, spec.shape) for spec in graph.outputs] == [("relu", (4, 6, 6)), ("mul", (4,))]
    activations = graph.activations(inputs)
    for spec, found, wanted in zip(graph.outputs, graph.outputs_of(inputs), network(*inputs), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        assert torch.equal(activations[spec.name], found)


def test_activations_default_to_the_example() -> None:
    graph = FloatGraph.from_model(traced(residual(), image()))
    default, again = graph.activations(), graph.activations((image(),))
    assert list(default) == list(graph.provenance)  # every activation has its key, and nothing else is one
    assert all(torch.equal(default[name], again[name]) for name in default)
    assert {len(value) for value in default.values()} == {1}


def test_exported_program_has_the_graphs_node_names() -> None:
    graph = FloatGraph.from_model(traced(residual(), image()))
    calls = [node.name for node in graph.exported.graph.nodes if node.op == "call_function"]
    assert calls == [node.name for node in graph.module.graph.nodes if node.op == "call_function"]
    torch.testing.assert_close(graph.exported.module()(image()), graph.outputs_of((image(),))[0])


def test_ranges_follow_provenance() -> None:
    def seen(low: float, high: float) -> Statistics:
        return Statistics(low=low, high=high, span=8.0, counts=np.zeros(BINS, np.int64))

    statistics = {"/x": seen(-2, 3), "layer1.1/relu_1": seen(0, 7), "no/such": seen(0, 1)}
    model = traced(residual(), image())
    assert FloatGraph.from_model(model).ranges == {}
    graph = FloatGraph.from_model(model.with_(calibration=Calibration(statistics=statistics, samples=1)))
    nodes = {key: name for name, key in graph.provenance.items()}
    assert graph.ranges == {nodes["/x"]: (-2, 3), nodes["layer1.1/relu_1"]: (0, 7)}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weight_that_is_not_finite_is_named(value: float) -> None:
    model = traced(residual(), image())
    check_finite(model)
    with torch.no_grad():
        model.module.get_parameter("layer1.0.conv1.weight").view(-1)[3] = value
    with pytest.raises(StageError, match=r"weight 'layer1\.0\.conv1\.weight' holds NaN or infinite values"):
        check_finite(model)
