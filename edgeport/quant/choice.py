"""Choose each activation's range by the error that it causes at the network's outputs.

Candidates are the ranges of all estimators. First-order errors of each (`edgeport.quant.downstream`) are taken on a few
calibration samples. Half of them are the ones that hold the extremes: clipping happens there, and in a random few it
would be missed. Rounding errors come out within a few percent; the cost of clipping hangs on rare samples and is mostly
underestimated. So it counts several times, and the network as a whole is run on samples that the ranges were not made
of: with these choices, with min-max and with mean-squared error everywhere. What has the least output error is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeport.quant.affine import Affine, asymmetric
from edgeport.quant.calibration import Choice
from edgeport.quant.downstream import SMALLEST_RMS, Downstream
from edgeport.quant.observer import outermost_samples
from edgeport.quant.ranges import ESTIMATORS, Estimator, squared_error
from edgeport.quant.simulate import fake_quantize, rounded_activations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.fx import GraphModule

    from edgeport.dataset import Dataset
    from edgeport.graph.execute import Executor
    from edgeport.quant.observer import Observer, Statistics
    from edgeport.quant.ranges import Range

OUTER_SAMPLES = 8  # that hold extremes; their gradients are taken
EVEN_SAMPLES = 8  # evenly spaced among the others
HELD_OUT_SAMPLES = 16  # on which the variants are compared
CLEAR_WIN = 0.9  # of min-max's error: a narrower range must do better than this
CAUTION = 8.0  # times the clipping error: it is underestimated where the samples that hold extremes are few

Choices = dict[str, Choice]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Ranges and how they came about.

    Attributes:
        choices: provenance key -> range.
        how: in a few words, for the report.
        errors: `downstream`, `minmax`, `mse` -> relative squared error of the outputs on held-out samples.
    """

    choices: Mapping[str, Choice]
    how: str
    errors: Mapping[str, float]


def fixed_choices(statistics: Mapping[str, Statistics], estimator: Estimator) -> Choices:
    """Return the range that one estimator gives each activation."""
    ranges = {key: ESTIMATORS[estimator](seen) for key, seen in statistics.items()}
    return {key: Choice(estimator=estimator, low=low, high=high) for key, (low, high) in ranges.items()}


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """What a choice by downstream error needs.

    Attributes:
        module: canonical form.
        executor: of the same module.
        samples: the calibration samples.
        held_out: samples that the statistics were not made of; None: there are none.
        batch_size: samples a run.
        seed: of the random directions.
    """

    module: GraphModule
    executor: Executor
    samples: Dataset
    held_out: Dataset | None
    batch_size: int
    seed: int = 0

    def choose(self, observers: Mapping[str, Observer]) -> Chosen:
        """Return a range an activation."""
        statistics = {key: observer.statistics() for key, observer in observers.items()}
        if self.held_out is None:  # few samples: what clipping costs cannot be told
            return Chosen(choices=fixed_choices(statistics, "minmax"), how="no tune data to compare on", errors={})
        candidates = {
            key: {name: estimate(seen) for name, estimate in ESTIMATORS.items()} for key, seen in statistics.items()
        }
        found = Downstream(
            self.module, {key: list(ranges.values()) for key, ranges in candidates.items()}, seed=self.seed
        )
        fallback = _least_histogram_error(statistics, candidates)
        try:
            self._differentiate(found, observers)
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            return Chosen(choices=fallback, how=f"by histogram error: not differentiable ({first})", errors={})
        blind = {key: choice for key, choice in fallback.items() if key not in found.rounding}
        variants: dict[str, Choices] = {"minmax": fixed_choices(statistics, "minmax") | blind}
        variants["mse"] = fixed_choices(statistics, "mse") | blind
        variants["downstream"] = blind | _least_downstream_error(candidates, found)
        errors = self._errors(variants)
        best = min(errors, key=lambda name: errors[name] if np.isfinite(errors[name]) else np.inf)
        how = "each by its error downstream" if best == "downstream" else f"{best} everywhere errs least downstream"
        how += f", {len(blind)} without influence by histogram error" if blind else ""
        return Chosen(choices=variants[best], how=how, errors=errors)

    def _differentiate(self, found: Downstream, observers: Mapping[str, Observer]) -> None:
        total = len(self.samples)
        outer = [sample for sample in outermost_samples(observers.values(), OUTER_SAMPLES) if sample < total]
        others = [sample for sample in range(total) if sample not in set(outer)]
        places = np.unique(np.linspace(0, len(others) - 1, EVEN_SAMPLES).astype(int)) if others else ()
        even = [others[place] for place in places]
        for chosen, represented in ((outer, len(outer)), (even, len(others))):
            share = represented / (total * max(1, len(chosen)))
            for batch in self.samples.subset(chosen).batches(self.batch_size) if chosen else ():
                found.add([torch.from_numpy(array) for array in batch.inputs], [share] * len(batch.inputs[0]))

    def _errors(self, variants: Mapping[str, Choices]) -> dict[str, float]:
        """Return the outputs' relative squared error on held-out samples, with every activation rounded."""
        rounded = rounded_activations(self.module)
        affines = {
            name: {key: asymmetric(choice.low, choice.high) for key, choice in choices.items() if key in rounded}
            for name, choices in variants.items()
        }
        held = self.held_out
        places = np.unique(np.linspace(0, len(held) - 1, HELD_OUT_SAMPLES).astype(int)).tolist() if held else []
        sums = dict.fromkeys(variants, 0.0)
        for batch in held.subset(places).batches(self.batch_size) if held else ():
            inputs = [torch.from_numpy(array) for array in batch.inputs]
            wanted = self.executor.run(inputs)
            done: dict[tuple[object, ...], float] = {}
            for name, mapping in affines.items():
                same = tuple(mapping.values())
                if same not in done:

                    def rounding(
                        key: str, value: torch.Tensor, mapping: Mapping[str, Affine] = mapping
                    ) -> torch.Tensor | None:
                        affine = mapping.get(key)
                        return fake_quantize(value, affine) if affine and value.is_floating_point() else None

                    done[same] = _relative_error(self.executor.run(inputs, rounding), wanted)
                sums[name] += done[same] * len(batch.inputs[0]) / len(places)
        return sums


def _relative_error(outputs: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """Return the mean over floating outputs of sum (y - wanted)**2 / sum wanted**2 over the batch."""
    pairs = [(ours, theirs) for ours, theirs in zip(outputs, wanted, strict=True) if theirs.is_floating_point()]
    found = [
        float((ours - theirs).double().pow(2).sum() / theirs.double().pow(2).sum().clamp_min(SMALLEST_RMS**2))
        for ours, theirs in pairs
    ]
    return sum(found) / max(1, len(found))


def _least_downstream_error(candidates: Mapping[str, Mapping[Estimator, Range]], found: Downstream) -> Choices:
    choices = {}
    for key, rounding in found.rounding.items():
        errors = rounding + CAUTION * found.clipping[key]
        names = list(candidates[key])
        best = int(np.where(np.isfinite(errors), errors, np.inf).argmin())
        name = names[best] if errors[best] < CLEAR_WIN * errors[names.index("minmax")] else "minmax"
        low, high = candidates[key][name]
        choices[key] = Choice(estimator=name, low=low, high=high)
    return choices


def _least_histogram_error(
    statistics: Mapping[str, Statistics], candidates: Mapping[str, Mapping[Estimator, Range]]
) -> Choices:
    choices = {}
    for key, ranges in candidates.items():
        name = min(ranges, key=lambda name: squared_error(statistics[key], ranges[name]))
        low, high = ranges[name]
        choices[key] = Choice(estimator=name, low=low, high=high)
    return choices
