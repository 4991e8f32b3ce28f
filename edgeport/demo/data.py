"""The data of the embedded default: scikit-learn's 1,797 handwritten digits, in three disjoint parts.

The images are E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998,
doi:10.24432/C50P49, as scikit-learn ships them. A part is a slice of the images in the order of their SHA-256, so the
parts are fixed and cannot share an image. Who wrote an image is not known: writers occur in every part, so the accuracy
is that for known handwritings.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeport.errors import MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Part = Literal["train", "calibrate", "evaluate"]

CLASSES = tuple("0123456789")
PARTS: dict[Part, slice] = {"train": slice(0, 1097), "calibrate": slice(1097, 1297), "evaluate": slice(1297, 1797)}
_BATCH = 100
_MAX_PIXEL = np.float32(16)  # a pixel counts the black dots of a 4x4 field (UCI, optdigits.names)


def train() -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Yield the 1,097 training samples as batches `(images (n, 1, 8, 8), labels (n,))`; see `split`."""
    return _batches("train")


def calibrate() -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Yield the 200 calibration samples as batches `(images (n, 1, 8, 8), labels (n,))`; see `split`."""
    return _batches("calibrate")


def evaluate() -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Yield the 500 evaluation samples as batches `(images (n, 1, 8, 8), labels (n,))`; see `split`."""
    return _batches("evaluate")


def split(part: Part) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return one part of the data.

    Returns:
        Images (n, 1, 8, 8), float32 in 0..1, and labels (n,), int64 in 0..9.

    Raises:
        MissingPackageError: scikit-learn, which carries the images, is not installed.
    """
    images, labels = _digits()
    return images[PARTS[part]].copy(), labels[PARTS[part]].copy()


def _batches(part: Part) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    images, labels = split(part)
    for start in range(0, len(images), _BATCH):
        yield images[start : start + _BATCH], labels[start : start + _BATCH]


@cache
def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read all images, each once, in the order of their hashes.

    The file is read without importing scikit-learn: that costs 1.3 CPU seconds, reading it 0.1.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise MissingPackageError("the demo's data needs scikit-learn: pip install 'edgeport[demo]'")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise MissingPackageError(
            "scikit-learn is installed without its digits (datasets/data/digits.csv.gz): "
            "pip install --force-reinstall 'edgeport[demo]'"
        )
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # (1797, 65): 64 pixels of 0..16 and the label
    by_hash = {hashlib.sha256(row[:64].tobytes()).digest(): row for row in table}
    rows = np.stack([by_hash[key] for key in sorted(by_hash)])
    images = rows[:, :64].reshape(-1, 1, 8, 8).astype(np.float32) / _MAX_PIXEL
    return images, rows[:, 64].astype(np.int64)
