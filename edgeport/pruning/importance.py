"""How much each channel of a group matters: scores that decide which channels stay."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch
    from numpy.typing import NDArray
    from torch.fx import GraphModule

    from edgeport.pruning.groups import ChannelGroup


def l1(filters: torch.Tensor) -> torch.Tensor:
    """Return the sum of absolute weights of each filter; `filters`: (filters, weights), result (filters,).

    Hao Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv:1608.08710), section 3.1.
    """
    return filters.abs().sum(1)


def l2(filters: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean norm of each filter; `filters`: (filters, weights), result (filters,).

    The alternative compared in the same paper, section 4.4.
    """
    return filters.square().sum(1).sqrt()


def fpgm(filters: torch.Tensor) -> torch.Tensor:
    """Return each filter's distances to all filters, summed; `filters`: (filters, weights), result (filters,).

    The filter nearest to the others' geometric median is the one they can replace: Yang He et al. 2019, "Filter Pruning
    via Geometric Median for Deep Convolutional Neural Networks Acceleration" (arXiv:1811.00250), equation 6.
    """
    import torch

    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


IMPORTANCE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"l1": l1, "l2": l2, "fpgm": fpgm}
GROUP, BATCH_NORM = "group", "bn"  # see `edgeport.pruning.votes`
RECONSTRUCTION = "reconstruction"  # see `edgeport.pruning.elimination`
ON_SAMPLES = ("taylor", "activation", RECONSTRUCTION)  # these need samples
NAMES = (*IMPORTANCE, GROUP, BATCH_NORM, *ON_SAMPLES)  # each is one way to score
AUTO = "auto"  # compares them

Measured = Mapping[tuple[str, int], np.ndarray]  # (parameter, dimension that counts filters) -> score of each filter


def taylor(
    module: GraphModule,
    groups: Sequence[ChannelGroup],
    batches: Iterable[tuple[Sequence[torch.Tensor], torch.Tensor | None]],
    *,
    seed: int = 0,
    are_probabilities: bool = False,
) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Return how much the loss changes, to first order, where a filter is set to zero: mean of (sum of g w)^2.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning" (arXiv:1906.10771), equations 5 and 8: the
    gradient g of the cross-entropy, batch by batch.

    Without classes the loss is the squared distance to the network's own outputs. That has no slope at the network
    itself, but where a change moves the outputs by d to first order, it becomes |d|^2. For d = J w (J: the Jacobian),
    the mean of (r . J w)^2 over random signs r is just that (Hutchinson 1990, "A Stochastic Estimator of the Trace of
    the Influence Matrix for Laplacian Smoothing Splines"), so g is the gradient of r . outputs, with fresh signs a
    batch; every output is divided by its length first, to count alike.

    Args:
        module: the traced network; it stays as it is.
        groups: what may be pruned.
        batches: inputs, and the class of each sample `(N,)`, by the first output, class scores `(N, classes)`; None
            where classes are not known.
        seed: of the signs.
        are_probabilities: whether the first output is a softmax already.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    generator = torch.Generator().manual_seed(seed)

    network = copy.deepcopy(module).requires_grad_(False)
    places = sorted({(share.parameter, share.dimension) for group in groups for share in group.filters})
    if not places:
        return {}
    weights = {name: network.get_parameter(name).requires_grad_() for name, _ in places}
    scores = {place: torch.zeros(weights[place[0]].shape[place[1]], dtype=torch.float64) for place in places}
    count = 0
    for inputs, classes in batches:
        outputs = [value for value in tree_leaves(network(*inputs)) if isinstance(value, torch.Tensor)]
        if classes is not None:
            logits = outputs[0].clamp(min=1e-12).log() if are_probabilities else outputs[0]
            loss = torch.nn.functional.cross_entropy(logits, classes)
        else:
            loss = _random_projection(outputs, generator)
        gradients = dict(
            zip(weights, torch.autograd.grad(loss, list(weights.values()), allow_unused=True), strict=True)
        )
        for (name, dimension), total in scores.items():
            gradient = gradients[name]
            if gradient is not None:
                product = (weights[name].detach() * gradient).double()
                total.add_(product.movedim(dimension, 0).flatten(1).sum(1).square())
        count += 1
    return {place: (total / max(1, count)).numpy() for place, total in scores.items()}


def _random_projection(outputs: Sequence[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return the sum over outputs y of r . y / |y| with random signs r."""
    import torch

    total = torch.zeros(())
    for output in outputs:
        if output.is_floating_point():
            signs = torch.randint(0, 2, output.shape, generator=generator).to(output.dtype) * 2 - 1
            total = total + (signs * output).sum() / output.detach().norm().clamp(min=torch.finfo(output.dtype).tiny)
    return total


def channel_scores(
    module: GraphModule, group: ChannelGroup, importance: str, measured: Measured | None = None
) -> NDArray[np.float64]:
    """Return the importance of each channel of a group, (channels,); only the order within the group means anything.

    score(c) = sum over layers l of (sum over filters f of c in l of |w_f|) / (mean over all filters f' of l of |w_f'|)

    with the norm chosen by `importance`, or what `measured` has of each filter instead of a norm. Dividing by the
    layer's mean lets every coupled layer vote with equal weight: raw norms (which the paper compares within one layer
    only) would let the layer with the largest kernels decide.
    Folding the batch norm into the filters (times |gamma| / sqrt(variance)) was measured and rejected: ResNet-20 at
    ratio 0.2, batch norms recalibrated, 2,000 images: 44.6 % top-1 with it, 61.4 % without (l1; 44.0 and 61.8 with l2).
    """
    total = np.zeros(group.channels)
    for share in group.filters:
        if measured is not None:
            norms = measured[share.parameter, share.dimension]
        else:
            weight = module.get_parameter(share.parameter).detach().double()
            norms = IMPORTANCE[importance](weight.movedim(share.dimension, 0).flatten(1)).cpu().numpy()
        total += norms[share.positions].sum(1) / max(float(norms.mean()), np.finfo(np.float64).tiny)
    return total
