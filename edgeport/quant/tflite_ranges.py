"""Ranges for a TFLite file's tensors, from the calibration of the network's activations.

A matched tensor has its node's range; others inherit through operators that only move values or bound them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.quant.tflite_file import MAIN, Op, constant, is_float, operators, tensor_name
from edgeport.quant.tflite_match import LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeport.quant.scheme import Raised

Range = tuple[float, float]

# operators whose integer kernels take input and output at one scale; ai-edge-quantizer gives the output the input's
SAME_AS_INPUT = frozenset(
    {
        "AVERAGE_POOL_2D", "BROADCAST_TO", "GATHER", "GATHER_ND", "MAX_POOL_2D", "MIRROR_PAD", "PAD", "REDUCE_MIN",
        "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE", "SPACE_TO_DEPTH", "SPLIT", "STRIDED_SLICE",
        "TRANSPOSE", "UNPACK",
    }
)  # fmt: skip
WITHIN_INPUT = frozenset({"DEPTH_TO_SPACE", "EXPAND_DIMS", "MEAN", "REDUCE_MAX", "REVERSE_V2", "SQUEEZE", "TILE"})
UNION_OF_INPUTS = frozenset({"CONCATENATION", "MAXIMUM", "MINIMUM", "PACK", "PADV2", "SELECT", "SELECT_V2"})
BIJECTIVE = frozenset({"EXPAND_DIMS", "RESHAPE", "SQUEEZE", "TRANSPOSE"})
BOUNDED: Mapping[str, Callable[[Range], Range]] = {
    "RELU": lambda ends: (max(ends[0], 0.0), max(ends[1], 0.0)),
    "RELU6": lambda ends: (min(max(ends[0], 0.0), 6.0), min(max(ends[1], 0.0), 6.0)),
    "RELU_N1_TO_1": lambda ends: (max(ends[0], -1.0), min(ends[1], 1.0)),
    "HARD_SWISH": lambda ends: (-0.375, max(ends[1], 0.0)),  # x relu6(x + 3) / 6 is least at x = -1.5
    "LOGISTIC": lambda _: (0.0, 1.0),
    "SOFTMAX": lambda _: (0.0, 1.0),
    "TANH": lambda _: (-1.0, 1.0),
}


def tensor_ranges(
    model: Any, matches: Mapping[int, tuple[str, ...]], calibrated: Mapping[str, Range]
) -> dict[int, Range]:
    """Return tensor index -> (low, high) of the float activations whose range is known.

    Args:
        model: the float file, a `ModelT`.
        matches: tensor index -> nodes with its values (`match_tensors`).
        calibrated: node name -> (low, high).
    """
    ranges: dict[int, Range] = {}
    for index, nodes in matches.items():
        found = next((calibrated[node] for node in nodes if node in calibrated), None)
        if found is not None:
            ranges[index] = found
    ops = operators(model)
    for op in ops:
        _clip_to_activation(op, ranges)
    before = -1
    while before != len(ranges):
        before = len(ranges)
        for op in ops:
            _inherit(model, op, ranges)
        for op in reversed(ops):
            _inherit_backwards(model, op, ranges)
    for op in ops:
        if op.kind in SAME_AS_INPUT:
            for index in op.outputs:
                _same_as_input(model, op, index, ranges)
    return ranges


def unranged_operators(model: Any, ranges: Mapping[int, Range]) -> list[Op]:
    """Return the operators that read or write a float activation of unknown range: they cannot be integer."""
    return [
        op
        for op in operators(model)
        if any(
            index >= 0 and index not in ranges and is_float(model, index) and constant(model, index) is None
            for index in (*op.inputs, *op.outputs)
        )
    ]


def raised_operators(model: Any, raised: Mapping[str, Raised]) -> dict[Raised, list[Op]]:
    """Return format -> operators that compute in it: the raised layers, and what computes their inputs.

    A layer gains nothing from an input that was rounded to int8, so everything between it and the layers before it is
    raised with it.

    Args:
        model: the float file, a `ModelT` as we write it: a layer's weights are named `KEY;1`.
        raised: provenance key of a layer -> format.
    """
    ops = operators(model)
    writers = {index: op for op in ops for index in op.outputs}
    found: dict[Op, Raised] = {}
    for layer in ops:
        form = next((raised[key] for index in layer.inputs if (key := _layer_key(model, index)) in raised), None)
        op: Op | None = layer
        while op is not None and form is not None:
            found.setdefault(op, form)
            sources = [index for index in op.inputs if index >= 0 and constant(model, index) is None]
            before = writers.get(sources[0]) if len(sources) == 1 else None
            op = None if before is None or before.kind in LAYERS else before
    return {form: [op for op in ops if found.get(op) == form] for form in dict.fromkeys(found.values())}


def _layer_key(model: Any, index: int) -> str:
    return tensor_name(model, index).partition(";")[0] if index >= 0 and constant(model, index) is not None else ""


def calibration_result(model: Any, ranges: Mapping[int, Range]) -> dict[str, dict[str, np.ndarray]]:
    """Return ai-edge-quantizer's calibration result: tensor name -> `min` and `max`, `(1, ..., 1)` float32."""
    tensors = model.subgraphs[MAIN].tensors
    result = {}
    for index, (low, high) in ranges.items():
        shape = (1,) * len(tensors[index].shape)
        result[tensors[index].name.decode()] = {
            "min": np.full(shape, low, np.float32),
            "max": np.full(shape, high, np.float32),
        }
    return result


def activation_scale(ends: Range) -> float:
    """Return the int8 scale of a range widened to hold zero: (high - low) / 255."""
    return max(max(ends[1], 0.0) - min(ends[0], 0.0), 1e-9) / 255  # 1e-9: what ai-edge-quantizer puts for no width


def _clip_to_activation(op: Op, ranges: dict[int, Range]) -> None:
    if op.activation in BOUNDED:
        for index in op.outputs:
            if index in ranges:
                ranges[index] = BOUNDED[op.activation](ranges[index])


def _inherit(model: Any, op: Op, ranges: dict[int, Range]) -> None:
    missing = [index for index in op.outputs if index not in ranges and is_float(model, index)]
    sources = [_ends(model, index, ranges) for index in op.inputs if index >= 0 and is_float(model, index)]
    if not missing or not sources:
        return
    first = sources[0]
    if op.kind in BOUNDED and first is not None:
        new = BOUNDED[op.kind](first)
    elif op.kind in SAME_AS_INPUT | WITHIN_INPUT and first is not None:
        new = (min(first[0], 0.0), max(first[1], 0.0)) if op.kind == "PAD" else first
    elif op.kind in UNION_OF_INPUTS and all(ends is not None for ends in sources):
        known = [ends for ends in sources if ends is not None]
        new = (min(low for low, _ in known), max(high for _, high in known))
    else:
        return
    for index in missing:
        ranges[index] = BOUNDED[op.activation](new) if op.activation in BOUNDED else new


def _inherit_backwards(model: Any, op: Op, ranges: dict[int, Range]) -> None:
    """Give the input of an invertible operator the range that its known output implies."""
    found = ranges.get(op.outputs[0]) if op.outputs else None
    if found is None or op.activation != "NONE":
        return
    if op.kind in BIJECTIVE:
        if op.inputs[0] not in ranges and constant(model, op.inputs[0]) is None:
            ranges[op.inputs[0]] = found
    elif op.kind in ("ADD", "MUL"):
        scalars = [
            value for value in (constant(model, index) for index in op.inputs) if value is not None and value.size == 1
        ]
        sources = [index for index in op.inputs if constant(model, index) is None]
        if len(scalars) != 1 or sources[0] in ranges:
            return
        scalar = float(scalars[0].reshape(()))
        if op.kind == "ADD":
            ranges[sources[0]] = (found[0] - scalar, found[1] - scalar)
        elif scalar:
            low, high = sorted(end / scalar for end in found)
            ranges[sources[0]] = (low, high)


def _same_as_input(model: Any, op: Op, index: int, ranges: dict[int, Range]) -> None:
    source = next((place for place in op.inputs if place >= 0 and is_float(model, place)), -1)
    if source in ranges and index in ranges:
        ranges[index] = ranges[source]


def _ends(model: Any, index: int, ranges: Mapping[int, Range]) -> Range | None:
    value = constant(model, index)
    if value is None:
        return ranges.get(index)
    return (float(value.min(initial=0.0)), float(value.max(initial=0.0)))
