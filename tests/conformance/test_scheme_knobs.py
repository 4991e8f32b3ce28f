"""Every choice of a scheme reaches the file on every backend, and the file still answers as the network does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from lowering_case import float_graph, profile, reference, relative_error, samples

from edgeport.backends import NAMES, backend
from edgeport.devices import host
from edgeport.quant.scheme import Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeport.types import Artifact

# a 7-bit weight (no processor saturates with those) and an 8-bit activation err by a few tenths of a percent each, and
# there are up to seven layers in a row; TFLite also rounds the results of linear layers, whose outputs here are small
LARGEST_ERROR = 0.1
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tflite": "litert_converter"}
SCHEMES = {
    "signed": Scheme(weight_bits=7, activation="int8"),
    "per_tensor": Scheme(weight_bits=7, per_channel=False),
    "both": Scheme(weight_bits=7, activation="int8", per_channel=False),
}
NETWORKS = ("residual", "linear_only", "tiny_channel")


def lowered(name: str, folder: Path, *, runtime: str, scheme: Scheme) -> Artifact:
    pytest.importorskip(PACKAGES[runtime], reason=f"needs pip install 'edgeport[{runtime}]'")
    graph, module = float_graph(name), backend(runtime)
    floating = module.lower_float(graph, profile(runtime), folder / f"float{module.suffix}")
    if runtime == "tflite":  # its kernels never add pairs of products in 16 bits
        scheme = replace(scheme, weight_bits=8)
    written = module.lower_int8(graph, scheme, floating, folder / f"model{module.suffix}")
    (folder / "io.json").write_text(json.dumps(module.bindings(graph, written.path)))
    return written


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("runtime", NAMES)
def test_file_of_every_scheme_answers_as_the_network(runtime: str, name: str, scheme: str, tmp_path: Path) -> None:
    written = lowered(name, tmp_path, runtime=runtime, scheme=SCHEMES[scheme])
    arrays = samples(name, seed=1)
    paths = []
    for index, array in enumerate(arrays):
        paths.append(tmp_path / f"in{index}.npy")
        np.save(paths[-1], array)
    found = host.run(written.path, paths)
    for output, expected in zip(found.outputs, reference(name, arrays), strict=True):
        assert relative_error(output, expected) < LARGEST_ERROR


def onnx_formats(path: Path) -> tuple[set[str], set[int]]:
    """Return types of the quantized activations, and how many scales the weights have that are stored as int8."""
    import onnx

    model = onnx.load(path)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    weights = [
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and arrays.get(node.input[0]) is not None
    ]
    return {str(arrays[node.input[2]].dtype) for node in made}, {arrays[node.input[1]].size for node in weights}


def openvino_formats(path: Path) -> tuple[set[str], set[int]]:
    """Return `int8` where a quantizer has a negative end and is symmetric, `uint8` elsewhere; and scales a weight."""
    import openvino  # type: ignore[import-untyped]  # ships no types

    signs, scales = set(), set()
    for node in openvino.Core().read_model(path).get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            low, high = (float(node.input_value(index).get_node().data) for index in (1, 2))
            signs.add("int8" if low < 0 and low == pytest.approx(-high * 128 / 127, rel=1e-5) else "uint8")
        if node.get_type_name() == "Multiply" and node.input_value(0).get_node().get_type_name() == "Convert":
            scales.add(node.input_value(1).get_node().data.size)
    return signs, scales


def tflite_formats(path: Path) -> tuple[set[str], set[int]]:
    """Return types of the activations between the file's edges, and scales a weight."""
    from edgeport.quant.tflite_file import operators, read
    from edgeport.quant.tflite_weights import POSITIONS

    model = read(path.read_bytes())
    tensors = model.subgraphs[0].tensors
    layers = [op for op in operators(model) if op.kind in POSITIONS]
    names = {9: "int8", 3: "uint8", 0: "float32"}  # TensorType, TensorFlow's schema.fbs
    data = {names[tensors[op.inputs[POSITIONS[op.kind][0]]].type] for op in layers}
    return data, {len(tensors[op.inputs[POSITIONS[op.kind][1]]].quantization.scale) for op in layers}


FORMATS = {"onnxruntime": onnx_formats, "openvino": openvino_formats, "tflite": tflite_formats}
# sign of activations by scheme; in OpenVINO the network's input and first sums are signed, what a ReLU gives is not
SIGNS: Mapping[str, Mapping[str, set[str]]] = {
    "onnxruntime": {"signed": {"int8"}, "per_tensor": {"uint8"}},
    "openvino": {"signed": {"int8", "uint8"}, "per_tensor": {"uint8"}},
    "tflite": {"signed": {"int8"}, "per_tensor": {"int8"}},
}


@pytest.mark.parametrize("runtime", NAMES)
def test_file_has_the_sign_of_its_scheme(runtime: str, tmp_path: Path) -> None:
    for scheme, expected in SIGNS[runtime].items():
        written = lowered("linear_only", tmp_path, runtime=runtime, scheme=SCHEMES[scheme])
        assert FORMATS[runtime](written.path)[0] == expected


@pytest.mark.parametrize("runtime", NAMES)
def test_file_has_one_scale_a_layer_or_one_a_channel(runtime: str, tmp_path: Path) -> None:
    one = lowered("linear_only", tmp_path, runtime=runtime, scheme=SCHEMES["per_tensor"])
    assert FORMATS[runtime](one.path)[1] == {1}
    many = lowered("linear_only", tmp_path, runtime=runtime, scheme=SCHEMES["signed"])
    assert FORMATS[runtime](many.path)[1] == {32, 6}  # output channels of its three layers
