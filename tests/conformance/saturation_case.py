"""Tiny integer files made to saturate where pairs of products are added in 16 bits, and what they must answer.

One convolution without padding over the whole input, so that every sum of products is known by hand:
y[k] = (w[k] . x + bias[k]) / 1024, with inputs of scale 1 (0..255) and weights of scale 1/1024. Weights of 127 and
inputs of 255 make pairs of 64,770. Class 0 has them, class 1 a bias between the exact and the saturated sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHANNELS, SIDE = 8, 3
SCALE = 2.0**-10
STEP = 32.0  # of the .onnx file's output: the largest sum is 127 * 72 * 255 / 1024 = 2,277 < 127 * 32


@dataclass(frozen=True)
class Case:
    """A layer: weights (out, in / groups, 3, 3) int8 and integer biases; `signed`: its inputs are stored as int8."""

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    groups: int = 1
    signed: bool = False

    def sums(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the exact outputs before any rounding, (N, out); x: (N, 8, 3, 3), whole numbers 0..255."""
        out = len(self.weight)
        per_group = x.astype(np.float64).reshape(len(x), self.groups, -1)
        rows = self.weight.astype(np.float64).reshape(self.groups, out // self.groups, -1)
        products = np.einsum("ngi,goi->ngo", per_group, rows).reshape(len(x), out)
        sums: NDArray[np.float64] = (products + self.bias) * SCALE
        return sums


def inputs(count: int) -> NDArray[np.float32]:
    """Return (count, 8, 3, 3) whole numbers 200..255: large everywhere, as after a saturated picture."""
    random = np.random.default_rng(0)
    return random.integers(200, 256, (count, CHANNELS, SIDE, SIDE)).astype(np.float32)


def dense(largest: int, *, groups: int = 1) -> Case:
    """Return a layer of two classes a group: all weights `largest`, and all half of that with a bias.

    The bias lifts class 1 to three quarters of class 0; saturated, class 0 falls to about half.
    """
    weight = np.zeros((2 * groups, CHANNELS // groups, SIDE, SIDE), np.int8)
    weight[0::2], weight[1::2] = largest, largest // 2
    bias = np.zeros(2 * groups, np.int32)
    bias[1::2] = largest // 4 * 228 * weight[0].size
    return Case(weight=weight, bias=bias, groups=groups)


def depthwise(largest: int) -> Case:
    """Return a depthwise layer, each channel of one sign; the biases set the channels apart."""
    weight = np.full((CHANNELS, 1, SIDE, SIDE), largest, np.int8)
    weight[1::2] = -largest
    return Case(weight=weight, bias=np.arange(CHANNELS, dtype=np.int32) * 4000, groups=CHANNELS)


def write_onnx(case: Case, path: Path) -> Path:
    """Write the layer between quantize/dequantize pairs; ONNX Runtime runs it as QLinearConv."""
    from onnx import TensorProto, helper, numpy_helper, save

    out = len(case.weight)
    constants = {
        "one": np.float32(1.0),
        "zero": np.int8(-128) if case.signed else np.uint8(0),
        "scale": np.full(out, SCALE, np.float32),
        "zeros": np.zeros(out, np.int8),
        "weight": case.weight,
        "bias": case.bias,
        "bias_zeros": np.zeros(out, np.int32),
        "step": np.float32(STEP),
        "middle": np.int8(0) if case.signed else np.uint8(128),
        "shape": np.array([-1, out], np.int64),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["x:int"]),
        helper.make_node("DequantizeLinear", ["x:int", "one", "zero"], ["x:real"]),
        helper.make_node("DequantizeLinear", ["weight", "scale", "zeros"], ["weight:real"], axis=0),
        helper.make_node("DequantizeLinear", ["bias", "scale", "bias_zeros"], ["bias:real"], axis=0),
        helper.make_node("Conv", ["x:real", "weight:real", "bias:real"], ["sum"], name="layer", group=case.groups),
        helper.make_node("QuantizeLinear", ["sum", "step", "middle"], ["sum:int"]),
        helper.make_node("DequantizeLinear", ["sum:int", "step", "middle"], ["sum:real"]),
        helper.make_node("Reshape", ["sum:real", "shape"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "saturation",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, out])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def write_openvino(case: Case, path: Path) -> Path:
    """Write the layer behind a FakeQuantize; OpenVINO runs it on integers and gives float sums."""
    import openvino  # type: ignore[import-untyped]  # ships no types
    from openvino import opset13

    x = opset13.parameter([1, CHANNELS, SIDE, SIDE], np.float32, name="x")
    x.output(0).set_names({"x"})
    ends = [opset13.constant(np.float32(end)) for end in (0.0, 255.0)]
    quantized = opset13.fake_quantize(x, *ends, *ends, levels=256)
    out = len(case.weight)
    stored = case.weight
    scale = np.full((out, 1, 1, 1), SCALE, np.float32)
    if case.groups > 1:
        stored = stored.reshape(case.groups, -1, *stored.shape[1:])
        scale = scale.reshape(case.groups, -1, 1, 1, 1)
    weight = opset13.multiply(opset13.convert(opset13.constant(stored), "f32"), opset13.constant(scale))
    how = ([1, 1], [0, 0], [0, 0], [1, 1])
    convolve = opset13.convolution if case.groups == 1 else opset13.group_convolution
    layer = convolve(quantized, weight, *how)
    layer.set_friendly_name("layer")
    bias = (case.bias * SCALE).astype(np.float32).reshape(1, out, 1, 1)
    total = opset13.add(layer, opset13.constant(bias))
    y = opset13.reshape(total, opset13.constant(np.array([1, out], np.int64)), special_zero=False)
    y.output(0).set_names({"y"})
    openvino.save_model(openvino.Model([y], [x]), path, compress_to_fp16=False)
    return path


def write(case: Case, suffix: str, folder: Path) -> Path:
    """Write the layer for the runtime of a suffix."""
    writer = {".onnx": write_onnx, ".xml": write_openvino}[suffix]
    return writer(case, folder / f"model{suffix}")


def expected(case: Case, x: NDArray[np.float32], suffix: str) -> NDArray[np.float64]:
    """Return what exact integer arithmetic answers: the .onnx file's outputs are rounded to its output scale."""
    sums = case.sums(x)
    if suffix == ".xml":
        return sums
    rounded: NDArray[np.float64] = (np.clip(np.rint(sums / STEP) + 128, 0, 255) - 128) * STEP
    return rounded
