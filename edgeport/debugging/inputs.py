"""Which samples a comparison runs on, and a sentence that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeport.dataset import Dataset, open_dataset
from edgeport.errors import ConfigError
from edgeport.formats import reader_of
from edgeport.stages.data import open_place
from edgeport.store import Store, default_root

if TYPE_CHECKING:
    from edgeport.debugging.files import Facts, ModelFile

Sample = tuple[np.ndarray, ...]
Spans = Mapping[str, tuple[float, float]]
SPREAD = 6.0  # standard deviations from end to end of a random input's range


def choose_samples(
    facts: Facts, files: Sequence[ModelFile], spans: Callable[[], Spans], *, data: str | None, count: int
) -> tuple[tuple[Sample, ...], str]:
    """Return samples as batches of one, and what they are.

    Args:
        facts: the build's manifest.
        files: the build's files.
        spans: gives key of an input (`/x`) -> its calibrated range; called for random samples.
        data: what the user named; None: the build's evaluation samples where they are still known, else random ones.
        count: how many.

    Raises:
        ConfigError: the data cannot be read, or does not fit the files.
    """
    shapes, dtypes = _interface(files[0])
    if data is not None:
        chosen = open_dataset(data)
        if (chosen.shapes, chosen.dtypes) != (shapes, dtypes):
            raise ConfigError(
                f"--data has samples of {_form(chosen.shapes, chosen.dtypes)}, the files take {_form(shapes, dtypes)}"
            )
        return _first(chosen, count)
    known = facts.data.get("evaluate")
    why = "the build's evaluation data is not known on this machine"
    if known is not None:
        try:
            found = open_place(Store(default_root()), known.digest)
            if found is not None and (found.shapes, found.dtypes) == (shapes, dtypes):
                return _first(found, count)
        except ConfigError as error:
            why = f"the build's evaluation data cannot be opened ({error})"
    return (
        _random(files[0], spans(), shapes, dtypes, count=count, seed=facts.seed),
        f"{count} RANDOM samples: {why}; give --data DATA for figures that mean something for your network",
    )


def _first(samples: Dataset, count: int) -> tuple[tuple[Sample, ...], str]:
    count = min(count, len(samples))
    spread = samples.subset([index * len(samples) // count for index in range(count)])
    found = tuple(tuple(np.array(array) for array in batch.inputs) for batch in spread.batches(1))
    return found, f"{count} samples of {samples.name}, evenly spread"


def _interface(file: ModelFile) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """Return shape (without batch, channels first) and dtype of each network input."""
    infos = {info.name: info for info in reader_of(file.path).read_interface(file.path).inputs}
    shapes, dtypes = [], []
    for binding in file.bindings.inputs:
        if binding.tensor not in infos:
            raise ConfigError(f"'{file.name}' has no input '{binding.tensor}'; it has {', '.join(infos)}")
        sizes = tuple(infos[binding.tensor].shape[1:])
        shapes.append((sizes[-1], *sizes[:-1]) if binding.channels_last else sizes)
        dtypes.append("float32" if infos[binding.tensor].quantization else infos[binding.tensor].dtype)
    return tuple(shapes), tuple(dtypes)


def _random(  # noqa: PLR0913  # keyword-only past the fourth
    file: ModelFile,
    spans: Spans,
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[str],
    *,
    count: int,
    seed: int,
) -> tuple[Sample, ...]:
    rng = np.random.default_rng(seed)

    def one(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if np.dtype(dtype).kind != "f":
            return rng.integers(0, 2, (1, *shape)).astype(dtype)
        low, high = spans.get(f"/{name}", (-SPREAD / 2, SPREAD / 2))
        values = rng.standard_normal((1, *shape)) * (high - low) / SPREAD + (high + low) / 2
        return np.clip(values, low, high).astype(dtype)

    names = [binding.name for binding in file.bindings.inputs]
    return tuple(
        tuple(one(name, shape, dtype) for name, shape, dtype in zip(names, shapes, dtypes, strict=True))
        for _ in range(count)
    )


def _form(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> str:
    return " and ".join(
        f"{'x'.join(map(str, shape)) or 'scalar'} {dtype}" for shape, dtype in zip(shapes, dtypes, strict=True)
    )
