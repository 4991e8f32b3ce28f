"""Tracing: the interface, the batch dimension, and what is said of networks that cannot be traced."""

from __future__ import annotations

import pytest
import torch
from graph_case import image, residual, traced
from torch import nn

from edgeport.errors import ConfigError, StageError
from edgeport.graph.network import Network
from edgeport.stages.trace import Trace
from edgeport.types import Model, TensorSpec


def run(module: nn.Module, *inputs: torch.Tensor) -> tuple[Model, dict[str, object]]:
    network = Network(name="net", module=module.eval(), example_inputs=None, fingerprint="none")
    return Trace()(network, inputs)


def test_plain_network_takes_any_batch() -> None:
    network = residual()
    model, metrics = run(network, image())
    assert model.has_dynamic_batch
    for batch in (1, 2, 5):
        torch.testing.assert_close(model.module(image(batch)), network(image(batch)))
    assert model.inputs == (TensorSpec(name="x", shape=(3, 8, 8), dtype="float32"),)
    assert model.outputs == (TensorSpec(name="output", shape=(4,), dtype="float32"),)
    # stem 216, 5 norms of 16, 4 convolutions of 576, depthwise 72 + 8, linear 32 + 4
    assert metrics == {
        "inputs": [["x", [3, 8, 8], "float32"]],
        "outputs": [["output", [4], "float32"]],
        "parameters": 216 + 5 * 16 + 4 * 576 + 80 + 36,
        "dynamic_batch": True,
    }


def test_parameters_keep_the_users_names() -> None:
    network = residual()
    model, _ = run(network, image())
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    state = model.module.state_dict()
    assert set(names) <= set(state)
    assert all(torch.equal(state[name], network.state_dict()[name]) for name in names)
    assert [name for name, _ in model.module.named_parameters()] == [name for name, _ in network.named_parameters()]


class BatchOfOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.linear(x.view(1, -1))
        return found


def test_network_for_a_batch_of_one_is_traced_with_it() -> None:
    network = BatchOfOne()
    model, metrics = run(network, torch.ones(1, 3, 4))
    assert not model.has_dynamic_batch
    assert metrics["dynamic_batch"] is False
    torch.testing.assert_close(model.module(torch.ones(1, 3, 4)), network(torch.ones(1, 3, 4)))


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, picture: torch.Tensor, facts: torch.Tensor) -> object:
        mean = picture.mean((2, 3))
        return {"scores": self.linear(facts) + mean[:, :2], "rest": [mean, (facts > 0,)]}


def test_inputs_and_nested_outputs_are_named_in_order() -> None:
    model, _ = run(Several(), image(), torch.randn(1, 4))
    assert [(spec.name, spec.shape) for spec in model.inputs] == [("picture", (3, 8, 8)), ("facts", (4,))]
    assert model.has_dynamic_batch
    assert model.outputs == (
        TensorSpec(name="output", shape=(2,), dtype="float32"),
        TensorSpec(name="output_1", shape=(3,), dtype="float32"),
        TensorSpec(name="output_2", shape=(4,), dtype="bool"),
    )


class Starred(nn.Module):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0] + inputs[1].float()


def test_network_with_any_number_of_inputs() -> None:
    model, _ = run(Starred(), torch.ones(1, 4), torch.ones(1, 4, dtype=torch.int64))
    assert model.has_dynamic_batch
    assert [(spec.shape, spec.dtype) for spec in model.inputs] == [((4,), "float32"), ((4,), "int64")]


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # the line that the message is about
            return x
        return -x


def test_data_dependent_branch_is_told_with_its_line() -> None:
    with pytest.raises(StageError, match=r"^trace: .*test_trace\.py, line \d+: if x\.sum\(\) > 0"):
        run(Branches(), torch.ones(1, 4))


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 3), (1, 3, 8, 8, 8)])
def test_input_of_another_shape_is_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"the network does not take inputs of shape") as caught:
        run(residual(), torch.ones(shape))
    assert str(tuple(shape)) in str(caught.value)


def test_missing_input_is_told() -> None:
    with pytest.raises(ConfigError, match=r"inputs of shape \(1, 3, 8, 8\).*missing 1 required positional.*'facts'"):
        run(Several(), image())


class Raises(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("no such head")


def test_error_of_the_users_code_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"no such head.*\(test_trace\.py, line \d+: raise KeyError"):
        run(Raises(), torch.ones(1, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weight_that_is_not_finite_is_named(value: float) -> None:
    network = residual()
    network.linear.bias.data[1] = value
    with pytest.raises(StageError, match=r"weight 'linear\.bias' holds NaN or infinite values"):
        run(network, image())


class Logarithm(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, torch.log(x)


def test_output_that_is_not_finite_is_named() -> None:
    with pytest.raises(StageError, match="output_1 of the float network is NaN or infinite on the first sample"):
        run(Logarithm(), torch.full((1, 2), -1.0))


class Returns(nn.Module):
    def __init__(self, extra: object) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: torch.Tensor) -> object:
        return {"x": x + 1, "extra": self.extra}


@pytest.mark.parametrize(("extra", "kind"), [(3, "int"), ("text", "str"), (2.5, "float")])
def test_output_that_is_no_tensor_is_refused(extra: object, kind: str) -> None:
    with pytest.raises(StageError, match=f"network 'net' returns .*{kind}.*; outputs must be tensors"):
        run(Returns(extra), torch.ones(1, 4))


def test_program_of_torch_export_keeps_its_batch() -> None:
    network, batch = residual(), torch.export.Dim("batch", min=1)
    dynamic = torch.export.export(network, (image(2),), dynamic_shapes=({0: batch},))
    fixed = torch.export.export(network, (image(),))
    for program, has_dynamic_batch in ((dynamic, True), (fixed, False)):
        handed = Network(name="net", module=program, example_inputs=None, fingerprint="none")
        model, _ = Trace()(handed, (image(),))
        assert model.has_dynamic_batch is has_dynamic_batch
        torch.testing.assert_close(model.module(image()), network(image()))
        assert model.inputs == traced(network, image()).inputs


def test_traced_network_is_for_inference() -> None:
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3))
    model, _ = run(network, image())
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    first, second = model.module(image(4)), model.module(image(4))
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
