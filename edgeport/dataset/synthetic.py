"""Seeded random samples for builds without data: they show errors of conversion, and nothing about accuracy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from edgeport.dataset.batch import Batch
from edgeport.dataset.sources import row_digests

VERSION = 1  # in the digest; goes up when the same seed gives other numbers


class Form(Protocol):
    """One network input: what its random values are like."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes without the batch."""

    @property
    def dtype(self) -> str:
        """Numpy's name of the element type."""

    @property
    def mean(self) -> float:
        """Mean of float values."""

    @property
    def std(self) -> float:
        """Standard deviation of float values."""

    @property
    def below(self) -> int:
        """Integers are drawn from 0 to this, exclusive."""


class RandomSource:
    """Normal floats, and integers from 0; every sample has a generator of its own, so any order gives the same."""

    classes: tuple[str, ...] = ()

    def __init__(self, forms: Sequence[Form], count: int, seed: int) -> None:
        """Set up; nothing is drawn yet."""
        self._forms, self._count, self._seed = tuple(forms), count, seed

    @property
    def preprocess(self) -> None:
        """None: these are inputs as the network takes them."""
        return

    def __len__(self) -> int:
        """Return how many samples there are."""
        return self._count

    def labels(self) -> None:
        """Return None."""
        return

    def digest(self) -> str:
        """Return a hash of what decides the samples, hex."""
        rows = [(list(form.shape), form.dtype, form.mean, form.std, form.below) for form in self._forms]
        said = repr(("random", VERSION, rows, self._count, self._seed))
        return hashlib.sha256(said.encode()).hexdigest()

    def spec(self, index: int) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
        """Return shapes and dtypes."""
        del index
        return tuple(form.shape for form in self._forms), tuple(form.dtype for form in self._forms)

    def batches(self, indices: np.ndarray, size: int, *, is_shuffled: bool) -> Iterator[Batch]:
        """Yield the samples of these numbers; one batch is held at a time."""
        del is_shuffled
        for start in range(0, len(indices), size):
            rows = [self._sample(index) for index in indices[start : start + size].tolist()]
            yield Batch(inputs=tuple(np.stack(column) for column in zip(*rows, strict=True)), labels=None)

    def sample_digests(self, indices: np.ndarray) -> tuple[bytes, ...]:
        """Return 16 bytes a sample: a hash of its content."""
        return tuple(row for batch in self.batches(indices, 1, is_shuffled=False) for row in row_digests(batch.inputs))

    def where(self, index: int) -> str:
        """Return the sample's number."""
        return f"random sample {index}"

    def _sample(self, index: int) -> list[np.ndarray]:
        chance = np.random.default_rng([self._seed, index])
        return [
            (form.mean + form.std * chance.standard_normal(form.shape)).astype(np.float32)
            if form.dtype == "float32"
            else chance.integers(0, form.below, form.shape).astype(form.dtype)
            for form in self._forms
        ]
