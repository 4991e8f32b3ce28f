"""Take in-place operators out of a traced graph: `x += y` and `ReLU(inplace=True)` overwrite what others look at.

A recorded activation would change after it was recorded, and a network that starts with `x -= mean` would change its
caller's samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.fx import GraphModule

aten = torch.ops.aten

# May return their input itself, though their schemas do not say so.
PASS_THROUGH = (aten.dropout.default, aten.feature_dropout.default, aten.lift_fresh_copy.default)


def make_functional(module: GraphModule) -> None:
    """Replace every in-place operator of `module` by its functional form, in place.

    One that writes through a view, into a weight, or with another dtype's value stays as it is.
    """
    for node in list(module.graph.nodes):
        functional = _functional_form(node)
        if functional is None or not _is_sole_owner(node):
            continue
        overwritten = node.args[0]
        later = _after(node)
        with module.graph.inserting_after(node):
            new = module.graph.call_function(functional, node.args, node.kwargs)
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        overwritten.replace_all_uses_with(new, delete_user_cb=lambda user, later=later: user in later)
        module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()


def has_mutation(module: GraphModule) -> bool:
    """Whether an operator that overwrites one of its arguments is left."""
    schemas = (getattr(node.target, "_schema", None) for node in module.graph.nodes)
    return any(schema is not None and schema.is_mutable for schema in schemas)


def _functional_form(node: Node) -> torch._ops.OpOverload | None:
    """Return `aten.add.Tensor` for `aten.add_.Tensor`; None where the node overwrites nothing."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return None
    name = target._schema.name.removeprefix("aten::")
    packet = getattr(aten, name.removesuffix("_"), None)
    if not name.endswith("_") or packet is None or not _keeps_dtype(node):
        return None
    found: torch._ops.OpOverload | None = getattr(packet, target._schema.overload_name or "default", None)
    return found


def _keeps_dtype(node: Node) -> bool:
    """Whether all tensors that go in have one dtype: an in-place operator casts, its functional form promotes."""
    values = [argument.meta.get("val") for argument in node.all_input_nodes if argument.op != "get_attr"]
    return len({value.dtype for value in values if isinstance(value, torch.Tensor)}) <= 1


def _is_sole_owner(node: Node) -> bool:
    """Whether nothing but the overwritten node itself shows its memory to what runs after `node`."""
    later = _after(node)
    owner = node.args[0]
    while isinstance(owner, Node):
        others = [user for user in owner.users if user is not node and user not in later]
        if any(_is_alias(user) for user in others if user is not _source_user(owner, node)):
            return False
        if not _is_alias(owner):
            return owner.op in ("placeholder", "call_function")
        source = owner.args[0]
        if not isinstance(source, Node) or len(source.users) > 1:
            return False
        owner = source
    return False


def _source_user(owner: Node, node: Node) -> Node | None:
    """Return the only user of a value that is looked at through an alias; None for the overwritten node itself."""
    return next(iter(owner.users)) if owner is not node.args[0] else None


def _is_alias(node: Node) -> bool:
    """Whether the node's result may share memory with its first argument."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return node.op == "call_function"  # getitem and the like
    returns = node.target._schema.returns
    return node.target in PASS_THROUGH or any(value.alias_info is not None for value in returns)


def _after(node: Node) -> set[Node]:
    return set(_following(node))


def _following(node: Node) -> Iterator[Node]:
    current = node.next
    while current.op != "root":
        yield current
        current = current.next
