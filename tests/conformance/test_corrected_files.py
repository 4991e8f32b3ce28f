"""Every backend's int8 file holds exactly the corrected integers and biases; the float file holds none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from lowering_case import float_graph, samples

from edgeport.backends import NAMES, backend
from edgeport.graph.float_graph import FloatGraph
from edgeport.profile import TargetProfile
from edgeport.quant.affine import symmetric_weight
from edgeport.quant.corrections import LayerWeights, correctable_layers
from edgeport.quant.layers import layer_bits
from edgeport.quant.packing import unpack
from edgeport.quant.scheme import Scheme
from edgeport.quant.sequential import Methods, correct_layers
from edgeport.quant.straight_through import int8_student, trained_layers
from edgeport.training.modes import tensors_of
from edgeport.types import TRAINED_BITS, WeightBits

NETWORK = "residual"  # plain, strided, depthwise and grouped convolutions, and a linear layer


@cache
def corrected(bits: WeightBits) -> FloatGraph:
    """Return the network with AdaRound and bias correction on every layer; with 2 and 1 bits, as training leaves it."""
    graph = float_graph(NETWORK)
    ranges = {graph.provenance[name]: ends for name, ends in graph.ranges.items()}
    layers = correctable_layers(graph.module, ranges)
    rows = [[torch.from_numpy(array[i : i + 1]) for array in samples(NETWORK, seed=0)] for i in range(16)]
    methods = Methods(adaround=frozenset(layers), iterations=0)
    if bits in TRAINED_BITS:
        student = int8_student(graph.module, ranges, bits)
        made: Mapping[str, LayerWeights] = trained_layers(graph.module, tensors_of(student), ranges, bits)
    else:
        made = correct_layers(graph.module, rows, ranges, weight_bits=[bits], methods=methods).corrections.layers[bits]
    names = {key: name for name, key in graph.provenance.items()}
    found = {names[key]: layer for key, layer in made.items()}
    assert len(found) == 7
    for name, layer in found.items():
        assert layer.bias is not None
        found[name] = replace(layer, bias=layer.bias + np.float32(0.01))  # none is as it was, whatever was measured
    return replace(graph, corrections={bits: found})


def integers(layer: LayerWeights, bits: WeightBits) -> tuple[np.ndarray, np.ndarray]:
    """Return the integers of a layer's weight, and its bias."""
    found = symmetric_weight(layer.weight, axis=0, bits=bits)
    assert layer.bias is not None
    return found.integers, layer.bias


def onnx_constants(path: Path, name: str) -> tuple[np.ndarray, np.ndarray | None, float]:
    import onnx
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    node = next(
        node
        for node in onnx.load(path).graph.node
        if node.op_type in ("Conv", "Gemm") and any(f"{name}:weight" == value for value in node.input)
    )
    producers = {output: node for node in onnx.load(path).graph.node for output in node.output}
    stored = producers[node.input[1]].input[0]
    weight = arrays[producers[stored].input[0] if stored in producers else stored]  # through the Cast of INT4
    bias, scales = (arrays[part] for part in producers[node.input[2]].input[:2])
    return weight.astype(np.int8), bias * scales.astype(np.float64), float(scales.max())


def tflite_constants(path: Path, key: str) -> tuple[np.ndarray, np.ndarray | None, float]:
    from edgeport.quant.tflite_file import constant, operators, read, tensor_name

    model = read(path.read_bytes())
    for op in operators(model):
        if len(op.inputs) > 2 and tensor_name(model, op.inputs[1]).startswith(f"{key};1"):
            weight, bias = constant(model, op.inputs[1]), constant(model, op.inputs[2])
            assert weight is not None
            assert bias is not None
            scales = np.array(model.subgraphs[0].tensors[op.inputs[2]].quantization.scale, np.float64)
            if op.kind == "CONV_2D":
                weight = weight.transpose(0, 3, 1, 2)
            elif op.kind == "DEPTHWISE_CONV_2D":
                weight = weight.transpose(3, 0, 1, 2)
            return weight, bias * scales, float(scales.max())
    raise LookupError(key)


def openvino_constants(path: Path, name: str) -> tuple[np.ndarray, np.ndarray | None, float]:
    import openvino  # type: ignore[import-untyped]  # ships no types

    for node in openvino.Core().read_model(path).get_ordered_ops():
        kinds = ("Convolution", "GroupConvolution", "MatMul")
        if node.get_type_name() in kinds and node.get_friendly_name().partition("/")[0] == f"node_{name}":
            value = node.input_value(1).get_node()
            while value.get_type_name() != "Constant":
                value = value.input_value(0).get_node()
            weight = value.data
            if value.get_element_type().get_type_name() == "i4":
                size = int(np.prod(list(value.shape)))
                weight = unpack(weight.view(np.uint8).reshape(-1), size).reshape(list(value.shape))
            if node.get_type_name() == "GroupConvolution":
                weight = weight.reshape(-1, *weight.shape[2:])
            return weight, None, 0.0  # the bias is float32 and added afterwards
    raise LookupError(name)


READERS = {"onnxruntime": onnx_constants, "openvino": openvino_constants, "tflite": tflite_constants}


def lowered(runtime: str, graph: FloatGraph, bits: WeightBits, folder: Path) -> tuple[Path, Path, tuple[str, ...]]:
    module = backend(runtime)
    profile = TargetProfile(name="test", description="", backend=runtime, isa="any")
    floating = module.lower_float(graph, profile, folder / f"model-float{module.suffix}")
    made = module.lower_int8(graph, Scheme.of(profile, bits), floating, folder / f"model{module.suffix}")
    return floating.path, made.path, made.notes


@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8])
@pytest.mark.parametrize("runtime", NAMES)
def test_file_holds_the_corrected_integers(runtime: str, bits: WeightBits, tmp_path: Path) -> None:
    graph = corrected(bits)
    floating, made, notes = lowered(runtime, graph, bits, tmp_path)
    plain = float_graph(NETWORK)
    floating_plain, _, _ = lowered(runtime, plain, bits, _folder(tmp_path / "plain"))
    assert floating.read_bytes() == floating_plain.read_bytes()  # the float file is not corrected
    own = layer_bits(graph.module, bits)
    missed = next((note for note in notes if note.startswith("weights not corrected")), "")
    for name, layer in graph.corrections[bits].items():
        key = graph.provenance[name]
        if key in missed:
            continue
        weight, bias, step = READERS[runtime](made, key if runtime == "tflite" else name)
        wanted, real = integers(layer, own[key])
        np.testing.assert_array_equal(weight.reshape(wanted.shape) if weight.size == wanted.size else weight, wanted)
        if bias is not None:
            np.testing.assert_allclose(bias, real, rtol=1e-6, atol=step / 2 * 1.001)
    assert missed == ""


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_raised_layers_and_one_scale_a_layer_keep_the_float_weights() -> None:
    graph = corrected(8)
    assert graph.corrections_for(Scheme(per_channel=False)) == {}
    keys = {graph.provenance[name] for name in graph.corrections[8]}
    raised = sorted(keys)[0]
    kept = graph.corrections_for(Scheme(raised={raised: "float32"}))
    assert {graph.provenance[name] for name in kept} == keys - {raised}
    assert graph.corrections_for(Scheme(weight_bits=7)) == {}


@pytest.mark.parametrize("runtime", NAMES)
def test_same_corrections_give_the_same_bytes(runtime: str, tmp_path: Path) -> None:
    files = [lowered(runtime, corrected(8), 8, _folder(tmp_path / name))[1] for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
