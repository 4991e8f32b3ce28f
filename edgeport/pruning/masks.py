"""Which weights become zero: masks of single weights, kernel rows, kernels, or N of every M.

The least important units go, by the sum of their absolute weights: Han et al., "Learning both Weights and Connections
for Efficient Neural Networks" (2015, arXiv:1506.02626), section 3, for single weights; Mao et al. (2017,
arXiv:1705.08922), section 3.3, for larger units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from edgeport.pruning.macs import LAYERS
from edgeport.pruning.operation import arguments, operator_name

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from edgeport.pruning.grains import Sparsity


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What stays.

    Attributes:
        kept: parameter name -> bool tensor of its shape; False becomes zero.
        left_whole: a sentence for every layer that keeps all its weights, naming the reason.
    """

    kept: dict[str, torch.Tensor]
    left_whole: tuple[str, ...]


def find_masks(module: GraphModule, sparsity: Sparsity) -> Masks:
    """Return masks of all convolutions and linear layers of a traced network whose weights are parameters."""
    kept: dict[str, torch.Tensor] = {}
    whole: dict[str, str] = {}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for node in module.graph.nodes:
        if node.op != "call_function" or operator_name(node) not in LAYERS:
            continue
        named = arguments(node)
        source = named.get("weight")
        if not isinstance(source, Node) or source.op != "get_attr":
            continue
        name = str(source.target)
        if name not in parameters:
            whole[name] = "its weight is no parameter"
            continue
        weight = parameters[name].detach()
        reason = _reason(weight, int(named.get("groups") or 1), sparsity)
        if reason:
            whole[name] = reason
        else:
            kept[name] = mask(weight, sparsity)
    return Masks(
        kept=kept,
        left_whole=tuple(
            f"left whole: layer '{name.removesuffix('.weight')}' because {reason}" for name, reason in whole.items()
        ),
    )


def mask(weight: torch.Tensor, sparsity: Sparsity) -> torch.Tensor:
    """Return which weights stay, a bool tensor of the weight's shape.

    Args:
        weight: `(out, in, ...)`.
        sparsity: which units, and how many of them go (rounded down).
    """
    if sparsity.kind == "n:m":
        return _of_every(weight, keep=sparsity.keep, of=sparsity.of)
    units = weight.reshape(-1, _unit(weight, sparsity))
    order = torch.argsort(units.abs().double().sum(1), stable=True)
    stays = torch.ones(len(units), dtype=torch.bool)
    stays[order[: int(sparsity.share * len(units))]] = False
    return stays[:, None].expand_as(units).reshape(weight.shape)


def _unit(weight: torch.Tensor, sparsity: Sparsity) -> int:
    """Return how many consecutive weights go together."""
    if sparsity.kind == "kernel":
        return int(weight[0, 0].numel())
    if sparsity.kind == "vector":
        return int(weight.shape[-1]) if weight.dim() > 2 else 1
    return 1


def _of_every(weight: torch.Tensor, *, keep: int, of: int) -> torch.Tensor:
    """Keep the largest `keep` of every `of` weights along the input channels; of equal ones the first."""
    rows = weight.movedim(1, -1)  # (out, ..., in)
    groups = rows.shape[-1] // of
    stays = torch.ones(rows.shape, dtype=torch.bool)
    blocks = rows[..., : groups * of].reshape(*rows.shape[:-1], groups, of)
    largest = torch.argsort(blocks.abs(), dim=-1, descending=True, stable=True)[..., :keep]
    chosen = torch.zeros(blocks.shape, dtype=torch.bool).scatter_(-1, largest, True)
    stays[..., : groups * of] = chosen.reshape(*rows.shape[:-1], groups * of)
    return stays.movedim(-1, 1).contiguous()


def _reason(weight: torch.Tensor, groups: int, sparsity: Sparsity) -> str:
    """Return why a layer keeps all its weights; empty: it does not."""
    if groups > 1 and weight.shape[1] == 1:
        return "it is depthwise: each of its few kernels is the only one of its channel"
    if sparsity.kind == "n:m" and weight.shape[1] < sparsity.of:
        return f"it has {weight.shape[1]} input channels, fewer than {sparsity.of}"
    if sparsity.kind in ("kernel", "vector") and _unit(weight, sparsity) == 1:
        return f"a {sparsity.kind} of it is a single weight; fine:{sparsity.share:g} prunes those"
    return ""
