"""What rounding and clipping one activation does to the network's outputs, to first order.

One forward and one backward pass tell it for all activations at once, where trying each would take a run of the
network an activation and range. With v of random +-1, g = d(v . y) / dx and an error e of the activation x,
E[(g . e)**2] over v is the squared error of the outputs, ||J e||**2 (Hutchinson, "A Stochastic Estimator of the Trace
of the Influence Matrix for Laplacian Smoothing Splines", 1990). Rounding errors of different values are independent, so
their part is sum g**2 D**2 / 12 with steps of D; clipping errors all point inwards and add up, so their part is
(g . clipped)**2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import GraphModule, Interpreter, Node

from edgeport.graph.execute import flat_outputs
from edgeport.graph.provenance import provenance_keys
from edgeport.quant.ranges import STEPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edgeport.quant.ranges import Range

SMALLEST_RMS = 1e-30  # of an output, so that one that is always zero divides by something


class Downstream:
    """Sums up the outputs' error for candidate ranges of each activation, batch by batch."""

    def __init__(self, module: GraphModule, candidates: Mapping[str, Sequence[Range]], *, seed: int) -> None:
        """Prepare.

        Args:
            module: canonical form; its parameters stop asking for gradients.
            candidates: provenance key -> ranges, as many for each key.
            seed: of the random directions.
        """
        self.module = module.requires_grad_(requires_grad=False)
        self.keys = provenance_keys(module.graph)
        self.candidates = {
            key: [(min(low, 0.0), max(high, 0.0)) for low, high in ranges] for key, ranges in candidates.items()
        }
        self.rounding: dict[str, NDArray[np.float64]] = {}
        self.clipping: dict[str, NDArray[np.float64]] = {}
        self._chance = torch.Generator().manual_seed(seed)

    def add(self, inputs: Sequence[torch.Tensor], weights: Sequence[float]) -> None:
        """Take in one batch; `weights` are the samples' shares of the mean, one a sample.

        Raises:
            RuntimeError: the network cannot be differentiated.
        """
        with torch.enable_grad():
            recorder = _Recorder(self.module, self.keys, self.candidates)
            outputs = flat_outputs(recorder.run(*(_channels_last(value.detach()) for value in inputs)))
            target = self._projection(outputs)
            found = torch.autograd.grad(target, list(recorder.values.values()), allow_unused=True)
        share = torch.tensor(weights, dtype=torch.float64)
        for (key, value), gradient in zip(recorder.values.items(), found, strict=True):
            if gradient is not None:
                self._add(key, value.detach(), gradient, share)

    def _projection(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return v . y, each output divided by its size: the errors are relative, and outputs weigh the same."""
        parts = []
        for output in outputs:
            if output.requires_grad:
                signs = torch.randint(0, 2, output.shape, generator=self._chance).to(output.dtype) * 2 - 1
                rms = output.detach().pow(2).mean().sqrt().clamp_min(SMALLEST_RMS)
                parts.append((output * signs).sum() / (rms * (output[0].numel() ** 0.5)))
        if not parts:
            raise RuntimeError("no output depends on an activation in a differentiable way")
        return torch.stack(parts).sum()

    def _add(self, key: str, value: torch.Tensor, gradient: torch.Tensor, share: torch.Tensor) -> None:
        value, gradient = _rows(value, len(share)), _rows(gradient, len(share))
        energy = torch.where(value != 0, gradient * gradient, 0).sum(1).double()
        ranges = self.candidates[key]
        bottom, top = max(low for low, _ in ranges), min(high for _, high in ranges)
        sample, place = ((value < bottom) | (value > top)).nonzero(as_tuple=True)  # few: only these can be clipped
        outer, slope = value[sample, place].double(), gradient[sample, place].double()
        rounding, clipping = [], []
        for low, high in ranges:
            change = outer.clamp(low, high) - outer
            moved = torch.zeros_like(share).index_add_(0, sample, slope * change)
            lost = torch.zeros_like(share).index_add_(0, sample, torch.where(change != 0, slope * slope, 0.0))
            rounding.append(float(((energy - lost) * share).sum()) * ((high - low) / STEPS) ** 2 / 12)
            clipping.append(float((moved**2 * share).sum()))
        self.rounding[key] = self.rounding.get(key, 0.0) + np.array(rounding)
        self.clipping[key] = self.clipping.get(key, 0.0) + np.array(clipping)


class _Recorder(Interpreter):
    """Runs node by node and keeps the activations that have candidates."""

    def __init__(self, module: GraphModule, keys: Mapping[str, str], wanted: Mapping[str, object]) -> None:
        super().__init__(module)
        self.keys, self.wanted = keys, wanted
        self.values: dict[str, torch.Tensor] = {}

    def run_node(self, n: Node) -> Any:  # fx's own signature
        result = super().run_node(n)
        key = self.keys.get(n.name)
        if key in self.wanted and isinstance(result, torch.Tensor) and result.is_floating_point():
            if not result.requires_grad:
                result.requires_grad_()  # an input, or what an integer input was looked up in
            self.values[str(key)] = result
        return result


def _channels_last(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def _rows(value: torch.Tensor, samples: int) -> torch.Tensor:
    """Return `(samples, rest)` in memory order of channels-last; nothing is copied then."""
    if value.dim() == 4:
        value = value.permute(0, 2, 3, 1)
    return value.reshape(samples, -1)
