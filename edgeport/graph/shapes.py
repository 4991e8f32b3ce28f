"""Values and shapes of every activation, by running the network once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule, Interpreter, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def activation_shapes(module: GraphModule, inputs: Sequence[torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Return node name -> shape (with batch) of every tensor-valued node for these inputs."""
    return {name: tuple(value.shape) for name, value in _record(module, inputs, lambda value: value.to("meta")).items()}


def activation_values(module: GraphModule, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return node name -> value of every input and operator (weights left out) for these inputs."""
    return _record(module, inputs, lambda value: value)


def _record(
    module: GraphModule, inputs: Sequence[torch.Tensor], keep: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    recorder = _Recorder(module, keep)
    with torch.no_grad():
        recorder.run(*inputs)
    return recorder.kept


class _Recorder(Interpreter):
    def __init__(self, module: GraphModule, keep: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(module)
        self.keep = keep
        self.kept: dict[str, torch.Tensor] = {}

    def run_node(self, n: Node) -> Any:  # fx's own signature
        result = super().run_node(n)
        if isinstance(result, torch.Tensor) and n.op != "get_attr":
            self.kept[n.name] = self.keep(result)
        return result
