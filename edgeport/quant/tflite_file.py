"""TFLite files as Python objects: parse, serialize, list operators, run while keeping every tensor."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.quant.packing import unpack
from edgeport.quant.tflite_csr import expand, from_parameters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MAIN = 0  # index of the subgraph that the one signature runs


@dataclass(frozen=True, kw_only=True)
class Op:
    """One operator of the main subgraph.

    Attributes:
        kind: TFLite's name of the operator, e.g. `CONV_2D`.
        inputs: tensor indices; -1 where an optional input is absent.
        outputs: tensor indices.
        activation: name of the activation fused into it, e.g. `RELU6`; `NONE` without one.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    activation: str = "NONE"


def read(content: bytes) -> Any:
    """Return the flatbuffer of a file as the schema's `ModelT`."""
    from ai_edge_litert.tools import flatbuffer_utils  # type: ignore[import-untyped]  # ships no types

    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def write(model: Any) -> bytes:
    """Return the bytes of a `ModelT`, without metadata and description: they name tools and machines."""
    from ai_edge_litert.tools import flatbuffer_utils

    model.metadata = None
    model.metadataBuffer = None
    model.description = b""
    used = {tensor.buffer for subgraph in model.subgraphs for tensor in subgraph.tensors}
    buffers = model.buffers
    model.buffers = [_Buffer(buffer.data if index in used else None) for index, buffer in enumerate(buffers)]
    try:
        return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    finally:
        model.buffers = buffers


class _Buffer:
    """A constant's bytes, written in one copy and aligned to 16 bytes as the schema asks.

    The generated class writes byte by byte what is not an array (3 s for EfficientNet-Lite0), and aligns to 4 bytes.
    """

    def __init__(self, data: Any) -> None:
        self.data = b"" if data is None else bytes(data)

    def Pack(self, builder: Any) -> int:  # noqa: N802  # the name that the generated code calls
        """Write into a flatbuffer; returns the table's offset."""
        from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]  # ships no types

        size, vector = len(self.data), 0
        if size:
            builder.StartVector(1, size, 16)
            builder.head -= size
            builder.Bytes[builder.head : builder.head + size] = self.data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if size:
            schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


def operators(model: Any) -> tuple[Op, ...]:
    """Return the main subgraph's operators in execution order."""
    kinds, activations = _names("BuiltinOperator"), _names("ActivationFunctionType")
    found = []
    for operator in model.subgraphs[MAIN].operators:
        code = model.operatorCodes[operator.opcodeIndex]
        activation = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
        found.append(
            Op(
                kind=kinds[max(code.builtinCode, code.deprecatedBuiltinCode)],
                inputs=tuple(int(index) for index in _listed(operator.inputs)),
                outputs=tuple(int(index) for index in _listed(operator.outputs)),
                activation=activations[activation],
            )
        )
    return tuple(found)


def tensor_name(model: Any, index: int) -> str:
    """Return the name of a tensor of the main subgraph."""
    name = model.subgraphs[MAIN].tensors[index].name
    return name.decode() if isinstance(name, bytes) else str(name)


def is_float(model: Any, index: int) -> bool:
    """Whether a tensor of the main subgraph holds float32."""
    from ai_edge_litert import schema_py_generated as schema

    return bool(model.subgraphs[MAIN].tensors[index].type == schema.TensorType.FLOAT32)


def constant(model: Any, index: int) -> np.ndarray | None:
    """Return the value of a constant tensor of the main subgraph; None for an activation.

    float32, int32 and int8 as they are, INT4 as int8, sparse float32 with its zeros.
    """
    from ai_edge_litert import schema_py_generated as schema

    if index < 0:
        return None
    tensor = model.subgraphs[MAIN].tensors[index]
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    if tensor.type == schema.TensorType.INT4:
        shape = _listed(tensor.shape)
        return unpack(np.frombuffer(bytes(data), np.uint8), math.prod(shape)).reshape(shape)
    types = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.INT32: np.int32, schema.TensorType.INT8: np.int8}
    if tensor.type not in types:
        return None
    if tensor.sparsity is not None:
        return _dense(tensor, bytes(data))
    return np.frombuffer(bytes(data), types[tensor.type]).reshape(_listed(tensor.shape))


def _dense(tensor: Any, data: bytes) -> np.ndarray | None:
    """Return a sparse float32 constant with its zeros; None for other types, and forms that edgeport does not write."""
    from ai_edge_litert import schema_py_generated as schema

    if tensor.type != schema.TensorType.FLOAT32:
        return None
    sparse = from_parameters(tensor.sparsity, _listed(tensor.shape), np.frombuffer(data, np.float32))
    return None if sparse is None else expand(sparse)


def run_keeping_tensors(content: bytes, inputs: Sequence[Sequence[np.ndarray]]) -> list[dict[int, np.ndarray]]:
    """Return for each sample the value of every float32 activation, by tensor index.

    Args:
        content: a float file with one signature that takes `args_0`, `args_1`, ...
        inputs: samples, each an array a signature input, in the file's layout.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType  # type: ignore[import-untyped]  # ships no types

    interpreter = Interpreter(
        model_content=content,
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    model = read(content)
    places = {entry.name.decode(): int(entry.tensorIndex) for entry in model.signatureDefs[0].inputs}
    wanted = {index for op in operators(model) for index in op.outputs} | set(places.values())
    wanted = {index for index in wanted if is_float(model, index)}
    kept = []
    for sample in inputs:
        for position, value in enumerate(sample):
            interpreter.set_tensor(places[f"args_{position}"], value)
        interpreter.invoke()
        kept.append({index: interpreter.get_tensor(index) for index in sorted(wanted)})
    return kept


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drop what is written to stdout and stderr, from Python or C++.

    The converter, the quantizer and the interpreter print progress and advice. Their errors are raised, so nothing that
    matters is lost.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        sys.stderr.flush()  # absl keeps the stream that it finds, so it is not replaced; only its descriptor is
        for number, copy in enumerate(saved, start=1):
            os.dup2(copy, number)
            os.close(copy)


@cache
def _names(enumeration: str) -> Mapping[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(getattr(schema, enumeration)).items() if isinstance(value, int)}


def _listed(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]
