"""Operators and tensors of any file in one form, and what they cost.

A quantized ONNX or OpenVINO file says `dequantize -> convolution -> quantize` where its runtime runs one integer
kernel, and `convolution -> add bias -> relu` where it runs one fused kernel. Counting such a file operator by operator
would charge traffic that never happens, so costs are counted on what is stored between kernels: an activation takes
the bytes of the format it is kept in, and what folds into a neighbour moves nothing of its own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeport.types import OpCost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# compute: a kernel. quantize, dequantize: folds into the kernels beside it. epilogue: element-wise with at most
# constants beside its data, folds into the kernel before it. move: changes the shape only, keeps the number format.
Role = Literal["compute", "quantize", "dequantize", "epilogue", "move", "join"]

BITS = {
    "bool": 8, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16, "float16": 16,
    "bfloat16": 16, "int32": 32, "uint32": 32, "float32": 32, "int64": 64, "uint64": 64, "float64": 64, "complex64": 64,
}  # fmt: skip
QUANTIZED = frozenset({"int4", "int8", "int16"})


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A value of the graph.

    Attributes:
        shape: sizes with batch one; None when the file does not tell.
        dtype: numpy's name of the element type.
        constant_bytes: bytes it takes in the file; None for an activation.
    """

    shape: tuple[int, ...] | None
    dtype: str
    constant_bytes: int | None = None

    @property
    def elements(self) -> int:
        """Number of elements; 0 when the shape is unknown."""
        return 0 if self.shape is None else math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Product:
    """The multiply-adds of an operator.

    Attributes:
        data: name of the tensor that is one factor.
        weights: name of the tensor that is the other.
        macs: multiply-adds, batch one.
        is_depthwise: a grouped convolution with one input channel a group.
        is_integer: the operator multiplies integers whatever its inputs' producers are (`ConvInteger`, ...).
    """

    data: str
    weights: str
    macs: int
    is_depthwise: bool = False
    is_integer: bool = False


@dataclass(frozen=True, kw_only=True)
class Operator:
    """A node of the graph; `inputs` and `outputs` name tensors, absent optional inputs left out."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    role: Role = "compute"
    product: Product | None = None
    provenance: str | None = None


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Operators in execution order with their tensors; `outputs` leave the graph."""

    operators: Sequence[Operator]
    tensors: Mapping[str, Tensor]
    outputs: frozenset[str]


def signless(dtype: str) -> str:
    """Return the dtype without its sign for the widths that quantization uses: `uint8` -> `int8`."""
    return dtype[1:] if dtype in {"uint4", "uint8", "uint16"} else dtype


def format_of_product(data: str, weights: str, plain: str) -> str:
    """Return the number format of a product from the formats its factors are stored in.

    Args:
        data: stored format of the activations.
        weights: stored format of the weights.
        plain: element type of the activations as the operator sees them.
    """
    if data in QUANTIZED and weights in QUANTIZED:
        return data
    return f"{weights}-weights" if weights in QUANTIZED else plain


def costs_of(graph: Graph) -> tuple[OpCost, ...]:
    """Return a row an operator, in order; operators on constants alone fold into their readers and have none.

    `activation_bytes` of an activation whose shape the file does not tell are 0.
    """
    return _Accounts(graph).rows()


class _Accounts:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.stored: dict[str, str] = {}
        self.constants: dict[str, int] = {
            name: tensor.constant_bytes for name, tensor in graph.tensors.items() if tensor.constant_bytes is not None
        }
        self.producer: dict[str, Operator] = {}
        self.readers: dict[str, list[Operator]] = defaultdict(list)
        self.live: list[Operator] = []
        for operator in graph.operators:
            self._store(operator)
            if operator.inputs and all(name in self.constants for name in operator.inputs):
                folded = sum(self.constants[name] for name in set(operator.inputs))
                self.constants.update(dict.fromkeys(operator.outputs, folded))
                for name in operator.outputs:  # a folded quantizer has its own format already
                    self.stored.setdefault(name, self._stored(operator.inputs[0]))
                continue
            self.live.append(operator)
            self.producer.update(dict.fromkeys(operator.outputs, operator))
            for name in dict.fromkeys(operator.inputs):
                self.readers[name].append(operator)

    def _store(self, operator: Operator) -> None:
        for name in operator.outputs:
            if operator.role in {"dequantize", "move"} and operator.inputs:
                self.stored[name] = self._stored(operator.inputs[0])
            elif operator.role == "join":
                formats = {self._stored(source) for source in operator.inputs if source not in self.constants}
                if len(formats) == 1:
                    self.stored[name] = formats.pop()
            elif operator.role == "quantize":  # FakeQuantize keeps float32 on paper and eight bits in memory
                plain = signless(self.graph.tensors[name].dtype)
                self.stored[name] = plain if plain in QUANTIZED else "int8"

    def _stored(self, name: str) -> str:
        return self.stored.get(name) or signless(self.graph.tensors[name].dtype)

    def _bytes(self, name: str) -> int:
        return -(-self.graph.tensors[name].elements * BITS.get(self._stored(name), 0) // 8)

    def _folds(self, operator: Operator) -> bool:
        """Whether this operator runs inside the kernel that makes its first input."""
        if operator.role not in {"quantize", "epilogue"}:
            return False
        source = next((name for name in operator.inputs if name not in self.constants), "")
        before = self.producer.get(source)
        if before is None or before.role not in {"compute", "epilogue"} or source in self.graph.outputs:
            return False
        readers = self.readers[source]
        return (
            all(reader.role == "quantize" for reader in readers) if operator.role == "quantize" else len(readers) == 1
        )

    def _landing(self, name: str) -> str:
        """Return the tensor that is written when the kernel that makes `name` is done."""
        while (readers := self.readers.get(name)) and self._folds(readers[0]):
            name = readers[0].outputs[0]
        return name

    def _activation_bytes(self, operator: Operator) -> int:
        if self._folds(operator):
            return 0
        if operator.role == "dequantize" and not self.graph.outputs.intersection(operator.outputs):
            return 0
        read = sum(self._bytes(name) for name in dict.fromkeys(operator.inputs) if name not in self.constants)
        if operator.role == "dequantize":
            return read + sum(
                self.graph.tensors[name].elements * BITS.get(self.graph.tensors[name].dtype, 0) // 8
                for name in operator.outputs
            )
        return read + sum(self._bytes(self._landing(name)) for name in operator.outputs)

    def _dtype(self, operator: Operator) -> str:
        product = operator.product
        if product is not None:
            if product.is_integer:
                return "int8"
            plain = signless(self.graph.tensors[product.data].dtype)
            return format_of_product(self._stored(product.data), self._stored(product.weights), plain)
        if not operator.outputs:
            return ""
        result = operator.outputs[0]
        plain = signless(self.graph.tensors[result].dtype)
        if operator.role in {"quantize", "dequantize"}:
            return plain if operator.role == "dequantize" else self._stored(result)
        if self._folds(operator):  # it runs in the format of the kernel that it folds into
            before = self.producer[next(name for name in operator.inputs if name not in self.constants)]
            return self._dtype(before)
        inputs = {self._stored(name) for name in operator.inputs if name not in self.constants}
        return "int8" if inputs == {"int8"} and self._stored(self._landing(result)) == "int8" else plain

    def rows(self) -> tuple[OpCost, ...]:
        return tuple(
            OpCost(
                name=operator.name,
                kind=operator.kind,
                dtype=self._dtype(operator),
                macs=operator.product.macs if operator.product else 0,
                weight_bytes=sum(self.constants.get(name, 0) for name in dict.fromkeys(operator.inputs)),
                activation_bytes=self._activation_bytes(operator),
                is_depthwise=operator.product.is_depthwise if operator.product else False,
                provenance=operator.provenance,
                weight_dtype=self._stored(operator.product.weights) if operator.product else "",
            )
            for operator in self.live
        )
