"""When products can leave 16 bits, by hand; the files themselves are in conformance/test_saturation.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgeport.errors import StageError
from edgeport.validation.exact import can_saturate, halves, write_exact

INT8 = st.integers(-128, 127)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[64, 64, 0]], False),  # 255 * 128 = 32,640
        ([[65, 64, 0]], True),  # 255 * 129 = 32,895 > 32,767
        ([[-64, -64, 9]], False),
        ([[-65, 1, -64]], True),  # neighbours or not: the kernel's order is unknown
        ([[127, -127, 1]], False),  # of opposite signs: they never add up
        ([[127, 0, 1], [0, 0, 0]], False),
        ([[0, 0, 0], [127, 0, 2]], True),
        ([[63, 63, 63]], False),  # 7-bit weights
        ([[127]], False),  # one product: no pair
    ],
)
def test_pair_of_one_output_channel_decides(rows: list[list[int]], expected: bool) -> None:
    weight = np.array(rows, np.int8)
    assert can_saturate(weight, axis=0) is expected
    assert can_saturate(weight.T, axis=1) is expected


@given(hnp.arrays(np.int8, st.tuples(st.integers(1, 3), st.integers(1, 6)), elements=INT8))
def test_weights_that_pass_never_leave_16_bits(weight: NDArray[np.int8]) -> None:
    wide = weight.astype(np.int32)
    others = [wide[:, i] + wide[:, j] for i in range(wide.shape[1]) for j in range(i)]
    sums = np.array([*others, *wide.T])  # both inputs 255, or one of them 0
    outside = bool((255 * sums > 32767).any() or (255 * sums < -32768).any())
    assert can_saturate(weight, axis=0) is outside


@given(hnp.arrays(np.int8, (7,), elements=INT8))
def test_halves_add_up_and_cannot_saturate(weight: NDArray[np.int8]) -> None:
    first, second = halves(weight)
    assert first.dtype == second.dtype == np.int8
    np.testing.assert_array_equal(first.astype(int) + second, weight)
    assert max(np.abs(first.astype(int)).max(), np.abs(second.astype(int)).max()) <= 64
    assert not can_saturate(np.stack([np.concatenate([first, second])]), axis=0)


def test_weights_with_a_zero_point_are_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    _integer_product(path, zero_point=3)
    with pytest.raises(StageError, match="layer 'product' has int8 weights with a zero point"):
        write_exact(path, tmp_path / "out.onnx")


def test_operator_on_integers_is_rewritten_exactly(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    weight = _integer_product(path, zero_point=0)
    assert write_exact(path, out) == ("product",)
    x = np.full((2, 6), 255, np.uint8)
    found = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, x.astype(int) @ weight.astype(int))


def _integer_product(path: Path, *, zero_point: int) -> NDArray[np.int8]:
    """Write x (2, 6) uint8 times a weight (6, 3) int8 as MatMulInteger, and return the weight."""
    onnx = pytest.importorskip("onnx")
    weight = np.random.default_rng(0).integers(100, 128, (6, 3)).astype(np.int8)
    constants = {"w": weight, "zx": np.uint8(0), "zw": np.int8(zero_point)}
    node = onnx.helper.make_node("MatMulInteger", ["x", "w", "zx", "zw"], ["y"], name="product")
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [2, 6])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [2, 3])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    return weight
