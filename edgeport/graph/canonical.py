"""The one form of a traced network that calibration and every backend start from.

Batch norms are folded into the convolution or linear layer before them, no-ops are gone, and the global spatial mean is
spelled as adaptive average pooling: of a `mean` that drops dimensions, litert-torch 0.10 makes a TRANSPOSE.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule, Node

from edgeport.graph.functional import has_mutation
from edgeport.graph.shapes import activation_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

aten = torch.ops.aten

CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
)
LAYERS = (*CONVOLUTIONS, aten.linear.default)  # what a batch norm is folded into, and what int8 has integer weights of
DROPOUTS = (aten.dropout.default, aten.feature_dropout.default)
COPIES = (aten.alias.default, aten.detach.default, aten.clone.default)
SLICE_END = 2**63 - 1  # what Python's open slice end becomes in an ATen graph


def canonicalize(module: GraphModule, example_inputs: Sequence[torch.Tensor]) -> GraphModule:
    """Return a copy in canonical form that computes the same function, up to rounding of the folded weights."""
    result = copy.deepcopy(module)
    _remove_no_ops(result)
    shapes = activation_shapes(result, example_inputs)
    _fold_batch_norms(result, shapes)
    _spell_spatial_means(result, shapes)
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


def drop_unused(module: GraphModule) -> None:
    """Delete parameters and buffers that no operator reads."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    held = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    held += [name for name, _ in module.named_buffers(remove_duplicate=False)]
    for name in held:
        if name not in used:
            owner, _, last = name.rpartition(".")
            delattr(module.get_submodule(owner), last)


def _remove_no_ops(module: GraphModule) -> None:
    copies = () if has_mutation(module) else COPIES  # an operator may overwrite the copy, or what was copied
    for node in list(module.graph.nodes):
        if node.op == "call_module" and not node.users:
            module.graph.erase_node(node)  # torch.export's input guard
        elif node.target in copies or _is_idle_dropout(node) or _is_whole_slice(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _is_idle_dropout(node: Node) -> bool:
    """Whether it drops nothing; one that user code keeps active (`F.dropout(x)`) stays, for the backends to refuse."""
    return node.target in DROPOUTS and node.args[2] is False


def _is_whole_slice(node: Node) -> bool:
    if node.target is not aten.slice.Tensor:
        return False
    given: tuple[object, ...] = (*node.args, *(0, None, None, 1)[len(node.args) - 1 :])
    return given[2] in (0, None) and given[3] in (SLICE_END, None) and given[4] == 1


def _fold_batch_norms(module: GraphModule, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for node in list(module.graph.nodes):
        if node.target is not aten.batch_norm.default or node.args[5]:  # that one takes its batch's own statistics
            continue
        layer = node.args[0]
        if layer.target not in LAYERS or len(layer.users) > 1:
            continue
        if layer.target is aten.linear.default and len(shapes[layer.name]) != 2:
            continue  # the norm's channels are dimension 1, the layer's are the last
        if all(is_constant(value) for value in (*node.args[1:5], *layer.args[1:3])):
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
        if node.target is not aten.mean.dim or node.kwargs:  # a dtype of its own
            continue
        source, dims, keepdim = (*node.args, False)[:3]
        if len(shapes.get(source.name, ())) != 4 or sorted(dim % 4 for dim in dims or ()) != [2, 3]:
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
