"""Try a correction: how far the simulated int8 network is from float on tune samples, and whether a change helps.

Two int8 networks are compared on the same samples, so what they have in common cancels; still, a small gain may be
chance. A change is kept when the outputs' relative squared error falls by at least `LEAST_GAIN`, and agreement (the
share of samples with the float network's class) does not fall by more than chance explains: of n samples whose
agreement the change flips, chance alone leaves a difference of about sqrt(n) (McNemar, "Note on the Sampling Error of
the Difference Between Correlated Proportions or Percentages", 1947).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeport.graph.execute import Executor
from edgeport.quant.simulate import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch.fx import GraphModule

    from edgeport.dataset import Dataset
    from edgeport.types import WeightBits

LEAST_GAIN = 0.05  # share of the squared error
MOST_SAMPLES, FEWEST_SAMPLES = 128, 16
VALUES = 2_400_000  # of the inputs together: 16 pictures of 224 x 224, so that a trial costs seconds

Outputs = tuple[torch.Tensor, ...]
Batches = list[list[torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far an int8 network is from float.

    Attributes:
        error: squared error of the outputs over their squared length, >= 0; the mean over outputs.
        agrees: a sample each, whether the network has the float network's class, by the first output
            `(samples, classes)`; None where there is none.
    """

    error: float
    agrees: tuple[bool, ...] | None = None

    @property
    def agreement(self) -> float | None:
        """Samples with the float network's class, percent."""
        return None if self.agrees is None else 100 * sum(self.agrees) / len(self.agrees)

    def is_better_than(self, other: Distance) -> bool:
        """Whether a change that leads here from `other` is worth keeping."""
        return self.error <= (1 - LEAST_GAIN) * other.error and not self._agrees_less_than(other)

    def _agrees_less_than(self, other: Distance) -> bool:
        if self.agrees is None or other.agrees is None:
            return False
        changes = [int(after) - int(before) for after, before in zip(self.agrees, other.agrees, strict=True)]
        return bool(-sum(changes) > math.sqrt(sum(map(abs, changes))))

    def figures(self) -> dict[str, float | None]:
        """Return JSON values for a report."""
        return {"error": self.error, "agreement": self.agreement}


def trial_samples(shapes: Sequence[tuple[int, ...]]) -> int:
    """Return how many samples of these input shapes (without batch) a trial takes."""
    values = max(torch.Size(shape).numel() for shape in shapes)
    return max(FEWEST_SAMPLES, min(MOST_SAMPLES, VALUES // max(1, values)))


def first_batches(samples: Dataset, count: int, *, size: int) -> Batches:
    """Return `count` samples, evenly spread over the data, in batches of at most `size`, a tensor an input each."""
    places = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int))
    return list(stream_batches(samples.subset([int(place) for place in places]), size=size))


def stream_batches(samples: Dataset, *, size: int) -> Iterator[list[torch.Tensor]]:
    """Give all samples in batches of at most `size`, a tensor an input each, without holding more than one."""
    for batch in samples.batches(size):
        yield [torch.from_numpy(np.ascontiguousarray(array)) for array in batch.inputs]


class Trial:
    """Compares int8 forms of one network with it, on the same samples."""

    def __init__(self, module: GraphModule, example_inputs: Sequence[torch.Tensor], batches: Batches) -> None:
        """Run the float network.

        Args:
            module: canonical form.
            example_inputs: a batch of one an input.
            batches: samples.
        """
        self.example_inputs, self.batches = example_inputs, batches
        self.samples = sum(len(batch[0]) for batch in batches)
        self._exact = outputs_of(Executor(module, example_inputs).run, batches)

    def distance(
        self, module: GraphModule, ranges: Mapping[str, tuple[float, float]], weight_bits: WeightBits
    ) -> Distance:
        """Return how far the int8 form of a network (this one, or one that computes the same) is from float."""
        simulator = Simulator(module, self.example_inputs, ranges, weight_bits=weight_bits)
        return distance(self._exact, outputs_of(simulator.run, self.batches))


def outputs_of(run: Callable[[Sequence[torch.Tensor]], Outputs], batches: Batches) -> list[Outputs]:
    """Return a network's outputs, batch by batch."""
    return [run(batch) for batch in batches]


def distance(exact: list[Outputs], other: list[Outputs]) -> Distance:
    """Compare outputs of the float and an int8 network, batch by batch."""
    errors = []
    agrees: tuple[bool, ...] | None = None
    for place, output in enumerate(exact[0]):
        one, two = (torch.cat([batch[place] for batch in run]) for run in (exact, other))
        if output.is_floating_point():
            errors.append(float((two - one).double().square().sum() / one.double().square().sum().clamp(min=1e-300)))
        if agrees is None and one.dim() == 2 and one.shape[1] > 1:
            agrees = tuple((one.argmax(1) == two.argmax(1)).tolist())
    return Distance(error=float(np.mean(errors)) if errors else 0.0, agrees=agrees)
