"""Quantization-aware training: the student computes what int8 files compute, and training makes it better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from distill_case import data, traced
from torch import nn

from edgeport.errors import ConfigError, StageError
from edgeport.graph.canonical import canonicalize
from edgeport.quant.corrections import with_layers
from edgeport.quant.layers import weight_of, weighted_nodes
from edgeport.quant.simulate import Simulator
from edgeport.quant.straight_through import int8_student, round_activation, round_bias, round_weight, trained_layers
from edgeport.stages.calibrate import Calibrate
from edgeport.stages.context import Context
from edgeport.stages.finetune import Finetune
from edgeport.training.modes import tensors_of
from edgeport.types import Model, WeightBits


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        scores: torch.Tensor = self.linear(torch.relu(self.depthwise(y)).mean((2, 3)))
        return scores


def samples(seed: int, count: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype(np.float32)


@pytest.fixture
def calibrated(tmp_path: Path) -> tuple[Model, Context]:
    torch.manual_seed(0)
    model = traced(Small().eval())
    context = Context(
        teachers=(model,),
        train=data(tmp_path / "train", samples(0, 128)),
        calibrate=data(tmp_path / "calibrate", samples(1)),
    )
    return Calibrate(method="minmax")(model, context)[0], context


def ranges_of(model: Model) -> dict[str, tuple[float, float]]:
    assert model.calibration is not None
    found = {key: model.calibration.range_of(key) for key in model.calibration.statistics}
    return {key: ends for key, ends in found.items() if ends is not None}


def test_weights_are_rounded_per_channel_and_gradients_pass() -> None:
    weight = torch.tensor([[63.0, 1.2, -0.4], [6.3, 0.12, -6.3]], requires_grad=True)
    rounded = round_weight(weight, 7)  # steps of 1.0 and of 0.1
    assert torch.allclose(rounded, torch.tensor([[63.0, 1.0, 0.0], [6.3, 0.1, -6.3]]))
    rounded.sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert torch.equal(weight.grad, torch.ones(2, 3))  # type: ignore[arg-type]  # there is one


def test_biases_are_rounded_to_32_bits_also_where_weights_are_zero() -> None:
    weight = torch.tensor([[0.127, 0.0], [0.0, 0.0]])  # scales 0.001, and next to nothing
    bias = torch.tensor([0.01234, 3.0], requires_grad=True)
    rounded = round_bias(bias, weight, 8, 0.5)  # steps of 0.0005
    assert rounded[0].item() == pytest.approx(0.0125, abs=1e-7)
    assert rounded[1].item() == pytest.approx(3.0, rel=1e-6)
    rounded.sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert torch.equal(bias.grad, torch.ones(2))  # type: ignore[arg-type]  # there is one


def test_activations_are_rounded_and_clipped_ones_have_no_gradient() -> None:
    values = torch.tensor([-1.0, 0.26, 0.74, 200.0], requires_grad=True)
    rounded = round_activation(values, 0.5, 0, 0, 255)
    assert torch.equal(rounded, torch.tensor([0.0, 0.5, 0.5, 127.5]))
    rounded.sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert torch.equal(values.grad, torch.tensor([0.0, 1.0, 1.0, 0.0]))  # type: ignore[arg-type]  # there is one


@pytest.mark.parametrize("bits", [7, 8])
def test_untrained_student_computes_what_the_simulated_file_does(calibrated: tuple[Model, Context], bits: int) -> None:
    model, _ = calibrated
    module, ranges = canonicalize(model.module, model.example_inputs), ranges_of(calibrated[0])
    student = int8_student(module, ranges, bits)  # type: ignore[arg-type]  # 7 or 8
    layers = trained_layers(module, tensors_of(student), ranges, bits)  # type: ignore[arg-type]  # as above
    simulator = Simulator(with_layers(module, layers), model.example_inputs, ranges, weight_bits=bits)  # type: ignore[arg-type]  # as above
    x = torch.from_numpy(samples(2, 16))
    with torch.no_grad():
        simulated, trained = simulator.run([x])[0], student(x)
        exact = module(x)
    assert (simulated - trained).abs().max() < 0.01 * exact.abs().max()
    assert (simulated - exact).abs().max() > 0  # it is rounded


def test_student_has_parameters_for_every_layer_and_nothing_else(calibrated: tuple[Model, Context]) -> None:
    model, _ = calibrated
    student = int8_student(canonicalize(model.module, model.example_inputs), ranges_of(model), 8)
    assert {name for name, _ in student.named_parameters()} == {
        f"{layer}_{part}" for layer in ("conv2d", "conv2d_1", "linear") for part in ("weight", "bias")
    }
    assert not dict(student.named_buffers())


def test_training_brings_the_int8_network_nearer_to_its_teacher(calibrated: tuple[Model, Context]) -> None:
    model, context = calibrated
    module, ranges = canonicalize(model.module, model.example_inputs), ranges_of(model)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    stage = Finetune(epochs=6, weight_bits=(7, 8), batch_size=16, learning_rate=0.01)
    tuned, figures = stage(model, context)
    assert all(torch.equal(value, before[name]) for name, value in tuned.module.state_dict().items())
    assert figures["layers"] == 3
    assert tuned.corrections is not None
    x = torch.from_numpy(samples(3, 64))

    def distance(layers: object) -> float:
        network = with_layers(module, layers) if layers else module  # type: ignore[arg-type]  # a mapping of layers
        simulator = Simulator(network, model.example_inputs, ranges, weight_bits=7)
        with torch.no_grad():
            return float((simulator.run([x])[0] - module(x)).square().mean())

    assert distance(tuned.corrections.layers[7]) < distance(None)
    for bits, largest in ((7, 63), (8, 127)):
        for node in weighted_nodes(module):
            key = {"conv2d": "conv/conv2d", "conv2d_1": "depthwise/conv2d", "linear": "linear/linear"}[node.name]
            layer = tuned.corrections.layers[bits][key]  # type: ignore[index]  # 7 or 8
            assert layer.weight.shape == tuple(weight_of(module, node).shape)
            steps = 127 if node.name == "conv2d_1" else largest
            rows = torch.from_numpy(layer.weight).reshape(len(layer.weight), -1)
            integers = rows / rows.abs().amax(1, keepdim=True) * steps
            assert (integers - integers.round()).abs().max() < 1e-3


def test_what_cannot_be_trained_is_refused(calibrated: tuple[Model, Context]) -> None:
    model, context = calibrated
    with pytest.raises(ConfigError, match="--qat needs --train DATA"):
        Finetune(epochs=1)(model, Context(teachers=(model,)))
    with pytest.raises(StageError, match="finetune: the network is not calibrated"):
        Finetune(epochs=1)(model.with_(calibration=None), context)
    with pytest.raises(ConfigError, match="epochs is 0; it must be at least 1"):
        Finetune(epochs=0)(model, context)


def test_a_network_without_quantized_layers_is_refused(tmp_path: Path) -> None:
    model = traced(Bare().eval(), ((3, 16, 16),))
    context = Context(
        teachers=(model,),
        train=data(tmp_path / "train", samples(0)),
        calibrate=data(tmp_path / "calibrate", samples(1)),
    )
    calibrated, _ = Calibrate(method="minmax")(model, context)
    with pytest.raises(StageError, match="no layer of this network is quantized"):
        Finetune(epochs=1)(calibrated, context)


class Bare(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.middle(torch.relu(self.first(x))))
        scores: torch.Tensor = self.linear(y.mean((2, 3)))
        return scores


@pytest.mark.parametrize("bits", [4, 2, 1])
def test_student_of_few_bits_computes_what_the_simulated_file_does(tmp_path: Path, bits: WeightBits) -> None:
    torch.manual_seed(0)
    model, _ = Calibrate(method="minmax")(traced(Deep().eval()), Context(calibrate=data(tmp_path / "c", samples(1))))
    module, ranges = canonicalize(model.module, model.example_inputs), ranges_of(model)
    student = int8_student(module, ranges, bits)
    layers = trained_layers(module, tensors_of(student), ranges, bits)
    values = layers["middle/conv2d"].weight.reshape(8, -1)
    assert max(len(np.unique(np.abs(row).round(6))) for row in values) <= {4: 8, 2: 2, 1: 1}[bits]
    simulator = Simulator(with_layers(module, layers), model.example_inputs, ranges, weight_bits=bits)
    x = torch.from_numpy(samples(2, 16))
    with torch.no_grad():
        assert (simulator.run([x])[0] - student(x)).abs().max() < 0.01 * module(x).abs().max()
