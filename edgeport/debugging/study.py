"""Run every file of a build on the same samples and measure each layer's error, in whole and of its own making.

A layer's value differs from PyTorch's for two reasons: what it read was already off, and what it computes itself. The
second is measured by letting PyTorch compute that layer from what the *file's* layer read. So a layer behind a wrong
one is not blamed. What an error does to the layers that read it is measured too: rounding that is small for a tensor
as a whole may be all that is left of its small channels, and the next layer's weights bring that to light.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from edgeport.debugging.layout import Layouts
from edgeport.debugging.measure import Sums
from edgeport.debugging.probe import Observed, Probe

if TYPE_CHECKING:
    from edgeport.debugging.files import ModelFile
    from edgeport.debugging.network import Network, Values

Sample = Sequence[np.ndarray]


class Layers(Protocol):
    """The order of a network's layers, and what they read."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Provenance keys in execution order."""
        ...

    def layer_key(self, key: str) -> str:
        """Return how a layer is called for people."""
        ...

    def feeds(self, key: str) -> tuple[str, ...]:
        """Return the keys of the values that a layer reads."""
        ...

    def outliers(self, key: str) -> float:
        """Return how many times larger a layer's largest channel of weights is than its median one."""
        ...


@dataclass
class LayerSums:
    """Errors of one layer in one file.

    Attributes:
        whole: the file's value against PyTorch's.
        own: the file's value against what PyTorch makes of the layer's inputs in the file.
        arriving: what PyTorch makes of those inputs against PyTorch's value: the error that came in.
        ranged: what rounding to the file's integers makes of PyTorch's value of the same inputs, against that value.
        effects: reader's key -> PyTorch's value there, disturbed by this layer's own error alone.
        shape: the file's shape where it is another than PyTorch's.
    """

    whole: Sums = field(default_factory=Sums)
    own: Sums = field(default_factory=Sums)
    arriving: Sums = field(default_factory=Sums)
    ranged: Sums = field(default_factory=Sums)
    effects: dict[str, Sums] = field(default_factory=lambda: defaultdict(Sums))
    shape: tuple[int, ...] | None = None

    @property
    def own_db(self) -> float:
        """SQNR of the layer's own error, at its output or at the layers that read it, whichever is worse."""
        return min([self.own.sqnr_db, *(sums.sqnr_db for sums in self.effects.values())])


@dataclass(kw_only=True)
class Study:
    """What was measured of one file.

    Attributes:
        file: the file.
        spans: provenance key -> lowest and highest real of the value's integers.
        layers: provenance key -> errors, in execution order.
        kept: the outputs with all values kept against the outputs of the file as it ships.
    """

    file: ModelFile
    spans: Mapping[str, tuple[float, float]]
    layers: dict[str, LayerSums] = field(default_factory=dict)
    kept: Sums = field(default_factory=Sums)


def study(network: Network, probes: Mapping[ModelFile, Probe], samples: Iterable[Sample]) -> tuple[Study, ...]:
    """Measure all files on all samples."""
    studies = {file: Study(file=file, spans=probe.spans) for file, probe in probes.items()}
    layouts = {file.runtime: Layouts(channels_last=file.runtime == "tflite") for file in probes}
    for sample in samples:
        clean = network.values(sample)
        for file, probe in probes.items():
            seen = probe.run(sample)
            compare_outputs(studies[file], seen)
            _add_sample(studies[file], network, clean, _Fitted(network, seen, layouts[file.runtime], sample))
    for found in studies.values():
        found.layers = {key: found.layers[key] for key in network.keys if key in found.layers}
    return tuple(studies.values())


def compare_outputs(found: Study, seen: Observed) -> None:
    """Compare the outputs of the untouched file with those beside the inner values."""
    for kept, shipped in zip(seen.outputs, seen.as_shipped, strict=True):
        found.kept.add(np.asarray(shipped), np.asarray(kept))


class _Fitted:
    """One file's values of one sample in PyTorch's shapes, and what PyTorch computes from them, layer by layer."""

    def __init__(self, network: Network, seen: Observed, layouts: Layouts, sample: Sample) -> None:
        self.values: dict[str, torch.Tensor] = {}
        self.own: dict[str, torch.Tensor] = {}
        self.misshapen: dict[str, tuple[int, ...]] = {}

        def substitute(name: str, own: torch.Tensor) -> torch.Tensor | None:
            key = network.key_of.get(name)
            if key is None or key not in seen.values:
                return None
            self.own[key] = own
            fitted = layouts.fit(key, seen.values[key], own.numpy())
            if fitted is None:
                self.misshapen[key] = seen.values[key].shape
                return None
            self.values[key] = torch.from_numpy(np.ascontiguousarray(fitted, np.float32))
            return self.values[key]

        network.replay(sample, substitute)


def _add_sample(found: Study, network: Network, clean: Values, fitted: _Fitted) -> None:
    visible = frozenset(network.by_key[key].name for key in fitted.own)
    for key, own in fitted.own.items():
        sums = found.layers.setdefault(key, LayerSums())
        name = network.by_key[key].name
        reference = clean[name]
        value = fitted.values.get(key)
        sums.arriving.add(reference.numpy(), own.numpy())
        if value is None:
            sums.shape = fitted.misshapen[key]
            for part in (sums.whole, sums.own):
                part.add(reference.numpy(), np.zeros(0))
            continue
        sums.whole.add(reference.numpy(), value.numpy())
        sums.own.add(own.numpy(), value.numpy())
        if key in found.spans:
            sums.ranged.add(own.numpy(), _rounded(own.numpy(), found.spans[key]))
        if not found.file.is_float and value.shape == reference.shape:
            disturbed = network.effects(name, reference + (value - own), clean, visible)
            for reader, result in disturbed.items():
                sums.effects[network.key_of[reader]].add(clean[reader].numpy(), result.numpy())


def _rounded(values: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """Return values cut off at the ends of a range and rounded to its 256 steps."""
    low, high = span
    step = max((high - low) / 255, 1e-30)
    rounded: np.ndarray = low + np.rint((np.clip(values, low, high) - low) / step) * step
    return rounded
