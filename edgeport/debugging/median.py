"""Without PyTorch's network: the float files are each other's reference, value by value their median.

A layer's own error cannot be told then, so a layer behind a wrong one looks wrong as well: only the first counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeport.debugging.layout import Layouts
from edgeport.debugging.study import LayerSums, Sample, Study, compare_outputs

if TYPE_CHECKING:
    from edgeport.debugging.files import ModelFile
    from edgeport.debugging.probe import Observed, Probe


@dataclass(frozen=True)
class InOrder:
    """Layers of which only the order is known: each is taken to read the one before it."""

    keys: tuple[str, ...]

    def layer_key(self, key: str) -> str:
        """Return the key."""
        return key

    def feeds(self, key: str) -> tuple[str, ...]:
        """Return the key before."""
        place = self.keys.index(key)
        return self.keys[max(0, place - 1) : place]

    def outliers(self, key: str) -> float:
        """Return 1: the weights are not known."""
        return 1.0


def known_layers(files: Sequence[ModelFile]) -> tuple[str, ...]:
    """Return the provenance keys that the files know, in execution order."""
    longest = sorted((file.bindings.layers for file in files), key=len, reverse=True)
    return tuple(dict.fromkeys(key for layers in longest for key in layers))


def study_by_median(
    keys: tuple[str, ...], probes: Mapping[ModelFile, Probe], samples: Iterable[Sample]
) -> tuple[InOrder, tuple[Study, ...], str]:
    """Measure all files on all samples against the median of the float files (of all files where none is float).

    Returns:
        The layers' order, what was measured, and the reference in words.
    """
    studies = {file: Study(file=file, spans=probe.spans) for file, probe in probes.items()}
    layouts = {file.runtime: Layouts(channels_last=file.runtime == "tflite") for file in probes}
    judges = [file for file in probes if file.is_float] or list(probes)
    judges.sort(key=lambda file: file.runtime == "tflite")  # the others have PyTorch's layout
    for sample in samples:
        seen = {file: probe.run(sample) for file, probe in probes.items()}
        for key in keys:
            reference = _median(key, [(layouts[file.runtime], seen[file]) for file in judges])
            if reference is None:
                continue
            for file, observed in seen.items():
                if key in observed.values:
                    _add(studies[file], key, reference, layouts[file.runtime].fit(key, observed.values[key], reference))
        for file, observed in seen.items():
            compare_outputs(studies[file], observed)
    count = "the only float file" if len(judges) == 1 else f"the median of {len(judges)} files"
    return InOrder(keys), tuple(studies.values()), f"{count} ({', '.join(file.label for file in judges)})"


def _median(key: str, files: Sequence[tuple[Layouts, Observed]]) -> np.ndarray | None:
    """Return the middle of a value that all files show, element by element; of two files their mean."""
    holders = [(layouts, seen.values[key]) for layouts, seen in files if key in seen.values]
    if len(holders) < len(files):
        return None  # fewer would outvote nobody
    first = holders[0][1]
    fitted = [layouts.fit(key, array, first) for layouts, array in holders]
    median: np.ndarray = np.median([array for array in fitted if array is not None], axis=0)
    return median


def _add(found: Study, key: str, reference: np.ndarray, value: np.ndarray | None) -> None:
    sums = found.layers.setdefault(key, LayerSums())
    array = np.zeros(0) if value is None else value
    for part in (sums.whole, sums.own):
        part.add(reference, array)
