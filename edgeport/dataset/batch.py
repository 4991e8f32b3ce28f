"""What a data set hands out: a batch of inputs and their labels, and the checks that every source shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from edgeport.errors import ConfigError

_INPUT_DTYPES = frozenset({"float32", "int8", "int16", "int32", "int64", "uint8", "bool"})


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some samples.

    Attributes:
        inputs: an array a network input, (n, ...): float32 NCHW for pictures, else the source's own dtype.
        labels: (n,) int64; None when the source has none.
    """

    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray | None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs[0])

    def take(self, rows: slice | np.ndarray) -> Batch:
        """Return those rows: a view for a slice, a copy for row numbers, (m,) int64."""
        labels = None if self.labels is None else self.labels[rows]
        return Batch(inputs=tuple(array[rows] for array in self.inputs), labels=labels)


def join(pieces: list[Batch]) -> Batch:
    """Return the samples of all pieces (at least one) as one batch."""
    if len(pieces) == 1:
        return pieces[0]
    labels = [piece.labels for piece in pieces if piece.labels is not None]
    return Batch(
        inputs=tuple(np.concatenate(arrays) for arrays in zip(*(piece.inputs for piece in pieces), strict=True)),
        labels=np.concatenate(labels) if labels else None,
    )


def rebatch(pieces: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Yield the same samples in batches of `size` (the last may be smaller); holds one batch at a time.

    The pieces' arrays must not change afterwards: a batch may be a view of them.
    """
    pending: list[Batch] = []
    count = 0
    for piece in pieces:
        start = 0
        while start < len(piece):
            stop = min(len(piece), start + size - count)
            pending.append(piece.take(slice(start, stop)))
            count += stop - start
            start = stop
            if count == size:
                yield join(pending)
                pending, count = [], 0
    if pending:
        yield join(pending)


def checked_dtype(dtype: np.dtype, what: str) -> None:
    """Raise ConfigError unless a network can take inputs of that dtype."""
    if dtype.name in _INPUT_DTYPES:
        return
    if dtype.kind in "fc":
        raise ConfigError(f"{what} is {dtype.name}, needs float32")
    raise ConfigError(f"{what} is {dtype.name}; needs float32 (or integers, where the network takes them)")


def checked_finite(rows: np.ndarray, what: str, indices: np.ndarray) -> None:
    """Raise ConfigError naming the first sample with a NaN or an infinity (`indices`: (n,), the samples' numbers)."""
    if rows.dtype.kind != "f" or np.isfinite(rows).all():
        return
    bad = ~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
    raise ConfigError(f"{what}: sample {int(indices[int(np.argmax(bad))])} holds NaN or infinity")


def checked_labels(labels: np.ndarray, count: int, what: str) -> np.ndarray:
    """Return labels as (count,) int64.

    Raises:
        ConfigError: they are not integers, or not one a sample.
    """
    if labels.dtype.kind not in "iu":
        raise ConfigError(f"{what} are {labels.dtype.name}, need integers (class numbers)")
    if labels.shape != (count,):
        raise ConfigError(f"{what} have shape {labels.shape}, need ({count},): one a sample")
    if labels.size and int(labels.max()) > np.iinfo(np.int64).max:
        raise ConfigError(f"{what} hold {int(labels.max())}, too large for a class number")
    return labels.astype(np.int64)


def checked_classes(labels: np.ndarray | None, classes: tuple[str, ...], what: str) -> None:
    """Raise ConfigError unless every label has a name, where there are names at all."""
    if labels is None or not classes:
        return
    bad = (labels < 0) | (labels >= len(classes))
    if bad.any():
        sample = int(np.argmax(bad))
        raise ConfigError(
            f"{what}: sample {sample} has label {int(labels[sample])}, but `classes` names {len(classes)}"
            f" (0..{len(classes) - 1})"
        )
