"""Batch-norm statistics of a network whose filters were cut: what flows has changed, so they are measured again."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from edgeport.pruning.operation import arguments, operator_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np


def recalibrate_batch_norm(module: GraphModule, batches: Iterable[Sequence[np.ndarray | torch.Tensor]]) -> GraphModule:
    """Return a copy whose batch norms have the mean and variance of these batches.

    Every norm normalises with the batch's own statistics while its running ones become the average over all batches,
    weighted by samples (what `momentum=None` does in PyTorch for batches of equal size). Old statistics do not count.

    Args:
        module: a traced network.
        batches: one array (n, ...) a network input; n times the spatial size must be at least 2 at every norm.

    Raises:
        ValueError: no batches.
    """
    result = formatted(copy.deepcopy(module), torch.channels_last)
    if not batch_norms(result):
        return copy.deepcopy(module)
    runner = _Recalibrating(result)
    with torch.no_grad():
        for batch in batches:
            runner.samples = len(batch[0])
            runner.run(*[_channels_last(torch.as_tensor(value)) for value in batch])
    if not runner.seen:
        raise ValueError("no batches to recalibrate with")
    return formatted(result, torch.contiguous_format)


def batch_norms(module: GraphModule) -> list[Node]:
    """Return the batch norms that use running statistics."""
    return [
        node
        for node in module.graph.nodes
        if operator_name(node) == "batch_norm" and arguments(node)["running_mean"] is not None
    ]


def formatted(module: GraphModule, memory_format: torch.memory_format) -> GraphModule:
    """Lay a network's convolution weights out; the same network, for chaining."""
    return module.to(memory_format=memory_format)  # type: ignore[no-any-return,call-overload]  # torch's stub lacks it


def _channels_last(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


class _Recalibrating(Interpreter):
    """Runs batch norms in training mode."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.norms = set(batch_norms(module))
        self.samples = 0
        self.seen: dict[int, int] = defaultdict(int)  # by identity of the statistics: a norm may be applied twice

    def run_node(self, n: Node) -> Any:  # fx's own signature
        if n not in self.norms:
            return super().run_node(n)
        named = {name: self.env[value] if isinstance(value, Node) else value for name, value in arguments(n).items()}
        mean, variance = named["running_mean"], named["running_var"]
        self.seen[id(mean)] += self.samples
        return torch.nn.functional.batch_norm(
            named["input"],
            mean,
            variance,
            named["weight"],
            named["bias"],
            training=True,
            momentum=self.samples / self.seen[id(mean)],  # the first batch replaces what was there
            eps=named["eps"],
        )
