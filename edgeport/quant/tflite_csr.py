"""The sparse form of a TFLite constant: its last dimension compressed (CSR), all others dense.

Layout: `SparsityParameters` in TensorFlow's `tensorflow/compiler/mlir/lite/schema/schema.fbs`. A row is all values
along the last dimension; `segments[r]` to `segments[r + 1]` are the places of row r's values among `indices` and
`values`. Nothing but zeros is left out, so the round trip is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

VECTORS = (("Uint8Vector", np.uint8), ("Uint16Vector", np.uint16), ("Int32Vector", np.int32))  # narrowest first


@dataclass(frozen=True, kw_only=True)
class Csr:
    """A tensor without its zeros.

    Attributes:
        shape: of the dense tensor, `(rows..., columns)`.
        segments: `(rows + 1,)`, uint8, uint16 or int32: the narrowest that holds them.
        indices: `(nonzero,)`, of the same types: the column of each value.
        values: `(nonzero,)`, float32.
    """

    shape: tuple[int, ...]
    segments: NDArray[Any]
    indices: NDArray[Any]
    values: NDArray[np.float32]

    @property
    def size_bytes(self) -> int:
        """Bytes of values, indices and segments."""
        return self.segments.nbytes + self.indices.nbytes + self.values.nbytes


def compress(dense: NDArray[np.float32]) -> Csr:
    """Return a tensor of one or more dimensions without its zeros; NaN is kept."""
    rows = dense.reshape(-1, dense.shape[-1])
    places = np.nonzero(rows)
    segments = np.concatenate([[0], np.cumsum(np.count_nonzero(rows, axis=1))])
    return Csr(
        shape=dense.shape,
        segments=segments.astype(_narrowest(int(segments[-1]))),
        indices=places[1].astype(_narrowest(dense.shape[-1] - 1)),
        values=rows[places],
    )


def expand(sparse: Csr) -> NDArray[np.float32]:
    """Return the dense tensor, `shape`, float32."""
    columns = sparse.shape[-1]
    dense = np.zeros((math.prod(sparse.shape[:-1]), columns), np.float32)
    ends = sparse.segments.astype(np.int64)
    row_of = np.repeat(np.arange(len(dense)), ends[1:] - ends[:-1])
    dense[row_of, sparse.indices] = sparse.values
    return dense.reshape(sparse.shape)


def to_parameters(sparse: Csr) -> Any:
    """Return the schema's `SparsityParametersT`; the values belong into the tensor's buffer."""
    from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]  # ships no types

    found = schema.SparsityParametersT()
    found.traversalOrder = np.arange(len(sparse.shape), dtype=np.int32)
    found.dimMetadata = []
    for size in sparse.shape[:-1]:
        dense = schema.DimensionMetadataT()
        dense.format, dense.denseSize = schema.DimensionType.DENSE, size
        found.dimMetadata.append(dense)
    last = schema.DimensionMetadataT()
    last.format = schema.DimensionType.SPARSE_CSR
    last.arraySegmentsType, last.arraySegments = _vector(sparse.segments)
    last.arrayIndicesType, last.arrayIndices = _vector(sparse.indices)
    found.dimMetadata.append(last)
    return found


def from_parameters(parameters: Any, shape: Sequence[int], values: NDArray[np.float32]) -> Csr | None:
    """Return what `to_parameters` wrote; None for any other sparse form (blocks, other orders or dimensions).

    Args:
        parameters: the schema's `SparsityParametersT`.
        shape: of the dense tensor.
        values: `(nonzero,)`, float32: the tensor's buffer.
    """
    from ai_edge_litert import schema_py_generated as schema

    dimensions = parameters.dimMetadata or []
    order = parameters.traversalOrder
    is_plain = order is not None and list(order) == list(range(len(shape))) and len(dimensions) == len(shape)
    formats = [dimension.format for dimension in dimensions]
    csr = [schema.DimensionType.DENSE] * (len(shape) - 1) + [schema.DimensionType.SPARSE_CSR]
    if not is_plain or formats != csr:
        return None
    last = dimensions[-1]
    return Csr(
        shape=tuple(shape),
        segments=np.asarray(last.arraySegments.values),
        indices=np.asarray(last.arrayIndices.values),
        values=values,
    )


def _narrowest(largest: int) -> type[np.generic]:
    return next((dtype for _, dtype in VECTORS if largest <= np.iinfo(dtype).max), np.int32)


def _vector(values: NDArray[Any]) -> tuple[int, Any]:
    """Return the number of the schema's vector type, and such a vector."""
    from ai_edge_litert import schema_py_generated as schema

    name = next(name for name, dtype in VECTORS if values.dtype == dtype)
    found = getattr(schema, f"{name}T")()
    found.values = values
    return int(getattr(schema.SparseIndexVector, name)), found
