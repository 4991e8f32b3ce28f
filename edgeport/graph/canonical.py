"""The one form of a traced network that calibration and every backend start from.

Batch norms are folded into the convolution or linear layer before them, no-ops are gone, and the global spatial mean is
spelled as adaptive average pooling: of a `mean` that drops dimensions, litert-torch 0.10 makes a TRANSPOSE.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule, Node

from edgeport.graph.shapes import activation_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

aten = torch.ops.aten

FOLDABLE = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default)
NO_OPS = (
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alias.default,
    aten.detach.default,
    aten.clone.default,
)
SLICE_END = 2**63 - 1  # what Python's open slice end becomes in an ATen graph


def canonicalize(module: GraphModule, example_inputs: Sequence[torch.Tensor]) -> GraphModule:
    """Return a copy in canonical form that computes the same function, up to rounding of the folded weights."""
    result = copy.deepcopy(module)
    _remove_no_ops(result)
    _fold_batch_norms(result)
    _spell_spatial_means(result, activation_shapes(result, example_inputs))
    result.graph.eliminate_dead_code()
    result.delete_all_unused_submodules()
    result.graph.lint()
    result.recompile()
    return result


def attribute(module: GraphModule, path: str) -> torch.Tensor:
    """Return the parameter or buffer at a dotted path."""
    owner: torch.nn.Module = module
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    value: torch.Tensor = getattr(owner, name)
    return value


def constant(module: GraphModule, node: object) -> torch.Tensor | None:
    """Return the tensor that a `get_attr` node reads; None for a None argument."""
    if node is None:
        return None
    if not (isinstance(node, Node) and node.op == "get_attr"):
        raise ValueError(f"not a constant: {node}")
    return attribute(module, str(node.target)).detach()


def is_constant(node: object) -> bool:
    """Whether an argument is absent or reads a parameter or buffer."""
    return node is None or (isinstance(node, Node) and node.op == "get_attr")


def _remove_no_ops(module: GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_module" and not node.users:
            module.graph.erase_node(node)  # torch.export's input guard
        elif node.target in NO_OPS or _is_whole_slice(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _is_whole_slice(node: Node) -> bool:
    if node.target is not aten.slice.Tensor:
        return False
    given: tuple[object, ...] = (*node.args, *(0, None, None, 1)[len(node.args) - 1 :])
    return given[2] in (0, None) and given[3] in (SLICE_END, None) and given[4] == 1


def _fold_batch_norms(module: GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.target is not aten.batch_norm.default:
            continue
        layer = node.args[0]
        constants = (*node.args[1:5], *layer.args[1:3])
        if layer.target in FOLDABLE and len(layer.users) == 1 and all(is_constant(value) for value in constants):
            _fold(module, layer, node)


def _fold(module: GraphModule, layer: Node, norm: Node) -> None:
    """Fold y = gamma (W x + b - mean) / sqrt(variance + eps) + beta into W and b, in float64."""
    weight = constant(module, layer.args[1])
    bias = constant(module, layer.args[2]) if len(layer.args) > 2 else None
    gamma, beta, mean, variance = (constant(module, value) for value in norm.args[1:5])
    if weight is None or mean is None or variance is None:
        return
    factor = torch.rsqrt(variance.double() + float(norm.args[7]))  # type: ignore[arg-type]  # an ATen graph holds a float
    factor = factor if gamma is None else factor * gamma.double()
    shift = (0.0 if bias is None else bias.double()) - mean.double()
    new_bias = shift * factor + (0.0 if beta is None else beta.double())
    new_weight = weight.double() * factor.reshape(-1, *[1] * (weight.dim() - 1))
    with module.graph.inserting_before(layer):
        nodes = [
            module.graph.get_attr(_register(module, f"{layer.name}_folded_{name}", value.to(weight.dtype)))
            for name, value in (("weight", new_weight), ("bias", new_bias))
        ]
    layer.args = (layer.args[0], *nodes, *layer.args[3:])
    norm.replace_all_uses_with(layer)
    module.graph.erase_node(norm)


def _register(module: GraphModule, name: str, value: torch.Tensor) -> str:
    module.register_buffer(name, value.contiguous())
    return name


def _spell_spatial_means(module: GraphModule, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Rewrite mean over height and width as adaptive average pooling to 1x1, then flatten unless `keepdim`."""
    for node in list(module.graph.nodes):
        if node.target is not aten.mean.dim or len(node.args) > 3:
            continue
        source, dims, keepdim = (*node.args, False)[:3]
        if len(shapes[source.name]) != 4 or sorted(dim % 4 for dim in dims) != [2, 3]:
            continue
        with module.graph.inserting_before(node):
            new = module.graph.call_function(aten.adaptive_avg_pool2d.default, (source, [1, 1]))
            new.meta = _origin(node)
            if not keepdim:
                new = module.graph.call_function(aten.flatten.using_ints, (new, 1))
                new.meta = _origin(node)
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)


def _origin(node: Node) -> dict[str, object]:
    return {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
