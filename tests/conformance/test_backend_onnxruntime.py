"""ONNX Runtime files: float equals torch, every layer of the int8 file runs on integers, and bytes are reproducible."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from lowering_case import (
    EIGHT_BITS_EXACT,
    LOWERABLE,
    SAMPLES,
    WITH_LAYERS,
    float_graph,
    profile,
    reference,
    relative_error,
    samples,
)

from edgeport.backends import onnxruntime as backend
from edgeport.errors import LoweringError
from edgeport.quant.onnx_placement import NOTHING_QUANTIZED
from edgeport.quant.scheme import Scheme

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from edgeport.types import Artifact

LARGEST_FLOAT_ERROR = 1e-5  # both sides sum up to 300 products in float32, in another order
# u8 activations err by up to half of 1/255 of their range, 0.2 %, at each of some five layers in a row, of values that
# are about a quarter of their range
LARGEST_ERROR = 0.05
INTEGER_LAYERS = {  # layers of each network by the integer operator that ONNX Runtime must make of them
    "residual": {"QLinearConv": 6, "QGemm": 1},
    "pre_activation": {"QLinearConv": 4},
    "two_by_two": {"QLinearConv": 1, "QGemm": 2},
    "linear_only": {"QGemm": 3},
    "tiny_channel": {"QLinearConv": 2},
    "gated": {"QLinearConv": 3, "QGemm": 1},
    "sequence": {"QLinearConv": 1, "QGemm": 1, "QLinearMatMul": 1},
    "upsampling": {"QLinearConv": 2, "ConvTranspose": 1},  # there is no integer kernel of the transposed convolution
}
LAYER_KINDS = {
    "Conv", "FusedConv", "QLinearConv", "ConvInteger", "ConvTranspose", "Gemm", "FusedGemm", "QGemm", "MatMul",
    "FusedMatMul", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
}  # fmt: skip


def lowered(name: str, folder: Path, *, weight_bits: int = 8) -> tuple[Artifact, Artifact]:
    graph, target = float_graph(name), profile("onnxruntime", weight_bits=weight_bits)
    float_file = backend.lower_float(graph, target, folder / f"{name}-float.onnx")
    return float_file, backend.lower_int8(graph, Scheme.of(target), float_file, folder / f"{name}-{weight_bits}.onnx")


def optimized(path: Path) -> onnx.ModelProto:
    import onnx
    import onnxruntime  # type: ignore[import-untyped]  # ships no types

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def run(name: str, path: Path, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return the outputs for all samples, fed and read as `bindings` says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    bindings = backend.bindings(float_graph(name), path)
    sources, results = ([entry["tensor"] for entry in bindings[key]] for key in ("inputs", "outputs"))  # type: ignore[attr-defined]  # JSON values
    rows = [
        session.run(results, {key: array[index : index + 1] for key, array in zip(sources, inputs, strict=True)})
        for index in range(len(inputs[0]))
    ]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("name", LOWERABLE)
def test_float_file_equals_torch(name: str, tmp_path: Path) -> None:
    inputs = samples(name, seed=1)
    artifact = backend.lower_float(float_graph(name), profile("onnxruntime"), tmp_path / "float.onnx")
    for found, expected in zip(run(name, artifact.path, inputs), reference(name, inputs), strict=True):
        assert found.shape == expected.shape
        assert relative_error(found, expected) <= LARGEST_FLOAT_ERROR


@pytest.mark.parametrize("weight_bits", [pytest.param(8, marks=EIGHT_BITS_EXACT), 7])
@pytest.mark.parametrize("name", WITH_LAYERS)
def test_int8_file_agrees_with_torch(name: str, weight_bits: int, tmp_path: Path) -> None:
    inputs = samples(name, seed=1)
    _, artifact = lowered(name, tmp_path, weight_bits=weight_bits)
    outputs = run(name, artifact.path, inputs)
    assert len(outputs[0]) == SAMPLES
    for found, expected in zip(outputs, reference(name, inputs), strict=True):
        assert relative_error(found, expected) <= LARGEST_ERROR


@pytest.mark.parametrize("name", WITH_LAYERS)
def test_every_layer_runs_on_integers(name: str, tmp_path: Path) -> None:
    _, artifact = lowered(name, tmp_path)
    kinds = Counter(node.op_type for node in optimized(artifact.path).graph.node)
    assert {kind: count for kind, count in kinds.items() if kind in LAYER_KINDS} == INTEGER_LAYERS[name]


def test_slice_pad_pooling_and_concatenation_stay_between_integers(tmp_path: Path) -> None:
    _, artifact = lowered("residual", tmp_path)
    kinds = Counter(node.op_type for node in optimized(artifact.path).graph.node)
    assert kinds["QuantizeLinear"] == 1  # of the input; the result leaves the last layer as float32
    assert kinds["DequantizeLinear"] == 0
    assert (kinds["QLinearAdd"], kinds["QLinearConcat"], kinds["QLinearGlobalAveragePool"]) == (1, 1, 1)
    assert artifact.notes == ()


def test_seven_bit_weights_stay_within_63_but_for_depthwise(tmp_path: Path) -> None:
    from onnx import load, numpy_helper

    _, artifact = lowered("residual", tmp_path, weight_bits=7)
    largest = {
        tensor.name: int(np.abs(numpy_helper.to_array(tensor).astype(int)).max())
        for tensor in load(artifact.path).graph.initializer
        if tensor.name.endswith(":weight:int")
    }
    assert largest.pop("conv2d_3:weight:int") == 127  # depthwise: its kernels never add pairs of products
    assert len(largest) == 6
    assert set(largest.values()) == {63}


def test_bias_too_large_for_its_channel_is_kept_and_told(tmp_path: Path) -> None:
    from onnx import load, numpy_helper

    _, artifact = lowered("tiny_channel", tmp_path)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in load(artifact.path).graph.initializer}
    bias = tensors["conv2d:bias:int"] * tensors["conv2d:bias:scale"].astype(np.float64)
    assert bias[0] == pytest.approx(3.0, rel=1e-6)
    assert bias[1] == pytest.approx(-1.0, rel=1e-6)  # the channel without weights
    assert artifact.notes == ("weight scale widened so that the bias fits 32 bits: 1 channel of conv/conv2d",)


def test_what_stays_in_float_is_told(tmp_path: Path) -> None:
    assert lowered("gated", tmp_path)[1].notes == ("left in float32: 1 HardSwish, 1 Softmax",)
    assert lowered("upsampling", tmp_path)[1].notes == ("left in float32: 1 ConvTranspose",)


def test_network_without_layers_is_written_as_it_is_and_told(tmp_path: Path) -> None:
    float_file, artifact = lowered("no_layer", tmp_path)
    assert artifact.notes == (NOTHING_QUANTIZED,)
    assert artifact.path.read_bytes() == float_file.path.read_bytes()


@pytest.mark.parametrize("name", ["residual", "two_by_two"])
def test_same_network_gives_the_same_bytes_without_paths(name: str, tmp_path: Path, root: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = lowered(name, tmp_path), lowered(name, tmp_path / "again")
    for one, other in zip(first, second, strict=True):
        content = one.path.read_bytes()
        assert content == other.path.read_bytes()
        assert str(root).encode() not in content
        assert str(tmp_path).encode() not in content


def test_integer_file_edges_are_refused_in_words(tmp_path: Path) -> None:
    from msgspec.structs import replace as changed

    from edgeport.profile import Int8Scheme

    target = changed(profile("onnxruntime"), int8=Int8Scheme(io="int8"))
    float_file, _ = lowered("linear_only", tmp_path)
    artifact = backend.lower_int8(float_graph("linear_only"), Scheme.of(target), float_file, tmp_path / "io.onnx")
    assert artifact.notes == ("inputs and outputs stay float32: only the tflite backend has integer ones",)


def test_dropout_that_stays_active_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"operator Dropout of '.*dropout.*' draws random numbers at inference"):
        backend.lower_float(float_graph("active_dropout"), profile("onnxruntime"), tmp_path / "float.onnx")


def test_operator_without_kernel_is_named(tmp_path: Path) -> None:
    import onnx

    graph = float_graph("linear_only")
    broken = onnx.ModelProto()
    broken.CopyFrom(graph.onnx)
    broken.graph.node[1].op_type, broken.graph.node[1].domain = "Wobble", "nowhere"
    broken.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    changed = replace(graph)
    changed.__dict__["onnx"] = broken  # where a cached property lies
    with pytest.raises(LoweringError, match=r"onnxruntime cannot load the network: .*Wobble"):
        backend.lower_float(changed, profile("onnxruntime"), tmp_path / "broken.onnx")
    assert not (tmp_path / "broken.onnx").exists()
