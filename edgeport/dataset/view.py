"""A data set as the rest of edgeport sees it: a view of some samples of a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from edgeport.dataset.batch import Batch
from edgeport.dataset.decode import Preprocess
from edgeport.dataset.sources import Source
from edgeport.errors import ConfigError


class Dataset:
    """Samples in a fixed order. Lazy: a picture is decoded when it is needed.

    Attributes:
        name: what the user typed, shortened to the last path component.
    """

    def __init__(
        self, *, name: str, source: Source, indices: np.ndarray | None = None, parent: Dataset | None = None
    ) -> None:
        """Make a view of `source`; `indices`: (n,) int64 sample numbers, or None for all of them."""
        self.name = name
        self._source, self._chosen, self._parent = source, indices, parent
        self._position: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._source) if self._chosen is None else len(self._chosen)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r})"

    @cached_property
    def digest(self) -> str:
        """Hash of the source's content, the recipe's settings and the choice of samples, hex. Decodes nothing."""
        if self._parent is None or self._position is None:
            return self._source.digest()
        return hashlib.sha256(bytes.fromhex(self._parent.digest) + self._position.astype("<i8").tobytes()).hexdigest()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names from the recipe, the class folders or the archive; may be empty."""
        return self._source.classes

    @property
    def preprocess(self) -> Preprocess | None:
        """How pictures become inputs; None where the source holds inputs as the network takes them."""
        return self._source.preprocess

    @property
    def has_labels(self) -> bool:
        """Whether samples have labels."""
        return self._source.labels() is not None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one sample a network input, without batch. Decodes the first picture."""
        return self._spec[0]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Numpy dtype name a network input."""
        return self._spec[1]

    def labels(self) -> np.ndarray | None:
        """Return all labels, (n,) int64, or None. Decodes nothing."""
        labels = self._source.labels()
        return None if labels is None else labels[self._indices]

    def batches(self, size: int, *, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of `size` samples (the last may be smaller); memory does not grow with the number of batches.

        Args:
            size: samples a batch.
            order: numbers of the samples to yield, 0..len-1; may repeat. For training: a callable's pass with an order
                may be augmented, one without must repeat its first pass.

        Raises:
            ConfigError: a sample is damaged or differs in size.
            IndexError: `order` names a sample that does not exist.
        """
        if size < 1:
            raise ValueError(f"size is {size}, must be at least 1")
        indices = self._indices if order is None else self._indices[np.asarray(order, np.int64)]
        return self._source.batches(indices, size, is_shuffled=order is not None)

    def subset(self, indices: slice | Sequence[int]) -> Dataset:
        """Return a view of some samples, which shares what is decoded already.

        Raises:
            IndexError: a number out of range.
            ValueError: no samples are left.
        """
        everything = np.arange(len(self))
        position = everything[indices if isinstance(indices, slice) else np.asarray(indices, np.int64)]
        if not len(position):
            raise ValueError(f"subset of {self.name} is empty")
        if np.array_equal(position, everything):
            return self
        chosen = Dataset(name=self.name, source=self._source, indices=self._indices[position], parent=self)
        chosen._position = position
        return chosen

    def evenly(self, count: int) -> Dataset:
        """Return a view of at most `count` samples, evenly spread: also of samples sorted by class some of each."""
        return self.subset(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64).tolist())

    def sample_digests(self) -> tuple[bytes, ...]:
        """Return 16 bytes a sample: a hash of the decoded picture before resizing, or of the input rows.

        Equal pictures have equal hashes however they are stored. Decodes every picture, once.
        """
        return self._source.sample_digests(self._indices)

    def where(self, index: int) -> str:
        """Return what to call a sample in an error; `index`: 0..len-1."""
        return self._source.where(int(self._indices[index]))

    def check_labels(self, classes: int) -> None:
        """Raise ConfigError naming the first sample whose label is not in 0..classes-1."""
        labels = self.labels()
        if labels is None:
            return
        bad = (labels < 0) | (labels >= classes)
        if bad.any():
            first = int(np.argmax(bad))
            raise ConfigError(
                f"{self.name}: sample {first} ({self.where(first)}) has label"
                f" {int(labels[first])}, the network has {classes} classes (0..{classes - 1})"
            )

    @cached_property
    def _indices(self) -> np.ndarray:
        return np.arange(len(self._source)) if self._chosen is None else self._chosen

    @cached_property
    def _spec(self) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
        return self._source.spec(int(self._indices[0]))


def check_overlap(first: Dataset, second: Dataset, *, names: tuple[str, str]) -> None:
    """Make sure that no sample is in both data sets, by content.

    Args:
        first: one data set.
        second: the other.
        names: what the user calls them, e.g. `("--calibrate", "--evaluate")`.

    Raises:
        ConfigError: some are; the message counts the samples of `second` that are in `first`.
    """
    positions: dict[bytes, int] = {}
    for position, digest in enumerate(first.sample_digests()):
        positions.setdefault(digest, position)
    shared = [(positions[digest], i) for i, digest in enumerate(second.sample_digests()) if digest in positions]
    if shared:
        count = "1 sample is" if len(shared) == 1 else f"{len(shared)} samples are"
        raise ConfigError(
            f"{count} in both {names[0]} and {names[1]} (first: sample {shared[0][0]} = sample {shared[0][1]});"
            " they must not share any"
        )
