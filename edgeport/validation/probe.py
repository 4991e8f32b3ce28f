"""Inputs for a finished file: samples of a data set, or random numbers where there are none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeport.devices.agent import read_io
from edgeport.formats import TensorInfo, reader_of
from edgeport.validation.exact import input_ranges

if TYPE_CHECKING:
    from edgeport.dataset import Dataset

_BATCH = 32


def sample_inputs(samples: Dataset, count: int, folder: Path) -> tuple[Path, ...]:
    """Write `count` samples, evenly spaced over the data, and return an .npy file a network input.

    Raises:
        ConfigError: a sample cannot be decoded.
    """
    rows = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    parts = [batch.inputs for batch in samples.subset([int(row) for row in rows]).batches(_BATCH)]
    return _written([np.concatenate(column) for column in zip(*parts, strict=True)], folder)


def random_inputs(path: Path, count: int, folder: Path, *, seed: int = 0) -> tuple[Path, ...]:
    """Write `count` random samples for a file and return an .npy file a network input, in `io.json`'s order.

    Floats are uniform over the range that the file quantizes the input from, or standard normal where it does not say.
    Integers are 0, which token ids and the like always allow.
    """
    tensors = {tensor.name: tensor for tensor in reader_of(path).read_interface(path).inputs}
    entries = read_io(path.with_name("io.json"), required=False).get("inputs") or [
        {"name": name, "tensor": name} for name in tensors
    ]
    ranges = input_ranges(path)
    random = np.random.default_rng(seed)
    return _written([_random(entry, tensors, ranges, count, random) for entry in entries], folder)


def _random(
    entry: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    ranges: Mapping[str, tuple[float, float]],
    count: int,
    random: np.random.Generator,
) -> NDArray[Any]:
    tensor = tensors[entry["tensor"]]
    shape = [max(1, size) for size in tensor.shape[1:]]
    if entry.get("channels_last") and len(shape) > 1:
        shape = [shape[-1], *shape[:-1]]
    dtype = np.dtype(tensor.dtype)
    if dtype.kind != "f" and tensor.quantization is None:
        return np.zeros((count, *shape), dtype)
    found = ranges.get(tensor.name)
    values = random.standard_normal((count, *shape)) if found is None else random.uniform(*found, (count, *shape))
    return values.astype(np.float32)


def _written(arrays: list[NDArray[Any]], folder: Path) -> tuple[Path, ...]:
    paths = tuple(folder / f"in{index}.npy" for index in range(len(arrays)))
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, np.ascontiguousarray(array))
    return paths
