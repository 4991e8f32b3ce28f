"""The float network of a finished folder in PyTorch: every layer's value, and what a layer makes of given inputs."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgeport.errors import ConfigError
from edgeport.graph.canonical import attribute, canonicalize
from edgeport.graph.provenance import provenance_keys
from edgeport.graph.stored import restore_network
from edgeport.stages.persistence import EQUALIZED, EQUALIZED_NETWORK, NETWORK, WEIGHTS

ACTIVATIONS = frozenset({"relu", "relu6", "hardtanh", "clamp", "relu_", "relu6_", "hardtanh_", "clamp_"})
WITH_WEIGHTS = ("conv", "linear", "addmm")

Values = dict[str, Any]  # node name -> tensor (or tuple of tensors)
Substitute = Callable[[str, torch.Tensor], torch.Tensor | None]


class Network:
    """A canonical float network.

    Attributes:
        keys: provenance keys to look at, in execution order: floating-point values, without those that only an
            activation function reads (runtimes compute both at once).
    """

    def __init__(self, module: GraphModule, example: Sequence[np.ndarray]) -> None:
        """Bring `module` (as traced) into canonical form; `example`: one sample, `(1, ...)` arrays."""
        inputs = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in example)
        self.module = canonicalize(module, inputs)
        self.nodes: list[Node] = list(self.module.graph.nodes)
        self.place_of = {node.name: place for place, node in enumerate(self.nodes)}
        names = provenance_keys(self.module.graph)
        values = self.values(example)
        self.key_of = {
            node.name: names[node.name] for node in self.nodes if node.name in names and _is_seen(node, values)
        }
        self.keys = tuple(self.key_of.values())
        self.by_key = {node.name: node for node in self.nodes}
        self.by_key = {key: self.nodes[self.place_of[name]] for name, key in self.key_of.items()}

    def values(self, inputs: Sequence[np.ndarray]) -> Values:
        """Return every node's value for one sample."""
        return self.replay(inputs, lambda key, own: None)

    def replay(self, inputs: Sequence[np.ndarray], substitute: Substitute) -> Values:
        """Run one sample; each layer reads what `substitute(node name, own value)` gave instead of the values before.

        Where it gives None, the own value goes on. The result holds what went on.
        """
        values: Values = {}
        given = iter(inputs)
        with torch.no_grad():
            for node in self.nodes:
                if node.op == "placeholder":
                    values[node.name] = torch.from_numpy(np.ascontiguousarray(next(given)))
                elif node.op == "get_attr":
                    values[node.name] = attribute(self.module, str(node.target))
                    continue
                elif node.op == "output":
                    break
                else:
                    values[node.name] = compute(node, values)
                if isinstance(values[node.name], torch.Tensor):
                    other = substitute(node.name, values[node.name])
                    values[node.name] = values[node.name] if other is None else other
        return values

    def effects(self, name: str, changed: torch.Tensor, clean: Values, seen: frozenset[str]) -> Values:
        """Return what the next visible values become when one value is another.

        Args:
            name: the node whose value changes.
            changed: its other value.
            clean: all values of the undisturbed network.
            seen: names of the visible nodes: the change is followed up to them.
        """
        values: ChainMap[str, Any] = ChainMap({name: changed}, clean)
        result: Values = {}
        waiting = [self.place_of[user.name] for user in self.nodes[self.place_of[name]].users]
        heapify(waiting)  # in execution order, so that a node's touched arguments are known before it
        done: set[int] = set()
        with torch.no_grad():
            while waiting:
                place = heappop(waiting)
                node = self.nodes[place]
                if place in done or node.op == "output":
                    continue
                done.add(place)
                value = compute(node, values)
                if node.name in seen:
                    result[node.name] = value
                    continue
                values[node.name] = value
                for user in node.users:
                    heappush(waiting, self.place_of[user.name])
        return result

    def layer_of(self, key: str) -> Node:
        """Return the node with weights that a value comes from: itself, or the one before a fused activation."""
        node = self.by_key[key]
        while _operator(node) in ACTIVATIONS and isinstance(node.args[0], Node):
            node = node.args[0]
        return node

    def layer_key(self, key: str) -> str:
        """Return how a layer is called for people: the key of its convolution rather than of the ReLU in it."""
        names = provenance_keys(self.module.graph)
        node = self.layer_of(key)
        return names.get(node.name, key) if _operator(node).startswith(WITH_WEIGHTS) else key

    def outliers(self, key: str) -> float:
        """Return how many times larger a layer's largest channel of weights is than its median one.

        Channels are those that it gives or those that it reads, whichever are further apart; 1 without weights.
        """
        worst = 1.0
        for operand in self.layer_of(key).all_input_nodes:
            if operand.op != "get_attr":
                continue
            weight = attribute(self.module, str(operand.target)).detach()
            for axis in (0, 1) if weight.dim() > 1 else ():
                largest = weight.abs().amax([other for other in range(weight.dim()) if other != axis])
                worst = max(worst, float(largest.max() / largest.median().clamp_min(1e-30)))
        return worst

    def feeds(self, key: str) -> tuple[str, ...]:
        """Return the keys of the values that a layer reads."""
        found: dict[str, None] = {}
        waiting = list(self.by_key[key].all_input_nodes)
        while waiting:
            node = waiting.pop()
            if node.name in self.key_of:
                found[self.key_of[node.name]] = None
            else:
                waiting.extend(node.all_input_nodes)
        return tuple(found)


def open_network(folder: Path, example: Sequence[np.ndarray]) -> Network | None:
    """Return the float network of an output folder; None where the build could not store its graph.

    Raises:
        ConfigError: its files are damaged, or do not take such samples.
    """
    graph, weights = folder / NETWORK, folder / WEIGHTS
    if (folder / EQUALIZED).is_file():
        graph, weights = folder / EQUALIZED_NETWORK, folder / EQUALIZED
    if not graph.is_file() or not weights.is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"'{weights}' cannot be read: {error}") from error
    module = restore_network(graph.read_bytes(), state)
    try:
        return Network(module, example)
    except (RuntimeError, StopIteration, IndexError) as error:
        shapes = ", ".join(str(tuple(array.shape)) for array in example)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"the network of '{folder}' does not take samples of shape {shapes}: {reason}") from error


def compute(node: Node, values: Mapping[str, Any]) -> Any:
    """Return what a node makes of its arguments' values."""
    args, kwargs = map_arg((node.args, node.kwargs), lambda argument: values[argument.name])
    schema = getattr(node.target, "_schema", None)
    if schema is not None and schema.is_mutable:
        args = tuple(value.clone() if isinstance(value, torch.Tensor) else value for value in args)
    return node.target(*args, **kwargs)  # type: ignore[operator]  # a call_function node's target is callable


def _operator(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).rpartition("::")[2]


def _is_seen(node: Node, values: Values) -> bool:
    value = values.get(node.name)
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel():
        return False
    readers = list(node.users)
    return not (len(readers) == 1 and _operator(readers[0]) in ACTIVATIONS)
