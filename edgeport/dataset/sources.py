"""Sources of samples with random access: pictures (decoded, cached, normalised) and plain arrays."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeport.dataset.batch import Batch, checked_dtype, checked_finite
from edgeport.dataset.decode import Preprocess
from edgeport.dataset.pictures import Pictures, file_digest
from edgeport.errors import ConfigError

CACHE_BYTES = 512 * 2**20
_CHUNK_BYTES = 32 * 2**20


class Source(Protocol):
    """All samples of one place, numbered from 0."""

    classes: tuple[str, ...]

    @property
    def preprocess(self) -> Preprocess | None:
        """How pictures become inputs; None where the source holds inputs as the network takes them."""

    def __len__(self) -> int:
        """Return how many samples there are."""

    def labels(self) -> np.ndarray | None:
        """Return (n,) int64, or None."""

    def digest(self) -> str:
        """Return a hash of the content and of the settings it is prepared with, hex."""

    def spec(self, index: int) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
        """Return shapes (without batch) and dtypes of the inputs; `index` is a sample that may be looked at."""

    def batches(self, indices: np.ndarray, size: int, *, is_shuffled: bool) -> Iterator[Batch]:
        """Yield the samples of these numbers, in this order; `is_shuffled`: the caller wants any order it says."""

    def sample_digests(self, indices: np.ndarray) -> tuple[bytes, ...]:
        """Return 16 bytes a sample: a hash of its content."""

    def where(self, index: int) -> str:
        """Return what to call a sample in an error."""


class PictureSource:
    """Pictures, prepared as `preprocess` says. Prepared pixels stay in memory where they fit in 512 MB."""

    def __init__(
        self, pictures: Pictures, preprocess: Preprocess, *, labels: np.ndarray | None, classes: tuple[str, ...]
    ) -> None:
        self.classes = classes
        self._pictures, self._preprocess, self._labels = pictures, preprocess, labels
        self._digest: str | None = None
        self._kept: dict[int, np.ndarray] = {}
        self._sample_digests: dict[int, bytes] = {}
        self._first: tuple[int, tuple[int, ...]] | None = None

    @property
    def preprocess(self) -> Preprocess | None:
        """How pictures become inputs."""
        return self._preprocess

    def __len__(self) -> int:
        """Return how many pictures there are."""
        return len(self._pictures)

    def labels(self) -> np.ndarray | None:
        """Return (n,) int64, or None."""
        return self._labels

    def digest(self) -> str:
        """Return a hash of the stored bytes and the settings, hex."""
        if self._digest is None:
            settings = repr((self._preprocess, self.classes))
            self._digest = hashlib.sha256((self._pictures.digest() + settings).encode()).hexdigest()
        return self._digest

    def spec(self, index: int) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
        """Return ((channels, height, width),) and ("float32",); decodes that picture if none has been decoded yet."""
        height, width, channels = self._shape(index)
        return ((channels, height, width),), ("float32",)

    def batches(self, indices: np.ndarray, size: int, *, is_shuffled: bool) -> Iterator[Batch]:
        """Yield (n, channels, height, width) float32 and labels; one batch is held at a time, besides the cache."""
        del is_shuffled
        keep = self._fits(indices)
        for start in range(0, len(indices), size):
            chunk = indices[start : start + size]
            prepared = [self._prepared(index, keep=keep) for index in chunk.tolist()]
            pixels = np.empty((len(prepared), *prepared[0].shape), np.uint8)
            for row, picture in enumerate(prepared):
                pixels[row] = picture
            labels = None if self._labels is None else self._labels[chunk]
            yield Batch(inputs=(self._preprocess.normalise(pixels),), labels=labels)

    def sample_digests(self, indices: np.ndarray) -> tuple[bytes, ...]:
        """Return hashes of the decoded pictures before resizing; the decoded pixels are kept for later passes."""
        keep = self._fits(indices)
        for index in indices.tolist():
            if index not in self._sample_digests:
                self._prepared(index, keep=keep)
        return tuple(self._sample_digests[index] for index in indices.tolist())

    def where(self, index: int) -> str:
        """Return the picture's file name or number."""
        return self._pictures.where(index)

    def _fits(self, indices: np.ndarray) -> bool:
        """Whether these pictures, prepared, go into the cache beside what is there."""
        if not len(indices) or (not self._pictures.is_encoded and self._preprocess.keeps_size):
            return False  # they are plain pixels in a mapped file already
        bytes_each = math.prod(self._shape(int(indices[0])))
        missing = min(len(indices), len(self) - len(self._kept))
        return (missing + len(self._kept)) * bytes_each <= CACHE_BYTES

    def _shape(self, index: int) -> tuple[int, ...]:
        """Return (height, width, channels) of every prepared picture, seen on `index` when none is decoded yet."""
        return self._prepared(index, keep=True).shape if self._first is None else self._first[1]

    def _prepared(self, index: int, *, keep: bool) -> np.ndarray:
        """Return (height, width, channels) uint8 after resizing and cropping, with the content hashed on the way."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        pixels = self._pictures.pixels(index)
        if index not in self._sample_digests:
            self._sample_digests[index] = _picture_digest(pixels)
        prepared = self._preprocess.fit(pixels, self.where(index))
        if self._first is None:
            self._first = (index, prepared.shape)
        elif prepared.shape != self._first[1]:
            (height, width), (first_height, first_width) = prepared.shape[:2], self._first[1][:2]
            raise ConfigError(
                f"{self.where(index)} is {width}x{height} pixels, {self.where(self._first[0])} is"
                f" {first_width}x{first_height}; set resize and crop in a recipe"
            )
        if keep:
            self._kept[index] = prepared
        return prepared


class ArraySource:
    """Arrays as the network takes them, one a network input, usually mapped from an `.npz`."""

    preprocess: Preprocess | None = None

    def __init__(
        self, path: Path, arrays: dict[str, np.ndarray], *, labels: np.ndarray | None, classes: tuple[str, ...]
    ) -> None:
        """Check dtypes and lengths.

        Raises:
            ConfigError: a dtype that no network takes, or inputs of different length.
        """
        self.classes = classes
        for name, array in arrays.items():
            checked_dtype(array.dtype, f"{path.name}: {name}")
            if array.ndim == 0:
                raise ConfigError(f"{path.name}: {name} is a single number, needs (N, ...)")
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) != 1:
            raise ConfigError(f"{path.name}: inputs differ in length: {counts}")
        self._path, self._arrays, self._labels = path, arrays, labels
        self._digest: str | None = None
        self._sample_digests: dict[int, bytes] = {}

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(next(iter(self._arrays.values())))

    def labels(self) -> np.ndarray | None:
        """Return (n,) int64, or None."""
        return self._labels

    def digest(self) -> str:
        """Return a hash of the file and the class names, hex."""
        if self._digest is None:
            self._digest = hashlib.sha256((file_digest(self._path) + repr(self.classes)).encode()).hexdigest()
        return self._digest

    def spec(self, index: int) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
        """Return shapes and dtypes; nothing is read."""
        del index
        arrays = self._arrays.values()
        return tuple(array.shape[1:] for array in arrays), tuple(array.dtype.name for array in arrays)

    def batches(self, indices: np.ndarray, size: int, *, is_shuffled: bool) -> Iterator[Batch]:
        """Yield rows in native byte order; one batch is held at a time.

        Raises:
            ConfigError: a row holds NaN or infinity.
        """
        del is_shuffled
        for start in range(0, len(indices), size):
            chunk = indices[start : start + size]
            labels = None if self._labels is None else self._labels[chunk]
            yield Batch(inputs=tuple(self._rows(name, chunk) for name in self._arrays), labels=labels)

    def sample_digests(self, indices: np.ndarray) -> tuple[bytes, ...]:
        """Return hashes of the rows, dtypes and shapes."""
        missing = np.asarray([index for index in indices.tolist() if index not in self._sample_digests], np.int64)
        row_bytes = sum(array[:1].nbytes for array in self._arrays.values())
        start = 0
        for batch in self.batches(missing, max(1, _CHUNK_BYTES // max(1, row_bytes)), is_shuffled=False):
            chunk = missing[start : start + len(batch)].tolist()
            self._sample_digests.update(zip(chunk, row_digests(batch.inputs), strict=True))
            start += len(batch)
        return tuple(self._sample_digests[index] for index in indices.tolist())

    def where(self, index: int) -> str:
        """Return the file's name and the row's number."""
        return f"row {index} of {self._path.name}"

    def _rows(self, name: str, chunk: np.ndarray) -> np.ndarray:
        array = self._arrays[name]
        rows = np.ascontiguousarray(array[chunk], array.dtype.newbyteorder("="))
        checked_finite(rows, f"{self._path.name}: {name}", chunk)
        return rows


def row_digests(inputs: Sequence[np.ndarray]) -> list[bytes]:
    """Return 16 bytes a row: a hash of the row of every input, with its dtype and shape."""
    rows = [np.ascontiguousarray(array) for array in inputs]
    start = hashlib.blake2b(repr([(array.dtype.name, array.shape[1:]) for array in rows]).encode(), digest_size=16)
    digests = []
    for index in range(len(rows[0])):
        whole = start.copy()
        for array in rows:
            whole.update(array[index].tobytes())
        digests.append(whole.digest())
    return digests


def _picture_digest(pixels: np.ndarray) -> bytes:
    """Hash size and RGB pixels; grey counts as RGB, so that a grey array equals the same picture as a file."""
    height, width, channels = pixels.shape
    rgb = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels
    whole = hashlib.blake2b(f"picture {height}x{width}".encode(), digest_size=16)
    whole.update(np.ascontiguousarray(rgb).data)
    return whole.digest()
