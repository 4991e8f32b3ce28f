"""A small TFLite network with known weights: padding, strided 3 x 3 convolution, linear layer; int8 or float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MACS = 8 * 8 * 16 * 9 * 8 + 1024 * 10  # (out) 8 x 8 x 16, 3 x 3 x 8 each; 1024 -> 10
SCALES = {"x": 0.05, "w": 0.01, "y": 0.1}
INT8_VERSIONS = {"PAD": 2, "CONV_2D": 3, "RESHAPE": 1, "FULLY_CONNECTED": 4}  # the first of each that takes int8


class Net:
    """Writes the file, tensor by tensor."""

    def __init__(self, dtype: Literal["int8", "float32"]) -> None:
        from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]  # ships no types

        self.schema: Any = schema
        self.dtype, self.is_int8 = dtype, dtype == "int8"
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [schema.BufferT()], []
        self.model.subgraphs = [self.graph]
        self.graph.tensors, self.graph.operators = [], []

    def tensor(
        self, shape: tuple[int, ...], scale: float | None, data: NDArray[Any] | None = None, dtype: str = ""
    ) -> int:
        """Add a tensor, a constant where it has data; returns its index."""
        made = self.schema.TensorT()
        made.name, made.shape = f"t{len(self.graph.tensors)}", list(shape)
        made.type = getattr(self.schema.TensorType, (dtype or self.dtype).upper())
        if self.is_int8 and scale is not None:
            made.quantization = self.schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [0]
        if data is not None:
            made.buffer = len(self.model.buffers)
            self.model.buffers.append(self.schema.BufferT())
            self.model.buffers[-1].data = np.frombuffer(data.tobytes(), np.uint8)
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def weights(self, shape: tuple[int, ...]) -> int:
        """Add weights."""
        values = (np.arange(np.prod(shape)) * 37 % 201 - 100).astype(np.int8).reshape(shape)
        return self.tensor(shape, SCALES["w"], values if self.is_int8 else values.astype(np.float32) / 100)

    def bias(self, size: int, scale: float) -> int:
        """Add a bias of zeros."""
        kind = "int32" if self.is_int8 else "float32"
        return self.tensor((size,), scale, np.zeros(size, kind), kind)

    def operator(self, kind: str, inputs: list[int], outputs: list[int], options: Any) -> None:
        """Add an operator."""
        code = self.schema.OperatorCodeT()
        code.builtinCode = getattr(self.schema.BuiltinOperator, kind)
        code.version = INT8_VERSIONS[kind] if self.is_int8 else 1
        code.deprecatedBuiltinCode = code.builtinCode
        self.model.operatorCodes.append(code)
        made = self.schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(self.model.operatorCodes) - 1, inputs, outputs
        made.builtinOptions = options
        made.builtinOptionsType = getattr(self.schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(made)

    def content(self) -> bytes:
        """Return the file's bytes."""
        import flatbuffers  # type: ignore[import-untyped]  # ships no types

        builder = flatbuffers.Builder()
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def write(dtype: Literal["int8", "float32"], folder: Path) -> Path:
    """Write the network; its operators are PAD, CONV_2D, RESHAPE and FULLY_CONNECTED."""
    net = Net(dtype)
    x = net.tensor((1, 16, 16, 8), SCALES["x"])
    padded = net.tensor((1, 18, 18, 8), SCALES["x"])
    edges = net.tensor((4, 2), None, np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32), "int32")
    net.operator("PAD", [x, edges], [padded], net.schema.PadOptionsT())
    y = net.tensor((1, 8, 8, 16), SCALES["y"])
    convolution = net.schema.Conv2DOptionsT()
    convolution.padding, convolution.strideH, convolution.strideW = net.schema.Padding.VALID, 2, 2
    convolution.dilationHFactor = convolution.dilationWFactor = 1
    inputs = [padded, net.weights((16, 3, 3, 8)), net.bias(16, SCALES["x"] * SCALES["w"])]
    net.operator("CONV_2D", inputs, [y], convolution)
    flat = net.tensor((1, 1024), SCALES["y"])
    sizes = net.tensor((2,), None, np.array([1, 1024], np.int32), "int32")
    reshape = net.schema.ReshapeOptionsT()
    reshape.newShape = [1, 1024]
    net.operator("RESHAPE", [y, sizes], [flat], reshape)
    scores = net.tensor((1, 10), 1.0)
    inputs = [flat, net.weights((10, 1024)), net.bias(10, SCALES["y"] * SCALES["w"])]
    net.operator("FULLY_CONNECTED", inputs, [scores], net.schema.FullyConnectedOptionsT())
    net.graph.inputs, net.graph.outputs = [x], [scores]
    path = folder / f"{dtype}.tflite"
    path.write_bytes(net.content())
    return path
