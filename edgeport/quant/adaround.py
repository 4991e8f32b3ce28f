"""AdaRound: round each weight of a layer up or down such that the layer's output changes least on real inputs.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (2020). With integers `steps + e` (in units
of a channel's scale), inputs x in the float network and x' in the int8 network, and d = x - x', the squared error of an
output channel, E[(w x - (w + e) x')^2], is up to a constant

    e G e^T - 2 e b^T,    G = E[x' x'^T],  b = w E[d x'^T]    (equation 25, asymmetric reconstruction, no activation)

so samples are needed only for G and b, and an iteration costs the same however many there were. The paper relaxes the
2^n choices to a rectified sigmoid h(v) (equation 23) with the regularizer sum 1 - |2 h(v) - 1|^beta (equation 24), and
anneals beta. So does `_relaxed`; since G is at hand, flips of single weights then go on until none lowers the error
(a local optimum of equation 12's quadratic program), and the best of several starts is kept a channel: never worse
than rounding to nearest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from edgeport.graph.canonical import CONVOLUTIONS
from edgeport.quant.layers import groups_of

if TYPE_CHECKING:
    from torch.fx import Node

ZETA, GAMMA = 1.1, -0.1  # stretch of the rectified sigmoid (the paper's section 3.3, after Louizos et al. 2018)
BETA = (20.0, 2.0)  # annealed from, to (the paper's published code)
REGULARIZER = 0.1  # weight of the regularizer, where the error is in squared steps of an input of unit power
WARM_UP = 0.2  # share of the iterations without regularizer (as above)
RATE = (
    0.05  # of Adam; the paper's 0.01 is for 10,000 iterations. Of 64 x 576 weights with correlated inputs: error 1138
)
# nearest, 816 after 200 iterations, 734 after flips (761 without the relaxation); more iterations gain nothing
POSITIONS = 256  # of one sample's output whose inputs enter G; the rest is left out, evenly
CONVOLUTION_DEFAULTS: tuple[Any, ...] = (None, None, None, [1], [0], [1], 1)
LARGEST_INPUTS = 4608  # weights an output channel (512 x 3 x 3); G of more would not fit beside the network


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Second moments of what arrives at a layer, for each of its groups of channels.

    Attributes:
        gram: `(groups, inputs, inputs)` float64, E[x' x'^T].
        drift: `(groups, inputs, inputs)` float64, E[(x - x') x'^T].
    """

    gram: torch.Tensor
    drift: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """One layer's rounding problem; tensors `(groups, channels of a group, inputs)` float64.

    Attributes:
        steps: weight / scale.
        largest: the largest integer allowed.
        gram: `(groups, inputs, inputs)`, G.
        pull: b in steps.
        free: which weights may be rounded either way; the others are rounded to nearest.
    """

    steps: torch.Tensor
    largest: int
    gram: torch.Tensor
    pull: torch.Tensor
    free: torch.Tensor

    def error(self, integers: torch.Tensor) -> torch.Tensor:
        """Return each channel's squared error in squared steps up to a constant, `(groups, channels)`."""
        e = integers - self.steps
        return ((e @ self.gram - 2 * self.pull) * e).sum(-1)

    def nearest(self) -> torch.Tensor:
        """Return the integers that are nearest."""
        return self.steps.round().clamp(-self.largest, self.largest)


def moments(
    node: Node, weight: torch.Tensor, floats: list[torch.Tensor], ints: list[torch.Tensor], *, centre: bool
) -> Moments:
    """Return the moments of a layer's inputs, shrunk towards their diagonal where inputs are few.

    Of d inputs, n samples estimate d (d + 1) / 2 products: off the diagonal, n / (n + d) of each is kept.

    Args:
        node: the layer.
        weight: `(out, in / groups, ...)`.
        floats: batches of the layer's input in the float network.
        ints: the same in the int8 network.
        centre: take central moments: where the bias is corrected afterwards, a shift of the output costs nothing.
    """
    groups, inputs = groups_of(node), weight[0].numel()
    sums = [torch.zeros(groups, inputs, inputs, dtype=torch.float64) for _ in range(2)]
    means = [torch.zeros(groups, inputs, 1, dtype=torch.float64) for _ in range(2)]
    count = 0
    for exact, rounded in zip(floats, ints, strict=True):
        for index in range(len(exact)):
            x, other = (_patches(node, value[index : index + 1], weight) for value in (rounded, exact))
            for place, value in enumerate((x, other - x)):
                sums[place] += value @ x.mT
                means[place] += value.sum(-1, keepdim=True)
            count += x.shape[-1]
    gram, drift = (total / count for total in sums)
    if centre:
        shift = (means[0] / count).mT
        gram, drift = gram - means[0] / count * shift, drift - means[1] / count * shift
    kept = count / (count + inputs)
    diagonal = torch.diag_embed(torch.diagonal(gram, dim1=-2, dim2=-1))
    return Moments(gram=kept * gram + (1 - kept) * diagonal, drift=kept * drift)


def rounding(weight: torch.Tensor, scales: torch.Tensor, found: Moments, *, largest: int) -> Rounding:
    """Return a layer's rounding problem; a channel's largest weights are not free, so that its scale stays.

    Args:
        weight: `(out, in / groups, ...)` float32.
        scales: `(out,)` float32.
        found: of the layer's inputs.
        largest: the largest integer allowed.
    """
    groups, inputs = found.gram.shape[:2]
    rows = weight.double().reshape(groups, -1, inputs)
    by_channel = scales.double().reshape(groups, -1, 1)
    peaks = rows.abs().amax(-1, keepdim=True)
    steps = rows / by_channel
    return Rounding(
        steps=steps,
        largest=largest,
        gram=found.gram,
        pull=rows @ found.drift / by_channel,
        free=(rows.abs() < peaks) & (steps.abs() < largest),
    )


def solve(problem: Rounding, *, starts: tuple[torch.Tensor, ...] = (), iterations: int = 0) -> torch.Tensor:
    """Return integers `(groups, channels, inputs)` float64 with the least error found.

    Args:
        problem: the layer.
        starts: integers to improve on besides those rounded to nearest.
        iterations: of the relaxation; 0: only flips.
    """
    nearest = problem.nearest()
    candidates = [nearest, *starts]
    if iterations:
        candidates.append(_relaxed(problem, iterations))
    best = _polished(problem, candidates[-1])
    for start in candidates[:-1]:
        better = problem.error(start) < problem.error(best)
        if bool(better.any()):
            best = torch.where(better.unsqueeze(-1), start, best)
    return best


def _patches(node: Node, value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the inputs of each output, `(groups, inputs, positions)`, in the order of the weight's entries."""
    if node.target not in CONVOLUTIONS:
        rows = value.reshape(-1, value.shape[-1])
        return rows[:: max(1, len(rows) // POSITIONS)].mT.unsqueeze(0)
    spatial = weight.dim() - 2
    given = (*node.args, *CONVOLUTION_DEFAULTS[len(node.args) :])
    stride, dilation = _numbers(given[3], spatial), _numbers(given[5], spatial)
    padding = _padding(given[4], list(weight.shape[2:]), dilation)
    value = functional.pad(value, [end for ends in reversed(padding) for end in ends])
    for dim, size in enumerate(weight.shape[2:]):
        value = value.unfold(2 + dim, dilation[dim] * (size - 1) + 1, stride[dim])[..., :: dilation[dim]]
    positions = torch.Size(value.shape[2 : 2 + spatial])
    skip = max(1, round((positions.numel() / POSITIONS) ** (1 / spatial)))
    value = value[(slice(None), slice(None), *[slice(None, None, skip)] * spatial)]
    places = range(2, 2 + spatial)
    value = value.permute(1, *(place + spatial for place in places), 0, *places)  # (in, kernel..., batch, position...)
    return value.reshape(groups_of(node), weight[0].numel(), -1)


def _numbers(given: Any, spatial: int) -> list[int]:
    """Return an argument of a convolution with a number a spatial dimension."""
    numbers = [int(number) for number in given]
    return numbers * spatial if len(numbers) == 1 else numbers


def _padding(given: Any, kernel: list[int], dilation: list[int]) -> list[tuple[int, int]]:
    """Return how far each spatial dimension is padded at its low and high end."""
    if not isinstance(given, str):
        return [(number, number) for number in _numbers(given, len(kernel))]
    totals = [step * (size - 1) if given == "same" else 0 for size, step in zip(kernel, dilation, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def _relaxed(problem: Rounding, iterations: int) -> torch.Tensor:
    """Minimize error + regularizer over v with Adam; gradients by hand, E g / E v = E g / E h * h'(v)."""
    steps, gram, pull = (value.float() for value in (problem.steps, problem.gram, problem.pull))
    floor = steps.floor()
    unit = 1 / torch.diagonal(gram, dim1=-2, dim2=-1).mean(-1).clamp(min=1e-30).reshape(-1, 1, 1)
    share = ((steps - floor - GAMMA) / (ZETA - GAMMA)).clamp(1e-4, 1 - 1e-4)
    v = torch.logit(share)
    first, second = torch.zeros_like(v), torch.zeros_like(v)
    for step in range(1, iterations + 1):
        soft = torch.sigmoid(v)
        stretched = soft * (ZETA - GAMMA) + GAMMA
        h = stretched.clamp(0, 1)
        gradient = 2 * unit * ((floor + h - steps) @ gram - pull)
        progress = (step / iterations - WARM_UP) / (1 - WARM_UP)
        if progress > 0:
            beta = BETA[1] + (BETA[0] - BETA[1]) * 0.5 * (1 + math.cos(math.pi * progress))
            offset = 2 * h - 1
            gradient -= REGULARIZER * 2 * beta * offset.abs() ** (beta - 1) * offset.sign()
        gradient *= (ZETA - GAMMA) * soft * (1 - soft) * ((stretched > 0) & (stretched < 1))
        first.mul_(0.9).add_(gradient, alpha=0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        v -= RATE * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    up = (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA) >= 0.5
    integers = (floor + up).double().clamp(-problem.largest, problem.largest)
    return torch.where(problem.free, integers, problem.nearest())


def _polished(problem: Rounding, integers: torch.Tensor) -> torch.Tensor:
    """Flip, in every channel at once, the weight whose flip lowers the error most, until none does."""
    integers = integers.clone()
    floor, ceiling = problem.steps.floor(), problem.steps.ceil()
    movable = problem.free & (floor != ceiling)
    diagonal = torch.diagonal(problem.gram, dim1=-2, dim2=-1).unsqueeze(-2)  # (groups, 1, inputs)
    slope = (integers - problem.steps) @ problem.gram - problem.pull
    groups, channels, inputs = integers.shape
    group = torch.arange(groups).reshape(-1, 1).expand(groups, channels)
    for _ in range(2 * inputs):
        flip = floor + ceiling - 2 * integers  # +1 or -1: to the other neighbour
        change = torch.where(movable, diagonal + 2 * flip * slope, 0.0)
        gain, place = change.min(-1)
        chosen = gain < -1e-12 * diagonal.mean()
        if not bool(chosen.any()):
            break
        step = torch.where(chosen, flip.gather(-1, place.unsqueeze(-1)).squeeze(-1), 0.0)
        integers.scatter_add_(-1, place.unsqueeze(-1), step.unsqueeze(-1))
        slope += step.unsqueeze(-1) * problem.gram[group, place]
    return integers
