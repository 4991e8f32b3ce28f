"""Bring a runtime's value into PyTorch's shape: channels last, dropped ones, merged batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

LARGEST_PERMUTED_RANK = 4
CLEARLY = 0.3  # how much better another order's cosine must be than that of the usual order

Order = tuple[int, ...]


class Layouts:
    """Remembers a value's order of dimensions from the first sample on; one runtime's files share it."""

    def __init__(self, *, channels_last: bool) -> None:
        """Expect pictures channels last, or as PyTorch has them."""
        self.channels_last = channels_last
        self.orders: dict[str, Order] = {}

    def fit(self, key: str, array: np.ndarray, like: np.ndarray) -> np.ndarray | None:
        """Return `array` in the shape of `like`, or None where its sizes are others."""
        if not self.channels_last and array.shape == like.shape:
            return array
        source, target = array.squeeze(), like.squeeze()
        order = self.orders.get(key)
        if order is None or len(order) != source.ndim:
            order = self._choose(array, source, target)
            if order is None:
                return None
            self.orders[key] = order
        found = source.transpose(order)
        return found.reshape(like.shape) if found.shape == target.shape else None

    def _choose(self, array: np.ndarray, source: np.ndarray, target: np.ndarray) -> Order | None:
        candidates = [order for order in _orders(source.ndim) if _permuted(source, order) == target.shape]
        if not candidates:
            return None
        usual = tuple(range(source.ndim))
        if self.channels_last and array.ndim > 3 and source.ndim > 1 and array.shape[-1] != 1:
            usual = (source.ndim - 1, *range(source.ndim - 1))
        scores = {order: _cosine(source.transpose(order), target) for order in candidates}
        best = max(candidates, key=lambda order: scores[order])
        return usual if usual in scores and scores[best] < scores[usual] + CLEARLY else best


def _orders(rank: int) -> Iterator[Order]:
    same = tuple(range(rank))
    if rank <= LARGEST_PERMUTED_RANK:
        yield from permutations(same)
    else:
        yield from (same, (rank - 1, *same[:-1]), (*same[:1], rank - 1, *same[1:-1]))


def _permuted(array: np.ndarray, order: Order) -> tuple[int, ...]:
    return tuple(array.shape[place] for place in order)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    first, second = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second) + 1e-30))
