"""OpenVINO files: float equals torch, every layer of the int8 file runs on integers, and bytes are reproducible."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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

from edgeport.backends import openvino as backend
from edgeport.errors import LoweringError
from edgeport.quant.onnx_placement import NOTHING_QUANTIZED
from edgeport.quant.scheme import Scheme

if TYPE_CHECKING:
    from pathlib import Path

    from edgeport.types import Artifact

LARGEST_FLOAT_ERROR = 1e-5  # both sides sum up to 300 products in float32, in another order
# u8 activations err by up to half of 1/255 of their range, 0.2 %, at each of some five layers in a row, of values that
# are about a quarter of their range
LARGEST_ERROR = 0.05
LAYERS = {  # convolutions and linear layers of each network
    "residual": 7, "pre_activation": 4, "two_by_two": 3, "linear_only": 3, "tiny_channel": 2, "gated": 4, "sequence": 3,
    "upsampling": 3,
}  # fmt: skip
# what a processor without VNNI does can be seen on one with it: oneDNN takes no newer instructions than it is told
RUN_ON_AVX2 = """
import sys, numpy, openvino
compiled = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
kernels = {node.get_rt_info()["primitiveType"].astype(str) for node in compiled.get_runtime_model().get_ops()}
data = numpy.load(sys.argv[2])
outputs = [compiled(row[None])[compiled.output(0)].copy() for row in data]
numpy.savez(sys.argv[3], output=numpy.concatenate(outputs), kernels=sorted(kernels))
"""


def lowered(name: str, folder: Path, *, weight_bits: int = 8) -> tuple[Artifact, Artifact]:
    graph, target = float_graph(name), profile("openvino", weight_bits=weight_bits)
    float_file = backend.lower_float(graph, target, folder / f"{name}-float.xml")
    return float_file, backend.lower_int8(graph, Scheme.of(target), float_file, folder / f"{name}-{weight_bits}.xml")


def compiled(path: Path) -> Any:
    import openvino  # type: ignore[import-untyped]  # ships no types

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(path, "CPU", options)


def run(name: str, path: Path, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return the outputs for all samples, fed and read as `bindings` says."""
    model = compiled(path)
    bindings = backend.bindings(float_graph(name), path)
    sources, results = ([entry["tensor"] for entry in bindings[key]] for key in ("inputs", "outputs"))  # type: ignore[attr-defined]  # JSON values
    rows = []
    for index in range(len(inputs[0])):
        found = model({key: array[index : index + 1] for key, array in zip(sources, inputs, strict=True)})
        rows.append([found[model.output(key)].copy() for key in results])
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def weights_of(path: Path) -> dict[str, np.ndarray]:
    """Return layer name -> int8 weight of every layer of a file that has one."""
    import openvino

    found = {}
    for node in openvino.Core().read_model(path).get_ops():
        if node.get_type_name() in {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"}:
            source = node.input_value(1).get_node()
            while source.get_type_name() in {"Convert", "Multiply"}:
                source = source.input_value(0).get_node()
            found[node.get_friendly_name()] = source.data
    return {name: data for name, data in found.items() if data.dtype == np.int8}


@pytest.mark.parametrize("name", LOWERABLE)
def test_float_file_equals_torch(name: str, tmp_path: Path) -> None:
    inputs = samples(name, seed=1)
    artifact = backend.lower_float(float_graph(name), profile("openvino"), tmp_path / "float.xml")
    assert artifact.files == (tmp_path / "float.xml", tmp_path / "float.bin")
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
    assert artifact.notes == ()


@pytest.mark.parametrize("name", WITH_LAYERS)
def test_every_layer_runs_on_integers(name: str, tmp_path: Path) -> None:
    _, artifact = lowered(name, tmp_path)
    assert len(weights_of(artifact.path)) == LAYERS[name]
    integer_weights = 0
    for node in compiled(artifact.path).get_runtime_model().get_ops():
        kind, precision = (node.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision"))
        if kind in {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}:
            assert precision in {"u8", "i8"}, node.get_friendly_name()
        if kind not in {"Const", "Reorder", "Reshape"}:
            # layers in a row may be one `Subgraph`; it reads the int8 weight of each
            integer_weights += sum(value.get_element_type().to_string() == "i8" for value in node.inputs())
    assert integer_weights == LAYERS[name]


def test_shortcut_and_concatenation_stay_integers(tmp_path: Path) -> None:
    _, artifact = lowered("residual", tmp_path)
    runs: dict[str, set[str]] = {}
    for node in compiled(artifact.path).get_runtime_model().get_ops():
        kind, precision = (node.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision"))
        runs.setdefault(kind, set()).add(precision)
    assert {kind: runs[kind] for kind in ("StridedSlice", "Pad", "Concatenation", "Pooling")} == {
        "StridedSlice": {"u8"}, "Pad": {"u8"}, "Concatenation": {"u8"}, "Pooling": {"u8"},
    }  # fmt: skip
    assert "Eltwise" not in runs  # the addition is part of the convolution before it


def test_seven_bit_weights_stay_within_63_but_for_depthwise(tmp_path: Path) -> None:
    _, artifact = lowered("residual", tmp_path, weight_bits=7)
    largest = {name: int(np.abs(data.astype(int)).max()) for name, data in weights_of(artifact.path).items()}
    assert largest.pop("node_conv2d_3") == 127  # depthwise: its kernels never add pairs of products
    assert len(largest) == 6
    assert set(largest.values()) == {63}


def test_seven_bit_weights_give_the_same_answers_without_vnni(tmp_path: Path) -> None:
    _, artifact = lowered("residual", tmp_path, weight_bits=7)
    np.save(tmp_path / "x.npy", np.abs(samples("residual", seed=1)[0]) * 4)  # large values: sums near saturation
    found = {}
    for isa in ("DEFAULT", "AVX2"):
        arguments = [str(artifact.path), str(tmp_path / "x.npy"), str(tmp_path / f"{isa}.npz")]
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
        subprocess.run([sys.executable, "-c", RUN_ON_AVX2, *arguments], env=environment, check=True)
        found[isa] = np.load(tmp_path / f"{isa}.npz")
    if not any("avx512" in kernel or "vnni" in kernel for kernel in found["DEFAULT"]["kernels"]):
        pytest.skip("this processor has no integer instructions newer than AVX2 to compare with")
    assert not any("avx512" in kernel and "I8" in kernel for kernel in found["AVX2"]["kernels"])
    # equal sums of integers; float32 rounding of what is between layers may tip a value to the next integer
    assert relative_error(found["AVX2"]["output"], found["DEFAULT"]["output"]) <= 1e-3


def test_layers_are_named_as_in_the_network(tmp_path: Path) -> None:
    _, artifact = lowered("residual", tmp_path)
    names = {f"node_{name}" for name in float_graph("residual").provenance}
    assert len(weights_of(artifact.path)) == LAYERS["residual"]
    assert set(weights_of(artifact.path)) <= names


def test_network_without_layers_is_written_as_it_is_and_told(tmp_path: Path) -> None:
    float_file, artifact = lowered("no_layer", tmp_path)
    assert artifact.notes == (NOTHING_QUANTIZED,)
    assert artifact.path.read_bytes() == float_file.path.read_bytes()


@pytest.mark.parametrize("name", ["residual", "two_by_two"])
def test_same_network_gives_the_same_bytes_without_paths(name: str, tmp_path: Path, root: Path) -> None:
    from openvino import opset13

    (tmp_path / "again").mkdir()
    first = lowered(name, tmp_path)
    for _ in range(7):
        opset13.relu(opset13.constant(np.zeros(3, np.float32)))  # moves the process's counter of nodes on
    second = lowered(name, tmp_path / "again")
    for one, other in zip(first, second, strict=True):
        for file, again in zip(one.files, other.files, strict=True):
            content = file.read_bytes()
            assert content == again.read_bytes()
            assert str(root).encode() not in content
            assert str(tmp_path).encode() not in content


def test_dropout_that_stays_active_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"operator Dropout of '.*dropout.*' draws random numbers at inference"):
        backend.lower_float(float_graph("active_dropout"), profile("openvino"), tmp_path / "float.xml")


def test_operator_that_openvino_does_not_have_is_named_with_its_layer(tmp_path: Path) -> None:
    import onnx

    graph = float_graph("linear_only")
    broken = onnx.ModelProto()
    broken.CopyFrom(graph.onnx)
    broken.graph.node[1].op_type, broken.graph.node[1].domain = "Wobble", "nowhere"
    broken.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    changed = replace(graph)
    changed.__dict__["onnx"] = broken  # where a cached property lies
    expected = re.escape("openvino has no form of operator nowhere.Wobble (layers: 1/relu)")
    with pytest.raises(LoweringError, match=expected):
        backend.lower_float(changed, profile("openvino"), tmp_path / "broken.xml")
    assert not (tmp_path / "broken.xml").exists()
