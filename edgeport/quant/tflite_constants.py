"""Keeps a constant of a TFLite file in a smaller form, with an operator behind it that makes the wide one again."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeport.quant.tflite_file import MAIN


def kept_small(  # noqa: PLR0913  # keyword-only past the fourth
    model: Any, index: int, small: Any, values: np.ndarray, *, kind: int, version: int
) -> Any:
    """Give a constant's place to an operator's output, and return that operator; it reads the small form.

    Args:
        model: the file as the schema's object tree; gets a tensor, a buffer and, where it is new, an operator type.
        index: of the tensor, which stays where it is and loses its values.
        small: a tensor of the schema with name, type and what tells how it is kept.
        values: what it holds.
        kind: number of the operator that widens it.
        version: the operator's lowest version that does.
    """
    from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]  # ships no types

    tensors = model.subgraphs[MAIN].tensors
    wide, buffer = tensors[index], schema.BufferT()
    small.shape, small.shapeSignature, small.hasRank = wide.shape, wide.shapeSignature, wide.hasRank
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    small.buffer, wide.buffer = len(model.buffers), 0  # buffer 0 is the empty one
    model.buffers.append(buffer)
    tensors.append(small)
    operator = schema.OperatorT()
    operator.opcodeIndex = _operator_type(model, kind, version)
    operator.inputs = np.array([len(tensors) - 1], np.int32)
    operator.outputs = np.array([index], np.int32)
    return operator


def _operator_type(model: Any, kind: int, version: int) -> int:
    """Return the index of an operator type in the file, raised to `version` where it is older, made where it is new."""
    from ai_edge_litert import schema_py_generated as schema

    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == kind:
            code.version = max(code.version, version)
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
