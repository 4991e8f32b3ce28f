from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeport.errors import ConfigError
from edgeport.formats import TensorInfo
from edgeport.formats import onnx as reader

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
onnx = pytest.importorskip("onnx", reason="needs edgeport[onnxruntime]")
pytest.importorskip("onnxruntime", reason="needs edgeport[onnxruntime]")
node = onnx.helper.make_node
MICROSOFT = "com.microsoft"
MACS = 3 * 3 * 8 * 3 * 3 * 4  # 3 x 3 convolution of 4 x 6 x 6 to 8 channels, stride 2
STRIDED = {"strides": [2, 2], "pads": [1, 1, 1, 1]}


def array(*shape: int, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.ones(shape, dtype)


def content(nodes: list[Any], x: tuple[Any, ...], constants: dict[str, Any], **options: str) -> bytes:
    """Return a file with input `x` and output `y`; `in_type`, `out_type`: onnx names of their types."""
    types = onnx.TensorProto.DataType
    open_sizes = [f"size_{index}" for index in range(int(options.get("rank", len(x))))]
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("x", types.Value(options.get("in_type", "FLOAT")), x)],
        [onnx.helper.make_tensor_value_info("y", types.Value(options.get("out_type", "FLOAT")), open_sizes)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(MICROSOFT, 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())


def write(data: bytes, folder: Path) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(data)
    return path


SCALES = {"s": np.float32(0.1), "z": np.uint8(128), "zw": np.int8(0)}
QUANTIZE = [node("QuantizeLinear", ["x", "s", "z"], ["xq"]), node("DequantizeLinear", ["xq", "s", "z"], ["xd"])]
WEIGHTS = node("DequantizeLinear", ["w", "s", "zw"], ["wd"])
EDGE = [node("QuantizeLinear", ["c", "s", "z"], ["cq"]), node("DequantizeLinear", ["cq", "s", "z"], ["y"])]


def quantized_convolution(**options: Any) -> bytes:
    nodes = [*QUANTIZE, WEIGHTS, node("Conv", ["xd", "wd"], ["c"], "conv", **STRIDED), *EDGE]
    return content(nodes, options.get("x", (1, 4, 6, 6)), {**SCALES, "w": array(8, 4, 3, 3, dtype="int8")})


@pytest.mark.parametrize(
    ("nodes", "weights", "dtype", "weight_bytes"),
    [
        ([node("Conv", ["x", "w"], ["y"], **STRIDED)], "float32", "float32", 4 * 288),
        ([*QUANTIZE, node("Conv", ["xd", "w"], ["y"], **STRIDED)], "float32", "float32", 4 * 288),
        ([WEIGHTS, node("Conv", ["x", "wd"], ["y"], **STRIDED)], "int8", "int8-weights", 288 + 5),
        ([*QUANTIZE, WEIGHTS, node("Conv", ["xd", "wd"], ["y"], **STRIDED)], "int8", "int8", 288 + 5),
        (
            [node("Cast", ["w"], ["wf"], to=onnx.TensorProto.FLOAT), node("Conv", ["x", "wf"], ["y"], **STRIDED)],
            "float16",
            "float32",
            2 * 288,
        ),
    ],
)
def test_convolution_is_int8_when_both_factors_are(
    nodes: list[Any], weights: str, dtype: str, weight_bytes: int, tmp_path: Path
) -> None:
    path = write(content(nodes, (1, 4, 6, 6), {**SCALES, "w": array(8, 4, 3, 3, dtype=weights)}), tmp_path)
    (row,) = (row for row in reader.read_costs(path) if row.macs)
    assert (row.kind, row.dtype, row.macs, row.weight_bytes) == ("Conv", dtype, MACS, weight_bytes)


def test_quantize_dequantize_pairs_move_nothing_inside_the_graph(tmp_path: Path) -> None:
    rows = reader.read_costs(write(quantized_convolution(), tmp_path))
    assert [(row.kind, row.activation_bytes) for row in rows] == [
        ("QuantizeLinear", 144 * 4 + 144),
        ("DequantizeLinear", 0),
        ("Conv", 144 + 72),
        ("QuantizeLinear", 0),
        ("DequantizeLinear", 72 + 72 * 4),
    ]


@pytest.mark.parametrize(
    ("kind", "factors", "attributes", "macs", "is_depthwise"),
    [
        ("Conv", ((1, 4, 6, 6), (4, 1, 3, 3)), {"group": 4, "pads": [1, 1, 1, 1]}, 36 * 4 * 9, True),
        ("Conv", ((1, 4, 6, 6), (6, 2, 1, 1)), {"group": 2}, 36 * 6 * 2, False),
        ("Conv", ((1, 1, 6, 6), (6, 1, 1, 1)), {}, 36 * 6, False),
        ("ConvTranspose", ((1, 4, 6, 6), (4, 8, 2, 2)), {"strides": [2, 2]}, 4 * 36 * 8 * 4, False),
        ("ConvTranspose", ((1, 4, 6, 6), (4, 1, 2, 2)), {"group": 4}, 4 * 36 * 4, True),
        ("Gemm", ((1, 20), (7, 20)), {"transB": 1}, 140, False),
        ("Gemm", ((20, 3), (20, 7)), {"transA": 1}, 3 * 140, False),
        ("MatMul", ((1, 2, 3, 20), (20, 7)), {}, 6 * 140, False),
    ],
)
def test_multiply_adds(  # noqa: PLR0917  # a column a parameter
    kind: str, factors: Any, attributes: dict[str, Any], macs: int, is_depthwise: bool, tmp_path: Path
) -> None:
    data = content([node(kind, ["x", "w"], ["y"], **attributes)], factors[0], {"w": array(*factors[1])})
    (row,) = reader.read_costs(write(data, tmp_path))
    assert (row.macs, row.is_depthwise) == (macs, is_depthwise)


CONVOLUTION_WEIGHTS = {**SCALES, "w": array(8, 4, 3, 3, dtype="int8")}
LINEAR_WEIGHTS = {**SCALES, "w": array(20, 7, dtype="int8")}
EIGHT_BITS = {"in_type": "UINT8", "out_type": "UINT8"}


@pytest.mark.parametrize(
    ("operator", "shape", "constants", "types", "macs"),
    [
        (
            node("QLinearConv", ["x", "s", "z", "w", "s", "zw", "s", "z"], ["y"], **STRIDED),
            (1, 4, 6, 6),
            CONVOLUTION_WEIGHTS,
            EIGHT_BITS,
            MACS,
        ),
        (
            node("ConvInteger", ["x", "w"], ["y"], **STRIDED),
            (1, 4, 6, 6),
            CONVOLUTION_WEIGHTS,
            {"in_type": "UINT8", "out_type": "INT32"},
            MACS,
        ),
        (
            node("QLinearMatMul", ["x", "s", "z", "w", "s", "zw", "s", "z"], ["y"]),
            (3, 20),
            LINEAR_WEIGHTS,
            EIGHT_BITS,
            3 * 140,
        ),
        (
            node("MatMulInteger", ["x", "w"], ["y"]),
            (3, 20),
            LINEAR_WEIGHTS,
            {"in_type": "UINT8", "out_type": "INT32"},
            3 * 140,
        ),
        (
            node("QGemm", ["x", "s", "z", "w", "s", "zw", "", "s", "z"], ["y"], domain=MICROSOFT),
            (3, 20),
            LINEAR_WEIGHTS,
            EIGHT_BITS,
            3 * 140,
        ),
        (
            node("DynamicQuantizeMatMul", ["x", "w", "s", "zw"], ["y"], domain=MICROSOFT),
            (3, 20),
            LINEAR_WEIGHTS,
            {},
            3 * 140,
        ),
    ],
    ids=lambda value: value.op_type if hasattr(value, "op_type") else "",
)
def test_integer_operators_are_int8(  # noqa: PLR0917  # a column a parameter
    operator: Any, shape: tuple[int, ...], constants: dict[str, Any], types: dict[str, str], macs: int, tmp_path: Path
) -> None:
    (row,) = reader.read_costs(write(content([operator], shape, constants, **types), tmp_path))
    assert (row.kind, row.dtype, row.macs) == (operator.op_type, "int8", macs)


def test_shapes_are_known_behind_operators_of_the_runtime(tmp_path: Path) -> None:
    nodes = [
        node("FusedConv", ["x", "w"], ["a"], domain=MICROSOFT, activation="Relu", **STRIDED),
        node("QuantizeLinear", ["a", "s", "z"], ["q"]),
        node("QLinearAdd", ["q", "s", "z", "q", "s", "z", "s", "z"], ["b"], domain=MICROSOFT),
        node("QLinearGlobalAveragePool", ["b", "s", "z", "s", "z"], ["g"], domain=MICROSOFT),
        node("DequantizeLinear", ["g", "s", "z"], ["d"]),
        node("Flatten", ["d"], ["f"]),
        node("Gemm", ["f", "v"], ["y"]),
    ]
    path = write(
        content(nodes, (1, 4, 6, 6), {**SCALES, "w": array(8, 4, 3, 3), "v": array(8, 10)}, rank="2"), tmp_path
    )
    rows = {row.kind: row for row in reader.read_costs(path)}
    assert (rows["FusedConv"].macs, rows["Gemm"].macs) == (MACS, 80)
    assert (rows["QLinearAdd"].dtype, rows["QLinearAdd"].activation_bytes) == ("int8", 72 + 72)
    assert rows["QLinearGlobalAveragePool"].activation_bytes == 72 + 8


def test_untold_shape_of_a_product_is_an_error_that_names_it(tmp_path: Path) -> None:
    nodes = [node("Mystery", ["x"], ["a"], domain=MICROSOFT), node("MatMul", ["a", "w"], ["y"], "head")]
    path = write(content(nodes, (3, 20), {"w": array(20, 7)}), tmp_path)
    with pytest.raises(ConfigError, match=re.escape("the shapes of MatMul 'head' cannot be told")):
        reader.read_costs(path)


def test_open_batch_counts_as_one_and_shows_in_the_interface(tmp_path: Path) -> None:
    path = write(quantized_convolution(x=("batch", 4, 6, 6)), tmp_path)
    assert sum(row.macs for row in reader.read_costs(path)) == MACS
    assert reader.read_interface(path).inputs == (TensorInfo(name="x", shape=(-1, 4, 6, 6), dtype="float32"),)


def test_other_open_sizes_are_refused_by_name(tmp_path: Path) -> None:
    path = write(quantized_convolution(x=("batch", 4, "h", "w")), tmp_path)
    with pytest.raises(
        ConfigError, match=re.escape("input 'x' has the shape (-1, 4, -1, -1): operators can be counted")
    ):
        reader.read_costs(path)


def test_integer_edges_have_their_scale(tmp_path: Path) -> None:
    nodes = [
        node("DequantizeLinear", ["x", "s", "z"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("QuantizeLinear", ["b", "s"], ["y"]),
    ]
    found = reader.read_interface(write(content(nodes, (1, 4), SCALES, **EIGHT_BITS), tmp_path))
    scale = float(np.float32(0.1))
    assert [(info.dtype, info.quantization) for info in found.inputs] == [("uint8", (scale, 128))]
    assert [(info.name, info.quantization) for info in found.outputs] == [("y", (scale, 0))]


def test_runtime_fuses_the_pairs_around_a_convolution(tmp_path: Path) -> None:
    found = reader.executed_operators(write(quantized_convolution(), tmp_path))
    assert [(operator.kind, operator.dtype) for operator in found] == [
        ("QuantizeLinear", "int8"),
        ("QLinearConv", "int8"),
        ("DequantizeLinear", "float32"),
    ]
    assert found[1].layers == ("conv",)


def test_runtime_leaves_a_half_quantized_convolution_in_float(tmp_path: Path) -> None:
    nodes = [WEIGHTS, node("Conv", ["x", "wd"], ["y"], "conv", **STRIDED)]
    found = reader.executed_operators(write(content(nodes, (1, 4, 6, 6), CONVOLUTION_WEIGHTS), tmp_path))
    assert ("Conv", "float32") in [(operator.kind, operator.dtype) for operator in found]


def test_module_path_comes_from_the_exporters_metadata(tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.ParseFromString(quantized_convolution())
    entry = model.graph.node[3].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'layer1', 'layer1.0', 'conv2d_3']"
    path = write(model.SerializeToString(), tmp_path)
    assert [row.provenance for row in reader.read_costs(path) if row.macs] == ["layer1.0"]
    assert [o.provenance for o in reader.executed_operators(path) if o.kind == "QLinearConv"] == ["layer1.0"]


def test_file_that_the_runtime_refuses_is_named(tmp_path: Path) -> None:
    path = write(content([node("Mystery", ["x"], ["y"], domain=MICROSOFT)], (1, 4), {}), tmp_path)
    with pytest.raises(ConfigError, match=r"ONNX Runtime refuses '.*net\.onnx': .*Mystery"):
        reader.executed_operators(path)


SOUND = quantized_convolution()


def reads(data: bytes) -> bool:
    """Whether every function reads the content; anything but a ConfigError fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        path.write_bytes(data)
        try:
            reader.read_costs(path), reader.read_interface(path), reader.executed_operators(path)
        except ConfigError:
            return False
    return True


def test_every_truncation_is_noticed() -> None:
    assert reads(SOUND)
    assert not any(reads(SOUND[:length]) for length in range(0, len(SOUND), 5))


@given(st.binary(min_size=1, max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_refused(noise: bytes) -> None:
    assert not reads(noise)


@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_overwritten_bytes_never_crash_the_reader(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SOUND)
    for position, value in changes:
        data[position] = value
    reads(bytes(data))  # raises what it does not know
