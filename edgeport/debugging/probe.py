"""What looks into a file while its runtime runs it: the same for every runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from edgeport.errors import ConfigError, MissingPackageError

if TYPE_CHECKING:
    from edgeport.debugging.files import ModelFile

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One inference.

    Attributes:
        values: provenance key -> float32 value in the file's own layout, integers turned into what they stand for.
        outputs: the network's outputs, in order, channels first, read while all values were kept.
        as_shipped: the same outputs of the untouched file, with every optimization that the runtime has.
    """

    values: Mapping[str, np.ndarray]
    outputs: tuple[np.ndarray, ...]
    as_shipped: tuple[np.ndarray, ...]


class Probe(Protocol):
    """A loaded file whose inner values can be read.

    Attributes:
        spans: provenance key -> lowest and highest real that the value's integers stand for.
    """

    spans: Mapping[str, tuple[float, float]]

    def run(self, inputs: Arrays) -> Observed:
        """Run one sample: an array a network input, `(1, ...)`, channels first."""
        ...


def open_probe(file: ModelFile, keys: Sequence[str]) -> Probe:
    """Load a file in its runtime.

    Args:
        file: the file.
        keys: the layers to look at.

    Raises:
        ConfigError: it is damaged, or its runtime refuses it.
        MissingPackageError: its runtime is not installed.
    """
    try:
        module = import_module(f"edgeport.debugging.{file.runtime}")
        return cast(Probe, module.open_probe(file, keys))
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"package '{error.name}' is not installed: pip install 'edgeport[{file.runtime}]'"
        ) from error
    except (RuntimeError, ValueError, IndexError, KeyError) as error:
        raise ConfigError(f"{file.runtime} refuses '{file.name}': {str(error).splitlines()[0]}") from error


def check_runs(file: ModelFile, probe: Probe, sample: Arrays) -> None:
    """Run one sample.

    Raises:
        ConfigError: the file loads but fails, because its sizes do not fit each other, say.
    """
    try:
        probe.run(sample)
    except Exception as error:  # vendor's edge: three runtimes, no common class of errors
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(f"{file.runtime} cannot run '{file.name}': {reason}") from error


def channels_first(array: np.ndarray, *, moved: bool) -> np.ndarray:
    """Return an output in PyTorch's layout."""
    return np.moveaxis(array, -1, 1) if moved and array.ndim > 2 else array


def dequantized(array: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """Return the reals that integers stand for, float32."""
    found: np.ndarray = ((array.astype(np.float64) - zero_point) * scale).astype(np.float32)
    return found


def span(dtype: np.dtype, scale: float, zero_point: int) -> tuple[float, float]:
    """Return the lowest and highest real that an integer type stands for."""
    ends = np.iinfo(dtype)
    return float((ends.min - zero_point) * scale), float((ends.max - zero_point) * scale)
