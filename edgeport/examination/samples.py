"""Some samples of a data set, whole in memory, and which of a network's inputs are pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgeport.dataset import Batch, Dataset
    from edgeport.dataset.decode import Preprocess

SMALLEST_SIDE = 8  # pixels; what is smaller is not looked at as a picture
CHANNELS = (1, 3)
FEWEST_VALUES = 16  # of a sample; an input with fewer (a length, a flag) may well be constant
BATCH_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples to look at.

    Attributes:
        name: of the data set.
        inputs: an array a network input, `(n, ...)`.
        labels: `(n,)` int64; None when there are none.
        preprocess: how pictures became inputs; None where the source holds inputs as the network takes them.
    """

    name: str
    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray | None
    preprocess: Preprocess | None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs[0])

    def with_input(self, index: int, values: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return all inputs, with `values` in place of one of them."""
        return (*self.inputs[:index], values, *self.inputs[index + 1 :])


def spread(total: int, count: int) -> np.ndarray:
    """Return at most `count` sample numbers, `(n,)` int64, evenly spread over `total`: folders are sorted by class."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).round().astype(np.int64))


def take(data: Dataset, count: int) -> Samples:
    """Return at most `count` samples, evenly spread over the data set."""
    chosen = data.subset(spread(len(data), count).tolist())
    batches = list(chosen.batches(batch_length(data)))
    return Samples(
        name=data.name,
        inputs=tuple(np.concatenate(arrays) for arrays in zip(*(batch.inputs for batch in batches), strict=True)),
        labels=_labels(batches),
        preprocess=data.preprocess,
    )


def batch_length(data: Dataset) -> int:
    """Return how many samples of a data set may be held at once."""
    values = max(int(np.prod(shape)) for shape in data.shapes)
    return max(1, BATCH_BYTES // (4 * max(1, values)))


def is_picture(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether a sample of this shape (without batch) can be a picture with channels first."""
    return (
        dtype in {"float32", "uint8"} and len(shape) == 3 and shape[0] in CHANNELS and min(shape[1:]) >= SMALLEST_SIDE
    )


def main_input(shapes: tuple[tuple[int, ...], ...], dtypes: tuple[str, ...]) -> int | None:
    """Return the number of the input whose values are examined: the largest of floating point; None without one."""
    sizes = [int(np.prod(shape)) if dtype == "float32" else 0 for shape, dtype in zip(shapes, dtypes, strict=True)]
    largest = int(np.argmax(sizes))
    return largest if sizes[largest] >= FEWEST_VALUES else None


def _labels(batches: list[Batch]) -> np.ndarray | None:
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return np.concatenate(labels) if labels else None
