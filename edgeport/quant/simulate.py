"""The int8 network computed in float: every quantized activation and weight is rounded to its grid.

What a choice costs downstream can be seen here without writing a file: the runtimes' integer kernels differ from it by
rounding alone. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018), section 3 (simulated quantization).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule, Node

from edgeport.graph.canonical import CONVOLUTIONS, LAYERS, attribute, is_constant
from edgeport.graph.execute import FUSED_ACTIVATIONS, HARDTANHS, Executor
from edgeport.graph.provenance import provenance_keys
from edgeport.quant.affine import Affine, WeightBits, asymmetric, symmetric_weight
from edgeport.quant.onnx_placement import is_depthwise

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


class Simulator:
    """A canonical network with some or all of its layers in simulated int8."""

    def __init__(
        self,
        module: GraphModule,
        example_inputs: Sequence[torch.Tensor],
        ranges: Mapping[str, tuple[float, float]],
        *,
        weight_bits: WeightBits = 8,
        layers: Collection[str] | None = None,
    ) -> None:
        """Quantize the weights; `module` is left as it is.

        Args:
            module: canonical form (`canonicalize`).
            example_inputs: a batch of one an input.
            ranges: provenance key -> (low, high) of activations; what has none stays float.
            weight_bits: of all layers but depthwise ones, which keep 8.
            layers: provenance keys of the layers that are quantized, their inputs with them; None: everything is.
        """
        keys = provenance_keys(module.graph)
        quantized = copy.deepcopy(module)
        for node in weighted_nodes(quantized):
            if layers is None or keys[node.name] in layers:
                _round_weight(quantized, node, weight_bits)
        self.affines = {key: asymmetric(*ranges[key]) for key in rounded_activations(module, layers) if key in ranges}
        self._executor = Executor(quantized, example_inputs)

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the network's outputs for one batch."""

        def rounded(key: str, value: torch.Tensor) -> torch.Tensor | None:
            affine = self.affines.get(key)
            return None if affine is None or not value.is_floating_point() else fake_quantize(value, affine)

        return self._executor.run(inputs, rounded)


def fake_quantize(values: torch.Tensor, affine: Affine) -> torch.Tensor:
    """Return the reals that the integers of these values stand for; any shape, float32."""
    low, high = affine.smallest - affine.zero_point, affine.largest - affine.zero_point
    steps = torch.mul(values, 1 / affine.scale)  # three times as fast as torch.fake_quantize_per_tensor_affine
    return steps.round_().clamp_(low, high).mul_(affine.scale)


def weighted_nodes(module: GraphModule) -> list[Node]:
    """Return the convolutions and linear layers with constant weights, in order."""
    return [
        node for node in module.graph.nodes if node.target in LAYERS and all(is_constant(arg) for arg in node.args[1:3])
    ]


def quantized_weight(node: Node, weight: torch.Tensor, weight_bits: WeightBits) -> torch.Tensor:
    """Return a layer's weight as its integers stand for it, in its own shape."""
    groups = node.args[6] if node.target in CONVOLUTIONS and len(node.args) > 6 else 1
    is_deep = node.target in CONVOLUTIONS and is_depthwise(weight.shape, int(str(groups)))
    found = symmetric_weight(weight.float().numpy(), axis=0, bits=8 if is_deep else weight_bits)
    scales = torch.from_numpy(found.scales).reshape(-1, *[1] * (weight.dim() - 1))
    return torch.from_numpy(found.integers).float() * scales


def _round_weight(module: GraphModule, node: Node, weight_bits: WeightBits) -> None:
    name = f"{node.name}_rounded"
    weight = attribute(module, str(node.args[1].target)).detach()  # type: ignore[union-attr]  # a get_attr node
    module.register_buffer(name, quantized_weight(node, weight, weight_bits))
    with module.graph.inserting_before(node):
        node.update_arg(1, module.graph.get_attr(name))


def rounded_activations(module: GraphModule, layers: Collection[str] | None = None) -> set[str]:
    """Return the keys of activations that are rounded: a value that only a ReLU or clip reads is not stored."""
    keys = provenance_keys(module.graph)
    if layers is not None:
        nodes = [node.args[0] for node in weighted_nodes(module) if keys[node.name] in layers]
        return {keys[node.name] for node in nodes if isinstance(node, Node) and node.name in keys}
    clips = (*FUSED_ACTIVATIONS, *HARDTANHS)
    return {
        keys[node.name]
        for node in module.graph.nodes
        if node.name in keys and not (len(node.users) == 1 and next(iter(node.users)).target in clips)
    }
