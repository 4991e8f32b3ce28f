"""A traced network as JSON and back, so that a finished folder can compute it without the user's code.

Only the graph is written: operators by name, arguments as plain values, the module path of each node. Weights lie in
`model.safetensors` under their `state_dict` names; tensors without such a name (constants of a `forward`) are in the
JSON. Unlike a saved program it holds no pickle, no source line and no path of the machine that made it.
"""

from __future__ import annotations

import base64
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch.fx import Graph, GraphModule, Node

from edgeport.errors import ConfigError
from edgeport.graph.canonical import attribute
from edgeport.graph.provenance import module_path

ENUMERATIONS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


class _Node(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    op: str
    target: str
    args: list[object] = []
    kwargs: dict[str, object] = {}
    module: str = ""


class _Constant(msgspec.Struct, frozen=True):
    dtype: str
    shape: list[int]
    data: str


class _Network(msgspec.Struct, frozen=True):
    nodes: list[_Node]
    constants: dict[str, _Constant]


def store_network(module: GraphModule) -> bytes | None:
    """Return the JSON form of a traced network; None where it holds something that has no such form."""
    nodes, constants = [], {}
    known = module.state_dict()
    try:
        for node in module.graph.nodes:
            if node.op == "call_module" and not node.users:
                continue  # torch.export's input guard
            if node.op == "get_attr" and str(node.target) not in known:
                constants[str(node.target)] = _constant(attribute(module, str(node.target)))
            nodes.append(
                _Node(
                    name=node.name,
                    op=node.op,
                    target=_target_name(node),
                    args=[_plain(value) for value in _arguments(node)],
                    kwargs={name: _plain(value) for name, value in node.kwargs.items()},
                    module=module_path(node),
                )
            )
    except (ValueError, AttributeError):  # a sub-graph, an object of the user's, a tensor subclass
        return None
    return msgspec.json.encode(_Network(nodes=nodes, constants=constants)) + b"\n"


def restore_network(content: bytes, weights: Mapping[str, torch.Tensor]) -> GraphModule:
    """Return the network of `store_network`.

    Args:
        content: what was stored.
        weights: `state_dict` name -> value.

    Raises:
        ConfigError: damaged, an operator that this installation does not have, or weights that are missing.
    """
    try:
        stored = msgspec.json.decode(content, type=_Network)
        tensors = {name: _tensor(constant) for name, constant in stored.constants.items()} | dict(weights)
        root = torch.nn.Module()
        graph = Graph()
        made: dict[str, Node] = {}
        for entry in stored.nodes:
            if entry.op == "get_attr":
                _put(root, entry.target, tensors[entry.target])
            made[entry.name] = _add(graph, entry, made)
        module = GraphModule(root, graph)
        module.graph.lint()
    except KeyError as error:
        raise ConfigError(f"the stored network needs {error.args[0]!r}, which is not there") from error
    except (msgspec.MsgspecError, ValueError, AttributeError, RuntimeError, TypeError) as error:
        raise ConfigError(f"the stored network cannot be read: {str(error).splitlines()[0]}") from error
    return module


def _arguments(node: Node) -> Sequence[object]:
    """Return a node's arguments; of the output node the tensors alone, whatever the user nests them in."""
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(node.args) if isinstance(leaf, Node)] if node.op == "output" else node.args


def _target_name(node: Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)  # aten.conv2d.default
    name = getattr(node.target, "__name__", "")
    if getattr(operator, name, None) is not node.target:
        raise ValueError(f"no name for {node.target}")
    return f"operator.{name}"


def _target(name: str) -> Any:
    space, *path = name.split(".")
    if space == "operator" and len(path) == 1:
        return getattr(operator, path[0])
    found: Any = getattr(torch.ops, space)
    for part in path:
        found = getattr(found, part)
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"unknown operator {name}")
    return found


def _plain(value: object) -> object:
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    for kind, cls in ENUMERATIONS.items():
        if isinstance(value, cls):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, float) and not -torch.inf < value < torch.inf:
        return {"float": str(value)}
    if value is None or type(value) in {bool, int, float, str}:
        return value
    raise ValueError(f"no plain form of {type(value).__name__}")


def _value(plain: object, made: Mapping[str, Node]) -> Any:
    if isinstance(plain, list):
        return [_value(item, made) for item in plain]
    if not isinstance(plain, dict):
        return plain
    (kind, name), *_ = plain.items()
    if kind == "node":
        return made[name]
    if kind == "device":
        return torch.device(name)
    if kind == "float":
        return float(name)
    found = getattr(torch, name)
    if not isinstance(found, ENUMERATIONS[kind]):
        raise ValueError(f"{name} is no {kind}")
    return found


def _add(graph: Graph, entry: _Node, made: Mapping[str, Node]) -> Node:
    args = tuple(_value(value, made) for value in entry.args)
    if entry.op == "output":
        output: Node = graph.output(args)
        return output
    kwargs = {name: _value(value, made) for name, value in entry.kwargs.items()}
    target = _target(entry.target) if entry.op == "call_function" else entry.target
    node: Node = graph.create_node(entry.op, target, args, kwargs, name=entry.name)
    if entry.module:
        node.meta["nn_module_stack"] = {entry.module: (entry.module, torch.nn.Module)}
    return node


def _constant(value: torch.Tensor) -> _Constant:
    array = value.detach().contiguous().numpy()
    return _Constant(
        dtype=str(value.dtype).removeprefix("torch."),
        shape=list(value.shape),
        data=base64.b64encode(array.tobytes()).decode(),
    )


def _tensor(constant: _Constant) -> torch.Tensor:
    data = bytearray(base64.b64decode(constant.data))
    dtype = getattr(torch, constant.dtype)
    flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.reshape(constant.shape)


def _put(root: torch.nn.Module, path: str, value: torch.Tensor) -> None:
    owner = root
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(owner, parent):
            owner.add_module(parent, torch.nn.Module())
        owner = getattr(owner, parent)
    if not hasattr(owner, name):
        owner.register_buffer(name, value)
