"""Ranges of tensors and weights, on TFLite graphs made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs pip install 'edgeport[tflite]'")

from edgeport.quant.tflite_file import constant, operators, read, write  # noqa: E402  # after the skip
from edgeport.quant.tflite_ranges import tensor_ranges, unranged_operators  # noqa: E402
from edgeport.quant.tflite_weights import LARGEST_BIAS, saturated_biases, weight_ranges  # noqa: E402

Operation = tuple[str, list[int], list[int]]


def graph(shapes: list[tuple[int, ...]], operations: list[Operation], constants: dict[int, np.ndarray]) -> Any:
    """Return a `ModelT` of float32 tensors (int32 or int8 where the constant is)."""
    types = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32, "int8": schema.TensorType.INT8}
    model, subgraph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [subgraph], [schema.BufferT()], []
    subgraph.tensors, subgraph.operators, subgraph.inputs, subgraph.outputs = [], [], [0], [len(shapes) - 1]
    for index, shape in enumerate(shapes):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = f"t{index}".encode(), list(shape), 0
        if index in constants:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(constants[index].tobytes(), np.uint8)
            tensor.type, tensor.buffer = types[str(constants[index].dtype)], len(model.buffers)
            model.buffers.append(buffer)
        subgraph.tensors.append(tensor)
    for kind, inputs, outputs in operations:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        operator.opcodeIndex, operator.inputs, operator.outputs = len(model.operatorCodes), inputs, outputs
        model.operatorCodes.append(code)
        subgraph.operators.append(operator)
    return model


def ranges_of(operations: list[Operation], known: dict[int, tuple[float, float]], count: int, **constants: Any) -> Any:
    values = {int(name[1:]): value for name, value in constants.items()}
    model = graph([values[i].shape if i in values else (1, 2) for i in range(count)], operations, values)
    matches = {index: (f"n{index}",) for index in known}
    return model, tensor_ranges(model, matches, {f"n{index}": ends for index, ends in known.items()})


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("RESHAPE", (-1.0, 3.0)),
        ("MAX_POOL_2D", (-1.0, 3.0)),
        ("RELU", (0.0, 3.0)),
        ("LOGISTIC", (0.0, 1.0)),
        ("HARD_SWISH", (-0.375, 3.0)),
    ],
)
def test_output_inherits_what_its_operator_allows(kind: str, expected: tuple[float, float]) -> None:
    _, ranges = ranges_of([(kind, [0], [1])], {0: (-1.0, 3.0)}, 2)
    assert ranges[1] == expected


def test_concatenation_has_the_union_of_its_inputs() -> None:
    _, ranges = ranges_of([("CONCATENATION", [0, 1], [2])], {0: (-1.0, 0.5), 1: (0.0, 4.0)}, 3)
    assert ranges[2] == (-1.0, 4.0)


def test_padding_takes_the_scale_of_its_input_though_its_node_has_a_range() -> None:
    _, ranges = ranges_of([("PAD", [0], [1])], {0: (-1.0, 3.0), 1: (-1.0, 2.0)}, 2)
    assert ranges[1] == (-1.0, 3.0)


def test_input_of_a_multiplication_by_a_constant_follows_from_its_output() -> None:
    scale = np.array([[-0.25]], np.float32)
    _, ranges = ranges_of([("RELU", [0], [1]), ("MUL", [1, 2], [3])], {0: (0.0, 9.0), 3: (-1.0, 0.5)}, 4, t2=scale)
    assert ranges[1] == (0.0, 9.0)  # forwards, from the ReLU's input
    _, ranges = ranges_of([("MUL", [0, 1], [2])], {2: (-1.0, 0.5)}, 3, t1=scale)
    assert ranges[0] == (-2.0, 4.0)


def test_operators_of_unknown_range_are_found() -> None:
    model, ranges = ranges_of([("RELU", [0], [1]), ("ADD", [1, 2], [3]), ("RELU", [3], [4])], {0: (0.0, 1.0)}, 5)
    assert [op.kind for op in unranged_operators(model, ranges)] == ["ADD", "RELU"]


def layer(weights: np.ndarray, bias: np.ndarray) -> Any:
    shapes = [(1, weights.shape[1]), weights.shape, bias.shape, (1, weights.shape[0])]
    return graph(shapes, [("FULLY_CONNECTED", [0, 1, 2], [3])], {1: weights, 2: bias})


def test_weight_range_is_the_largest_magnitude_of_each_channel() -> None:
    model = layer(np.array([[0.5, -1.0], [0.25, 0.125]], np.float32), np.zeros(2, np.float32))
    found = weight_ranges(model, {0: (-1.0, 1.0)})
    np.testing.assert_array_equal(found.result["t1"]["max"], [[1.0], [0.25]])
    np.testing.assert_array_equal(found.result["t1"]["min"], [[-1.0], [-0.25]])
    assert not found.widened


def test_seven_bits_widen_the_range_by_127_63rds() -> None:
    model = layer(np.array([[0.63, -0.1]], np.float32), np.zeros(1, np.float32))
    found = weight_ranges(model, {0: (-1.0, 1.0)}, weight_bits=7)
    assert found.result["t1"]["max"][0, 0] == pytest.approx(1.27)


def test_tiny_channel_is_widened_until_its_bias_fits() -> None:
    model = layer(np.array([[1.0], [1e-9]], np.float32), np.array([1.0, -2.0], np.float32))
    found = weight_ranges(model, {0: (0.0, 255.0)})  # an input scale of one
    assert found.widened == {"t1": 1}
    assert found.result["t1"]["max"][:, 0] == pytest.approx([1.0, 2.0 * 127 / 2**30])


@settings(max_examples=100, deadline=None)
@given(
    weight=st.floats(2.0**-66, 1024.0, width=32),
    bias=st.floats(-16384.0, 16384.0, width=32),
    width=st.floats(2.0**-13, 16384.0, width=32),
)
def test_every_bias_fits_into_half_of_int32(weight: float, bias: float, width: float) -> None:
    model = layer(np.array([[weight]], np.float32), np.array([bias], np.float32))
    bound = float(weight_ranges(model, {0: (0.0, width)}).result["t1"]["max"][0, 0])
    scale = width / 255 * max(bound, 1e-9) / 127
    assert abs(bias) / scale <= LARGEST_BIAS * (1 + 1e-6)  # float32 of the bound
    assert bound >= weight * (1 - 1e-6)


def test_saturated_biases_are_counted_in_a_quantized_file() -> None:
    bias = np.array([5, 2**31 - 1, -(2**31)], np.int32)
    model = layer(np.zeros((3, 1), np.int8), bias)
    assert saturated_biases(model) == {"t2": 2}


def test_written_constants_keep_their_values_and_are_aligned() -> None:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = write(layer(weights, np.ones(2, np.float32)))
    again = read(content)
    value = constant(again, operators(again)[0].inputs[1])
    assert value is not None
    np.testing.assert_array_equal(value, weights)
    assert content.index(weights.tobytes()) % 16 == 0  # schema.fbs: `data:[ubyte] (force_align: 16)`
    assert write(again) == content
