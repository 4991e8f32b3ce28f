"""What a network costs: multiply-adds and parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.pruning.operation import arguments, concrete_shapes, operator_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from torch.fx import GraphModule, Node


def count_macs(module: GraphModule, example_inputs: Sequence[torch.Tensor]) -> int:
    """Return the multiply-adds of one sample in convolutions, linear layers and matrix products.

    One multiply-add is one MAC; biases, norms, activations and pooling count nothing. `example_inputs` is a batch of
    any size, the result is for one sample of it.
    """
    shapes = concrete_shapes(module, example_inputs)
    total = sum(COSTS[operator_name(node)](node, shapes) for node in shapes if operator_name(node) in COSTS)
    return total // int(example_inputs[0].shape[0])


def layer_macs(module: GraphModule, example_inputs: Sequence[torch.Tensor]) -> dict[str, int]:
    """Return name of the weight -> multiply-adds of one sample, of convolutions and linear layers with parameters.

    A weight that several layers share has the sum of theirs.
    """
    shapes = concrete_shapes(module, example_inputs)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    found: dict[str, int] = {}
    for node in shapes:
        weight = arguments(node).get("weight") if operator_name(node) in LAYERS else None
        name = str(getattr(weight, "target", ""))
        if name in parameters:
            macs = COSTS[operator_name(node)](node, shapes) // int(example_inputs[0].shape[0])
            found[name] = found.get(name, 0) + macs
    return found


def count_parameters(module: torch.nn.Module) -> int:
    """Return the number of values in all parameters (buffers such as running statistics not counted)."""
    return sum(parameter.numel() for parameter in module.parameters())


def _convolution(node: Node, shapes: Mapping[Node, Any]) -> int:
    weight = shapes[arguments(node)["weight"]]
    return _size(shapes[node]) * _size(weight[1:])


def _transposed(node: Node, shapes: Mapping[Node, Any]) -> int:
    weight = shapes[arguments(node)["weight"]]
    return _size(shapes[node.args[0]]) * _size(weight[1:])  # type: ignore[index]  # the first argument is a node


def _linear(node: Node, shapes: Mapping[Node, Any]) -> int:
    return _size(shapes[node]) * int(shapes[arguments(node)["weight"]][1])


def _product(node: Node, shapes: Mapping[Node, Any]) -> int:
    return _size(shapes[node]) * int(shapes[node.args[0]][-1])  # type: ignore[index]  # the first argument is a node


def _added_product(node: Node, shapes: Mapping[Node, Any]) -> int:
    return _size(shapes[node]) * int(shapes[node.args[1]][-1])  # type: ignore[index]  # (bias, left, right) are nodes


def _attention(node: Node, shapes: Mapping[Node, Any]) -> int:
    query, key, value = (shapes[argument] for argument in node.args[:3])  # type: ignore[index]  # nodes
    return _size(query[:-1]) * int(key[-2]) * (int(query[-1]) + int(value[-1]))


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


LAYERS = ("conv1d", "conv2d", "conv3d", "linear")
COSTS: Mapping[str, Callable[[Node, Mapping[Node, Any]], int]] = {
    **{f"conv{rank}d": _convolution for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": _transposed for rank in (1, 2, 3)},
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), _product),
    **dict.fromkeys(("addmm", "baddbmm"), _added_product),
    "scaled_dot_product_attention": _attention,
}
