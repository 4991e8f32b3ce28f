"""Channel labels: which positions of which tensors are one and the same channel.

Every tensor dimension that carries channels has an axis: an integer array with one label a position. Ties between
labels are collected as pairs and solved once, all arrays, at the end: classes of tied labels stand or fall together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Axis = Indices | None  # None: a dimension that never changes (batch, height, width, anything not followed)
Axes = tuple[Axis, ...]

NOT_PINNED = -1


class Labels:
    """Hands out labels, collects ties and pins, and solves them."""

    def __init__(self) -> None:
        self.count = 0
        self.reasons: list[str] = []
        self._ties: list[tuple[Indices, Indices]] = []
        self._pins: list[tuple[Indices, int]] = []

    def fresh(self, size: int) -> Indices:
        """Return `size` labels that nothing is tied to yet."""
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64)

    def tie(self, first: Axis, second: Axis, why: str) -> Axis:
        """Make two axes of equal length the same channels, position by position.

        A dimension without labels never changes, so it pins the other one, and `why` says so; the two together have
        no labels either.
        """
        if first is None or second is None:
            self.pin(second if first is None else first, why)
            return None
        if first.shape != second.shape:
            raise ValueError(f"cannot tie {first.shape[0]} channels to {second.shape[0]}")
        if first is not second:
            self._ties.append((first, second))
        return first

    def pin(self, axis: Axis, why: str) -> None:
        """Say that these channels must stay, and why."""
        if axis is not None:
            self._pins.append((axis, len(self.reasons)))
            self.reasons.append(why)

    def classes(self) -> Indices:
        """Return for every label the smallest label that it is tied to, directly or not."""
        parent = np.arange(self.count, dtype=np.int64)
        if not self._ties:
            return parent
        first = np.concatenate([pair[0] for pair in self._ties])
        second = np.concatenate([pair[1] for pair in self._ties])
        while True:  # hook every root onto the smallest neighbouring root, flatten, repeat: few rounds in practice
            one, other = parent[first], parent[second]
            differ = one != other
            if not differ.any():
                return parent
            np.minimum.at(parent, np.maximum(one, other)[differ], np.minimum(one, other)[differ])
            while (parent[parent] != parent).any():
                parent = parent[parent]

    def pinned(self, classes: Indices) -> Indices:
        """Return for every label the index of the first reason that pins its class, or `NOT_PINNED`."""
        never = len(self.reasons)
        earliest = np.full(self.count, never, dtype=np.int64)
        for axis, index in self._pins:
            np.minimum.at(earliest, classes[axis], index)
        result = earliest[classes]
        result[result == never] = NOT_PINNED
        return result
