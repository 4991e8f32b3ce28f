from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeport.errors import ConfigError, MissingPackageError
from edgeport.formats import format_of, reader_of, summarize
from edgeport.formats.operators import Graph, Operator, Product, Tensor, costs_of, format_of_product
from edgeport.types import OpCost


@pytest.mark.parametrize(
    ("name", "module"), [("a.tflite", "tflite"), ("b.xml", "openvino"), ("c.onnx", "onnx"), ("D.ONNX", "onnx")]
)
def test_format_follows_the_suffix(name: str, module: str) -> None:
    assert format_of(Path("somewhere", name)) == module


def test_unknown_suffix_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=re.escape("'a.pt2'; known suffixes: .onnx, .tflite, .xml")):
        reader_of(Path("a.pt2"))


def test_weights_of_openvino_point_to_the_xml() -> None:
    with pytest.raises(ConfigError, match=re.escape("'a.bin' holds only weights; name the .xml beside it")):
        format_of(Path("a.bin"))


@pytest.mark.parametrize("suffix", [".tflite", ".xml", ".onnx"])
def test_missing_and_empty_files_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    with pytest.raises(ConfigError, match=rf"cannot read '.*model\{suffix}': No such file"):
        reader_of(path).read_costs(path)
    path.touch()
    with pytest.raises(ConfigError, match=rf"model\{suffix}' is empty"):
        reader_of(path).read_interface(path)


def test_summary_adds_by_number_format_and_kind() -> None:
    rows = (
        OpCost(name="a", kind="Conv", dtype="int8", macs=100, weight_bytes=10, activation_bytes=7),
        OpCost(name="b", kind="Conv", dtype="float32", macs=50, weight_bytes=40, activation_bytes=3),
        OpCost(name="c", kind="Conv", dtype="int8", macs=1),
        OpCost(name="d", kind="Relu", dtype="float32", activation_bytes=5),
    )
    totals = summarize(rows)
    assert totals.macs == {"int8": 101, "float32": 50}
    assert totals.total_macs == 151
    assert totals.counts == {"Conv": 3, "Relu": 1}
    assert (totals.weight_bytes, totals.activation_bytes, totals.bytes_moved) == (50, 15, 65)
    assert summarize(()).total_macs == 0


@pytest.mark.parametrize(
    ("data", "weights", "expected"),
    [
        ("int8", "int8", "int8"),
        ("int8", "int4", "int8"),
        ("int16", "int8", "int16"),
        ("float32", "int8", "int8-weights"),
        ("float32", "float16", "float32"),
        ("int8", "float32", "float32"),
    ],
)
def test_format_of_a_product(data: str, weights: str, expected: str) -> None:
    assert format_of_product(data, weights, "float32") == expected


def activation(*shape: int, dtype: str = "float32") -> Tensor:
    return Tensor(shape=shape, dtype=dtype)


def constant(size: int, dtype: str = "float32") -> Tensor:
    return Tensor(shape=(size,), dtype=dtype, constant_bytes=size * (4 if dtype == "float32" else 1))


CONVOLUTION = Operator(
    name="conv", kind="Conv", inputs=("x", "w"), outputs=("y",), product=Product(data="x", weights="w", macs=600)
)


def test_epilogue_and_quantizer_fold_into_the_kernel_before() -> None:
    graph = Graph(
        operators=(
            CONVOLUTION,
            Operator(name="bias", kind="Add", inputs=("y", "b"), outputs=("z",), role="epilogue"),
            Operator(name="relu", kind="Relu", inputs=("z",), outputs=("r",), role="epilogue"),
            Operator(name="q", kind="QuantizeLinear", inputs=("r", "s"), outputs=("q",), role="quantize"),
            Operator(name="dq", kind="DequantizeLinear", inputs=("q", "s"), outputs=("d",), role="dequantize"),
            Operator(name="softmax", kind="Softmax", inputs=("d",), outputs=("o",)),
        ),
        tensors={
            "x": activation(1, 10),
            "w": constant(60),
            "y": activation(1, 20),
            "b": constant(20),
            "z": activation(1, 20),
            "r": activation(1, 20),
            "s": constant(1),
            "q": activation(1, 20, dtype="uint8"),
            "d": activation(1, 20),
            "o": activation(1, 20),
        },
        outputs=frozenset({"o"}),
    )
    rows = {row.name: row for row in costs_of(graph)}
    assert rows["conv"].activation_bytes == 10 * 4 + 20  # float32 in, eight bits out
    assert rows["softmax"].activation_bytes == 20 + 20 * 4
    assert [rows[name].activation_bytes for name in ("bias", "relu", "q", "dq")] == [0, 0, 0, 0]
    assert [rows[name].weight_bytes for name in ("conv", "bias", "q")] == [240, 80, 4]
    assert rows["conv"].dtype == "float32"  # its data is float


def test_nothing_folds_into_a_kernel_whose_result_others_read() -> None:
    graph = Graph(
        operators=(
            CONVOLUTION,
            Operator(name="relu", kind="Relu", inputs=("y",), outputs=("r",), role="epilogue"),
            Operator(name="add", kind="Add", inputs=("y", "r"), outputs=("o",)),
        ),
        tensors={
            "x": activation(1, 10),
            "w": constant(60),
            "y": activation(1, 20),
            "r": activation(1, 20),
            "o": activation(1, 20),
        },
        outputs=frozenset({"o"}),
    )
    assert [row.activation_bytes for row in costs_of(graph)] == [(10 + 20) * 4, (20 + 20) * 4, (20 + 20 + 20) * 4]


def test_operators_on_constants_fold_into_their_reader() -> None:
    graph = Graph(
        operators=(
            Operator(name="convert", kind="Convert", inputs=("w8",), outputs=("w32",), role="dequantize"),
            Operator(name="scale", kind="Multiply", inputs=("w32", "s"), outputs=("w",), role="dequantize"),
            Operator(name="fq", kind="FakeQuantize", inputs=("x", "low"), outputs=("xq",), role="quantize"),
            Operator(
                name="matmul",
                kind="MatMul",
                inputs=("xq", "w"),
                outputs=("o",),
                product=Product(data="xq", weights="w", macs=60),
            ),
        ),
        tensors={
            "w8": constant(60, dtype="int8"),
            "w32": activation(60),
            "s": constant(6),
            "w": activation(60),
            "x": activation(1, 10),
            "low": constant(1),
            "xq": activation(1, 10),
            "o": activation(1, 6),
        },
        outputs=frozenset({"o"}),
    )
    quantizer, matmul = costs_of(graph)
    assert (matmul.name, matmul.dtype, matmul.weight_bytes, matmul.activation_bytes) == ("matmul", "int8", 84, 10 + 24)
    # the network's own input is really converted: float32 read, eight bits written
    assert (quantizer.name, quantizer.activation_bytes) == ("fq", 10 * 4 + 10)


def test_dequantized_output_is_written_in_float() -> None:
    graph = Graph(
        operators=(Operator(name="dq", kind="DequantizeLinear", inputs=("q",), outputs=("o",), role="dequantize"),),
        tensors={"q": activation(1, 10, dtype="int8"), "o": activation(1, 10)},
        outputs=frozenset({"o"}),
    )
    assert [row.activation_bytes for row in costs_of(graph)] == [10 + 40]


@pytest.mark.parametrize(
    ("suffix", "package", "content", "extra"),
    [
        (".tflite", "ai_edge_litert", b"1234TFL3", "tflite"),
        (".xml", "openvino", b"<net/>", "openvino"),
        (".onnx", "onnx", b"1", "onnxruntime"),
    ],
)
def test_missing_package_is_named_with_its_remedy(  # noqa: PLR0917  # a column a parameter
    suffix: str, package: str, content: bytes, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    remedy = re.escape(f"is not installed: pip install 'edgeport[{extra}]'")
    with pytest.raises(MissingPackageError, match=f"^package '{package}', .* {remedy}$"):
        reader_of(path).read_costs(path)


def test_importing_the_readers_imports_nothing_heavy() -> None:
    program = (
        "import sys, edgeport.report.inspection, edgeport.formats.quality, edgeport.formats.tflite\n"
        "import edgeport.formats.onnx, edgeport.formats.openvino\n"
        "print(sorted(set(sys.modules) & {'torch', 'onnx', 'onnxruntime', 'openvino', 'ai_edge_litert', 'rich'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
