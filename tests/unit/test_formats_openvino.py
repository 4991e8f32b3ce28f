from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeport.errors import ConfigError
from edgeport.formats import TensorInfo, openvino

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # no calls home from a test
ov = pytest.importorskip("openvino", reason="needs edgeport[openvino]")
ops = pytest.importorskip("openvino.opset13", reason="needs edgeport[openvino]")


def parameter(*shape: int) -> Any:
    return ops.parameter(list(shape), np.float32, name="x")


def constant(*shape: int, dtype: type = np.float32) -> Any:
    return ops.constant(np.random.default_rng(0).integers(-9, 9, shape).astype(dtype))


def fake_quantized(node: Any, *, levels: int = 256) -> Any:
    edges = [ops.constant(np.float32(edge)) for edge in (0.0, 2.55, 0.0, 2.55)]
    return ops.fake_quantize(node, *edges, levels)


def compressed(*shape: int, dtype: type = np.int8, zero_point: bool = False) -> Any:
    wide = ops.convert(constant(*shape, dtype=dtype), np.float32)
    if zero_point:
        wide = ops.subtract(wide, constant(1))
    return ops.multiply(wide, ops.constant(np.full((shape[0], *[1] * (len(shape) - 1)), 0.1, np.float32)))


def convolution(data: Any, weights: Any) -> Any:
    return ops.convolution(data, weights, [2, 2], [1, 1], [1, 1], [1, 1])


def write(result: Any, source: Any, folder: Path) -> Path:
    path = folder / "net.xml"
    ov.save_model(ov.Model([result], [source], "net"), path, compress_to_fp16=False)
    return path


def product_of(path: Path) -> tuple[str, str, int, int, bool]:
    row = next(row for row in openvino.read_costs(path) if row.macs)
    return row.kind, row.dtype, row.macs, row.weight_bytes, row.is_depthwise


MACS = 3 * 3 * 8 * 3 * 3 * 4  # 3 x 3 convolution of 4 x 6 x 6 to 8 channels, stride 2


@pytest.mark.parametrize(
    ("quantizes_data", "weights", "dtype", "weight_bytes"),
    [
        (False, constant(8, 4, 3, 3), "float32", 4 * 288),
        (True, constant(8, 4, 3, 3), "float32", 4 * 288),
        (True, compressed(8, 4, 3, 3), "int8", 288 + 8 * 4),
        (True, compressed(8, 4, 3, 3, dtype=np.uint8, zero_point=True), "int8", 288 + 8 * 4 + 4),
        (True, fake_quantized(constant(8, 4, 3, 3)), "int8", 4 * 288 + 4 * 4),
        (False, compressed(8, 4, 3, 3), "int8-weights", 288 + 8 * 4),
        (False, ops.convert(constant(8, 4, 3, 3, dtype=np.float16), np.float32), "float32", 2 * 288),
    ],
)
def test_convolution_is_int8_when_both_factors_are(
    quantizes_data: bool, weights: Any, dtype: str, weight_bytes: int, tmp_path: Path
) -> None:
    x = parameter(1, 4, 6, 6)
    path = write(convolution(fake_quantized(x) if quantizes_data else x, weights), x, tmp_path)
    assert product_of(path) == ("Convolution", dtype, MACS, weight_bytes, False)


def test_sixteen_bit_fake_quantization_is_not_int8(tmp_path: Path) -> None:
    x = parameter(1, 4, 6, 6)
    path = write(convolution(fake_quantized(x, levels=65536), compressed(8, 4, 3, 3)), x, tmp_path)
    assert product_of(path)[1] == "int8-weights"


def test_quantized_activation_stays_int8_through_a_reshape(tmp_path: Path) -> None:
    x = parameter(1, 4, 6, 6)
    flat = ops.reshape(fake_quantized(x), ops.constant(np.array([1, 144])), special_zero=False)
    path = write(ops.matmul(flat, compressed(7, 144), False, True), x, tmp_path)
    assert product_of(path)[:3] == ("MatMul", "int8", 7 * 144)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda x: ops.group_convolution(x, constant(4, 1, 1, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1]),
            ("GroupConvolution", "float32", 36 * 4 * 9, 4 * 36, True),
        ),
        (
            lambda x: ops.group_convolution(x, constant(2, 3, 2, 1, 1), [1, 1], [0, 0], [0, 0], [1, 1]),
            ("GroupConvolution", "float32", 36 * 6 * 2, 4 * 12, False),
        ),
        (
            lambda x: ops.convolution_backprop_data(
                x, constant(4, 8, 2, 2), strides=[2, 2], pads_begin=[0, 0], pads_end=[0, 0], dilations=[1, 1]
            ),
            ("ConvolutionBackpropData", "float32", 4 * 36 * 8 * 4, 4 * 128, False),
        ),
        (
            lambda x: ops.matmul(ops.constant(np.ones((36, 7), np.float32)), ops.reshape(
                x, ops.constant(np.array([36, 4])), special_zero=False), True, False),
            ("MatMul", "float32", 7 * 4 * 36, 4 * 252, False),
        ),
    ],
    ids=["depthwise", "grouped", "transposed", "matmul with its first factor transposed"],
)  # fmt: skip
def test_multiply_adds(make: Any, expected: tuple[str, str, int, int, bool], tmp_path: Path) -> None:
    x = parameter(1, 4, 6, 6)
    assert product_of(write(make(x), x, tmp_path)) == expected


def test_open_batch_counts_as_one_and_shows_in_the_interface(tmp_path: Path) -> None:
    x = parameter(-1, 4, 6, 6)
    path = write(convolution(x, constant(8, 4, 3, 3)), x, tmp_path)
    assert product_of(path)[2] == MACS
    found = openvino.read_interface(path)
    assert found.inputs == (TensorInfo(name="x", shape=(-1, 4, 6, 6), dtype="float32"),)
    assert found.outputs[0].shape == (-1, 8, 3, 3)


def test_other_open_sizes_are_refused_by_name(tmp_path: Path) -> None:
    x = parameter(1, 4, -1, -1)
    path = write(convolution(x, constant(8, 4, 3, 3)), x, tmp_path)
    with pytest.raises(
        ConfigError, match=re.escape("input 'x' has the shape (1, 4, -1, -1): operators can be counted")
    ):
        openvino.read_costs(path)


def test_runtime_fuses_and_tells_its_kernel(tmp_path: Path) -> None:
    x = parameter(1, 16, 6, 6)
    y = ops.relu(convolution(fake_quantized(x), compressed(16, 16, 3, 3)))
    path = write(fake_quantized(y), x, tmp_path)
    found = [operator for operator in openvino.executed_operators(path) if operator.kind == "Convolution"]
    assert [operator.dtype for operator in found] == ["int8"]
    assert len(found[0].layers) > 1
    assert found[0].implementation
    kinds = {operator.kind for operator in openvino.executed_operators(path)}
    assert not kinds & {"Const", "Input", "Output", "Relu"}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("__module.layer1.0.bn1/aten::batch_norm/Add", "layer1.0.bn1"),
        ("aten::relu/Relu", None),
        ("Multiply_5598", None),
    ],
)
def test_module_path_in_friendly_names(name: str, path: str | None) -> None:
    assert openvino.module_path(name) == path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    x = parameter(1, 4, 6, 6)
    path = write(convolution(fake_quantized(x), compressed(8, 4, 3, 3)), x, tmp_path_factory.mktemp("sound"))
    return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def reads(xml: bytes, weights: bytes) -> bool:
    """Whether the reader takes the content; anything but a ConfigError fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.xml")
        path.write_bytes(xml)
        path.with_suffix(".bin").write_bytes(weights)
        try:
            openvino.read_costs(path), openvino.read_interface(path)
        except ConfigError:
            return False
    return True


def test_every_truncation_is_noticed(sound: tuple[bytes, bytes]) -> None:
    xml, weights = sound
    assert reads(xml, weights)
    assert not any(reads(xml[:length], weights) for length in range(0, len(xml) - 8, 211))
    assert not any(reads(xml, weights[:length]) for length in range(0, len(weights), 31))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(32, 126)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_overwritten_characters_never_crash_the_reader(
    sound: tuple[bytes, bytes], changes: list[tuple[int, int]]
) -> None:
    xml = bytearray(sound[0])
    for position, value in changes:
        xml[position % len(xml)] = value
    reads(bytes(xml), sound[1])  # raises what it does not know


def test_missing_weights_are_named(sound: tuple[bytes, bytes], tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    path.write_bytes(sound[0])
    with pytest.raises(ConfigError, match=re.escape("has no weights: 'net.bin' must lie beside it")):
        openvino.read_costs(path)


def test_other_xml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    path.write_text("<?xml version='1.0'?><project/>")
    with pytest.raises(ConfigError, match=re.escape("is not an OpenVINO file: no <net> element")):
        openvino.read_interface(path)
