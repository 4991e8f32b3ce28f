"""Weights and biases that take a layer's place in int8 files, and how they lie in the store.

Corrected weights lie on the grid that every backend rounds to (`affine.symmetric_weight`: integer times scale, with the
channel's largest weight untouched, so that the scale is the same again). So each backend finds exactly these integers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.fx import GraphModule

from edgeport.graph.provenance import provenance_keys
from edgeport.quant.layers import bias_of, weight_of, weighted_nodes
from edgeport.quant.weight_grid import LARGEST

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeport.types import WeightBits


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """What one convolution or linear layer multiplies with and adds.

    Attributes:
        weight: shape of the float layer's weight, `(out, in / groups, ...)`, float32.
        bias: `(out,)` float32; None where the layer has none.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None


Layers = dict[str, LayerWeights]  # provenance key -> weights


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """Corrected layers of one network.

    Attributes:
        layers: bits of a weight -> provenance key -> the layer as int8 files of these bits have it. Layers that are
            not named stay as they are.
    """

    layers: Mapping[WeightBits, Mapping[str, LayerWeights]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write to one `.npz` without pickle."""
        arrays: dict[str, np.ndarray] = {}
        names: list[str] = []
        for bits, layers in self.layers.items():
            for key, layer in layers.items():
                arrays[f"weight{len(names)}"] = layer.weight
                if layer.bias is not None:
                    arrays[f"bias{len(names)}"] = layer.bias
                names.append(f"{bits}:{key}")
        with path.open("wb") as file:
            np.savez(file, names=np.array(names, dtype=np.str_), **arrays)  # type: ignore[arg-type]  # numpy's stub

    @classmethod
    def load(cls, path: Path) -> Corrections:
        """Read what `save` wrote."""
        layers: dict[WeightBits, Layers] = {}
        with np.load(path, allow_pickle=False) as data:
            for index, name in enumerate(data["names"]):
                number, _, key = str(name).partition(":")
                bits = next(bits for bits in LARGEST if str(bits) == number)
                bias = data[f"bias{index}"] if f"bias{index}" in data.files else None
                layers.setdefault(bits, {})[key] = LayerWeights(weight=data[f"weight{index}"], bias=bias)
        return cls(layers=layers)


def with_layers(module: GraphModule, layers: Mapping[str, LayerWeights]) -> GraphModule:
    """Return a copy of a canonical network in which these layers (by provenance key) have these weights and biases."""
    if not layers:
        return module
    result = GraphModule(module, copy.deepcopy(module.graph))  # has its own buffers; the tensors are shared
    keys = provenance_keys(result.graph)
    for node in weighted_nodes(result):
        found = layers.get(keys[node.name])
        if found is None:
            continue
        values = {"weight": found.weight, "bias": found.bias}
        for place, (name, value) in enumerate(values.items(), start=1):
            if value is not None:
                path = f"{node.name}_corrected_{name}"
                result.register_buffer(path, torch.from_numpy(value))
                with result.graph.inserting_before(node):
                    node.update_arg(place, result.graph.get_attr(path))
    result.graph.eliminate_dead_code()
    result.recompile()
    return result


def correctable_layers(module: GraphModule, ranges: Collection[str]) -> list[str]:
    """Return the provenance keys of layers that are quantized and share no constant with another, in order.

    Args:
        module: canonical form.
        ranges: provenance keys of the activations with a known range; a layer that reads another stays in float.
    """
    keys = provenance_keys(module.graph)
    nodes = weighted_nodes(module)
    constants = [str(argument.target) for node in nodes for argument in node.args[1:3] if argument is not None]  # type: ignore[union-attr]  # get_attr nodes
    return [
        keys[node.name]
        for node in nodes
        if keys.get(getattr(node.args[0], "name", "")) in ranges
        and all(constants.count(str(a.target)) == 1 for a in node.args[1:3] if a is not None)  # type: ignore[union-attr]  # as above
    ]


def float_layers(module: GraphModule) -> Layers:
    """Return node name -> weight and bias of every layer of a network, as they are."""
    found: Layers = {}
    for node in weighted_nodes(module):
        bias = bias_of(module, node)
        found[node.name] = LayerWeights(
            weight=weight_of(module, node).numpy(), bias=None if bias is None else bias.numpy()
        )
    return found


def not_corrected(layers: Sequence[str]) -> tuple[str, ...]:
    """Return the sentence for the report that names layers whose constants the file has in another form, or nothing."""
    if not layers:
        return ()
    return (f"weights not corrected, the file has them in another form: {', '.join(layers)}",)
