from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers  # type: ignore[import-untyped]  # ships no types
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeport.errors import ConfigError
from edgeport.formats import TensorInfo, tflite

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs edgeport[tflite]")


@dataclass
class Net:
    """Writes a TFLite file, tensor by tensor, operator by operator."""

    model: Any = field(default_factory=schema.ModelT)

    def __post_init__(self) -> None:
        self.model.version, self.model.buffers = 3, [schema.BufferT()]
        self.model.operatorCodes, self.model.signatureDefs = [], []
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
        self.graph, self.model.subgraphs = graph, [graph]

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str = "FLOAT32", **options: Any) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), getattr(schema.TensorType, dtype)
        tensor.shapeSignature = options.get("signature")
        if "scale" in options:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [options["scale"]], [options["zero_point"]]
        if "data" in options:
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(schema.BufferT())
            self.model.buffers[-1].data = np.frombuffer(options["data"], np.uint8)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def weights(self, shape: tuple[int, ...], dtype: str = "FLOAT32") -> int:
        size = int(np.prod(shape)) * {"FLOAT32": 4, "FLOAT16": 2, "INT32": 4, "INT8": 1}[dtype]
        return self.tensor(
            "weights", shape, dtype, data=bytes(range(1, 9)) * (size // 8 + 1) if size % 8 else bytes(size)
        )

    def operator(self, kind: str, inputs: list[int], outputs: list[int], options: Any = None) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = len(self.model.operatorCodes) - 1, inputs, outputs
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(operator)

    def content(self) -> bytes:
        builder = flatbuffers.Builder()
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def convolution(data: str = "INT8", weights: str = "INT8") -> Net:
    """Return 3 x 3, 4 -> 8 channels on 6 x 6, stride 2."""
    net = Net()
    x = net.tensor("x", (1, 6, 6, 4), data, signature=[-1, 6, 6, 4], scale=0.5, zero_point=-3)
    y = net.tensor("y", (1, 3, 3, 8), data, signature=[-1, 3, 3, 8], scale=0.25, zero_point=7)
    net.operator("CONV_2D", [x, net.weights((8, 3, 3, 4), weights), -1], [y])
    net.graph.inputs, net.graph.outputs = [x], [y]
    return net


def write(net: Net, folder: Path) -> Path:
    path = folder / "net.tflite"
    path.write_bytes(net.content())
    return path


@pytest.mark.parametrize(
    ("types", "dtype", "weight_bytes", "activation_bytes"),
    [
        (("INT8", "INT8"), "int8", 288, 144 + 72),
        (("FLOAT32", "FLOAT32"), "float32", 4 * 288, 4 * (144 + 72)),
        (("FLOAT32", "INT8"), "int8-weights", 288, 4 * (144 + 72)),
        (("INT16", "INT8"), "int16", 288, 2 * (144 + 72)),
    ],
)
def test_convolution_costs(
    types: tuple[str, str], dtype: str, weight_bytes: int, activation_bytes: int, tmp_path: Path
) -> None:
    path = write(convolution(*types), tmp_path)
    (row,) = tflite.read_costs(path)
    assert (row.kind, row.dtype, row.macs) == ("CONV_2D", dtype, 3 * 3 * 8 * 3 * 3 * 4)
    assert (row.weight_bytes, row.activation_bytes) == (weight_bytes, activation_bytes)
    (executed,) = tflite.executed_operators(path)
    assert (executed.kind, executed.dtype, executed.layers) == ("CONV_2D", dtype, ("y",))


def adjoint() -> Any:
    options = schema.BatchMatMulOptionsT()
    options.adjX = True
    return options


@pytest.mark.parametrize(
    ("kind", "shapes", "options", "expected"),
    [
        ("DEPTHWISE_CONV_2D", ((1, 6, 6, 4), (1, 5, 5, 4), (1, 6, 6, 4)), None, (36 * 4 * 25, True)),
        ("CONV_2D", ((1, 6, 6, 4), (8, 3, 3, 1), (1, 6, 6, 8)), None, (36 * 8 * 9, True)),
        ("CONV_2D", ((1, 6, 6, 1), (8, 3, 3, 1), (1, 6, 6, 8)), None, (36 * 8 * 9, False)),
        ("CONV_3D", ((1, 4, 6, 6, 2), (3, 3, 3, 2, 8), (1, 4, 6, 6, 8)), None, (4 * 36 * 8 * 27 * 2, False)),
        ("FULLY_CONNECTED", ((1, 20), (7, 20), (1, 7)), None, (140, False)),
        ("FULLY_CONNECTED", ((1, 5, 20), (7, 20), (1, 5, 7)), None, (5 * 140, False)),
        ("BATCH_MATMUL", ((2, 3, 20), (2, 20, 7), (2, 3, 7)), None, (2 * 3 * 7 * 20, False)),
        ("BATCH_MATMUL", ((2, 20, 3), (2, 20, 7), (2, 3, 7)), adjoint(), (2 * 3 * 7 * 20, False)),
    ],
)
def test_multiply_adds(
    kind: str, shapes: tuple[tuple[int, ...], ...], options: Any, expected: tuple[int, bool], tmp_path: Path
) -> None:
    net = Net()
    x, y = net.tensor("x", shapes[0]), net.tensor("y", shapes[2])
    net.operator(kind, [x, net.weights(shapes[1])], [y], options)
    (row,) = tflite.read_costs(write(net, tmp_path))
    assert (row.macs, row.is_depthwise) == expected


def test_transposed_convolution_multiplies_every_input_with_the_whole_kernel(tmp_path: Path) -> None:
    net = Net()
    x, y = net.tensor("x", (1, 3, 3, 4)), net.tensor("y", (1, 6, 6, 8))
    net.operator("TRANSPOSE_CONV", [net.weights((4,), "INT32"), net.weights((8, 2, 2, 4)), x], [y])
    (row,) = tflite.read_costs(write(net, tmp_path))
    assert row.macs == 3 * 3 * 4 * 8 * 2 * 2


def test_float16_weights_count_where_they_are_used(tmp_path: Path) -> None:
    net = Net()
    x, wide, y = net.tensor("x", (1, 20)), net.tensor("wide", (7, 20)), net.tensor("y", (1, 7))
    net.operator("DEQUANTIZE", [net.weights((7, 20), "FLOAT16")], [wide])
    net.operator("FULLY_CONNECTED", [x, wide], [y])
    (row,) = tflite.read_costs(write(net, tmp_path))
    assert (row.kind, row.dtype, row.weight_bytes) == ("FULLY_CONNECTED", "float32", 280)


def test_dequantized_activation_is_float_again(tmp_path: Path) -> None:
    net = Net()
    x, wide, y = net.tensor("x", (1, 20), "INT8"), net.tensor("wide", (1, 20)), net.tensor("y", (1, 7))
    net.operator("DEQUANTIZE", [x], [wide])
    net.operator("FULLY_CONNECTED", [wide, net.weights((7, 20), "INT8")], [y])
    rows = tflite.read_costs(write(net, tmp_path))
    assert [(row.kind, row.dtype) for row in rows] == [("DEQUANTIZE", "float32"), ("FULLY_CONNECTED", "int8-weights")]
    assert rows[0].activation_bytes == 20 + 80


def test_interface_has_open_batch_and_quantization(tmp_path: Path) -> None:
    found = tflite.read_interface(write(convolution(), tmp_path))
    assert found.inputs == (TensorInfo(name="x", shape=(-1, 6, 6, 4), dtype="int8", quantization=(0.5, -3)),)
    assert found.outputs == (TensorInfo(name="y", shape=(-1, 3, 3, 8), dtype="int8", quantization=(0.25, 7)),)


def test_interface_uses_the_names_of_the_signature(tmp_path: Path) -> None:
    net = convolution()
    signature, entry = schema.SignatureDefT(), schema.TensorMapT()
    entry.name, entry.tensorIndex = "image", net.graph.inputs[0]
    signature.signatureKey, signature.inputs, signature.outputs = "serving_default", [entry], []
    net.model.signatureDefs = [signature]
    found = tflite.read_interface(write(net, tmp_path))
    assert [info.name for info in (*found.inputs, *found.outputs)] == ["image", "y"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("pkg.ChannelLastIOWrapper/zoo.Net_wrapped/torch.nn.modules.conv.Conv2d_conv1;1", "conv1"),
        ("pkg.ChannelLastIOWrapper/zoo.Net_wrapped/a.Sequential_layer1/zoo.CifarBlock_0;", "layer1.0"),
        ("zoo.Net/a.Sequential_layer1/b.ReLU_2;;zoo.Net/a.Sequential_layer1/b.Conv2d_0;1", "layer1.0"),
        ("pkg.ChannelLastIOWrapper;124", None),
        ("model/conv2d/BiasAdd;model/conv2d/Conv2D", None),
        ("serving_default_args_0", None),
    ],
)
def test_module_path_in_tensor_names(name: str, path: str | None) -> None:
    assert tflite.module_path(name) == path


def test_other_content_is_refused_by_its_identifier(tmp_path: Path) -> None:
    path = tmp_path / "picture.tflite"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(ConfigError, match=re.escape("bytes 4 to 8 are b'\\r\\n\\x1a\\n', not b'TFL3'")):
        tflite.read_costs(path)


def break_weights(net: Net) -> None:
    net.graph.tensors[2].shape = [8, 3, 3, 400]


def break_buffer(net: Net) -> None:
    net.graph.tensors[2].buffer = 9


def break_operand(net: Net) -> None:
    net.graph.operators[0].inputs = [0, 77]


def break_kind(net: Net) -> None:
    net.graph.operators[0].opcodeIndex = 5


def break_count(net: Net) -> None:
    net.graph.operators[0].inputs = [0]


def break_rank(net: Net) -> None:
    net.graph.tensors[2].shape = [8]


def break_graph(net: Net) -> None:
    net.model.subgraphs = []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (break_weights, "tensor 2, int8 (8, 3, 3, 400), has 288 of its 28800 bytes"),
        (break_buffer, "tensor 2 names buffer 9 of 2"),
        (break_operand, "tensor 77 of 3 is used"),
        (break_kind, "operator 0 has type 5 of 1"),
        (break_count, "its operators do not fit together"),
        (break_rank, "its operators do not fit together"),
        (break_graph, "it holds no graph"),
    ],
)
def test_damage_is_named(damage: Any, reason: str, tmp_path: Path) -> None:
    net = convolution()
    damage(net)
    with pytest.raises(ConfigError, match=re.escape(f"is not a sound TFLite file: {reason}")):
        tflite.read_costs(write(net, tmp_path))


SOUND = convolution().content()


def reads(content: bytes) -> bool:
    """Whether every function reads the content; anything but a ConfigError fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.tflite")
        path.write_bytes(content)
        try:
            tflite.read_costs(path), tflite.read_interface(path), tflite.executed_operators(path)
        except ConfigError:
            return False
    return True


def test_every_truncation_is_noticed() -> None:
    assert reads(SOUND)
    assert not any(reads(SOUND[:length]) for length in range(0, len(SOUND) - 8, 3))


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_refused(noise: bytes) -> None:
    assert not reads(noise[:4] + b"TFL3" + noise[4:])


@given(st.lists(st.tuples(st.integers(8, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_overwritten_bytes_never_crash_the_reader(changes: list[tuple[int, int]]) -> None:
    content = bytearray(SOUND)
    for position, value in changes:
        content[position] = value
    reads(bytes(content))  # raises what it does not know
