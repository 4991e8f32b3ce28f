"""Residual blocks that can be left out of a network: `y = x + f(x)` becomes `y = x`.

Which block does least is measured, not guessed: each is left out in turn and the outputs are compared. Blocks of a
residual network can be taken out one by one because every path around them remains: Veit et al., "Residual Networks
Behave Like Ensembles of Relatively Shallow Networks" (2016, arXiv:1605.06431), section 4.1.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch.fx import GraphModule, Node

from edgeport.graph.canonical import drop_unused
from edgeport.graph.provenance import provenance_keys
from edgeport.pruning.operation import concrete_shapes, operator_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    Batch: TypeAlias = Sequence[torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A branch that is added to the value it starts from.

    Attributes:
        name: module path of the branch's layers, as far as they share one.
        key: provenance key of the addition, by which the block is found again in a fresh trace.
        layers: names of the weights of the branch.
    """

    name: str
    key: str
    layers: tuple[str, ...]


def find_blocks(module: GraphModule, example_inputs: Batch) -> tuple[Block, ...]:
    """Return the residual blocks of a traced network that keep their input's shape, in the order they run."""
    return tuple(block for block, _, _ in _blocks(module, example_inputs))


def without_blocks(module: GraphModule, example_inputs: Batch, keys: Sequence[str]) -> GraphModule:
    """Return a copy without these blocks and their weights; `module` stays.

    Args:
        module: the traced network.
        example_inputs: one batch, for shapes.
        keys: of the blocks, as `find_blocks` gives them for this network.

    Raises:
        ValueError: there is no such block.
    """
    result = copy.deepcopy(module)
    found = _blocks(result, example_inputs)
    known = [block.key for block, _, _ in found]
    for key in keys:
        if key not in known:
            raise ValueError(f"no residual block '{key}'; there are {', '.join(known) or 'none'}")
    replaced: dict[Node, Node] = {}
    for block, addition, source in found:  # in the order they run: a source that is gone has its own source by then
        if block.key in keys:
            replaced[addition] = replaced.get(source, source)
            addition.replace_all_uses_with(replaced[addition])
    result.graph.eliminate_dead_code()
    result.graph.lint()
    result.recompile()
    drop_unused(result)
    return result


def least_needed(module: GraphModule, example_inputs: Batch, batches: Sequence[Batch], count: int) -> dict[str, float]:
    """Return the keys of `count` blocks to leave out, in the order found, each with the error so far.

    One block after another: of all that are left, the one without which the outputs change least. The error is the
    mean over outputs of sum (y' - y)^2 / sum y^2 over the samples, y of the whole network.

    Args:
        module: the traced network.
        example_inputs: one batch, for shapes.
        batches: samples, a tensor an input each.
        count: how many blocks, at most as many as there are.
    """
    exact = _outputs(module, batches)
    candidates = [block.key for block in find_blocks(module, example_inputs)]
    chosen: dict[str, float] = {}
    for _ in range(min(count, len(candidates))):
        errors = {
            key: _error(exact, _outputs(without_blocks(module, example_inputs, [*chosen, key]), batches))
            for key in candidates
            if key not in chosen
        }
        best = min(errors, key=lambda key: errors[key])
        chosen[best] = errors[best]
    return chosen


def _blocks(module: GraphModule, example_inputs: Batch) -> list[tuple[Block, Node, Node]]:
    """Return (block, its addition, the value it starts from)."""
    shapes = concrete_shapes(module, example_inputs)
    keys = provenance_keys(module.graph)
    found = []
    for node in module.graph.nodes:
        operands = node.args[:2]
        if operator_name(node) not in ("add", "add_") or not all(isinstance(operand, Node) for operand in operands):
            continue
        if node.kwargs or len(node.args) > 2:  # alpha: without the branch the other operand may be left scaled
            continue
        if any(shapes.get(operand) != shapes.get(node) for operand in operands):
            continue
        for source, branch in (operands, operands[::-1]):
            layers = _branch(source, branch)
            if layers:
                found.append((Block(name=_common(layers), key=keys[node.name], layers=layers), node, source))
                break
    return found


def _branch(source: Node, branch: Node) -> tuple[str, ...]:
    """Return the weights between `source` and `branch`; none where it is no branch of that source alone."""
    inside: set[Node] = set()
    waiting = [branch]
    while waiting:
        node = waiting.pop()
        if node is not source and node not in inside:
            inside.add(node)
            waiting += node.all_input_nodes
    operators = [node for node in inside if node.op == "call_function"]
    is_alone = len(branch.users) == 1 and all(set(node.users) <= inside for node in operators if node is not branch)
    reads_source = any(source in node.all_input_nodes for node in operators)
    if not (is_alone and reads_source) or any(node.op == "placeholder" for node in inside):
        return ()
    return tuple(sorted(str(node.target) for node in inside if node.op == "get_attr"))


def _common(paths: Sequence[str]) -> str:
    """Return the module path that all these parameters share."""
    owners = [path.split(".")[:-1] for path in paths]
    shared = [parts[0] for parts in zip(*owners, strict=False) if len(set(parts)) == 1]
    return ".".join(shared)


def _outputs(module: GraphModule, batches: Sequence[Batch]) -> list[torch.Tensor]:
    with torch.no_grad():
        runs = [module(*batch) for batch in batches]
    tuples = [run if isinstance(run, (tuple, list)) else (run,) for run in runs]
    return [torch.cat(parts) for parts in zip(*tuples, strict=True)]


def _error(exact: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    ratios = [
        float((two - one).double().square().sum() / one.double().square().sum().clamp(min=1e-300))
        for one, two in zip(exact, other, strict=True)
        if one.is_floating_point()
    ]
    return sum(ratios) / max(1, len(ratios))
