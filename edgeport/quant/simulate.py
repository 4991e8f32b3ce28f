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

from edgeport.graph.execute import FUSED_ACTIVATIONS, HARDTANHS, Executor
from edgeport.graph.moves import only_moves
from edgeport.graph.provenance import provenance_keys
from edgeport.quant.affine import Affine, asymmetric, rounded_bias
from edgeport.quant.layers import bias_of, integer_weight, layer_bits, real_weight, weight_of, weighted_nodes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from edgeport.types import WeightBits

CLIPS = (*FUSED_ACTIVATIONS, *HARDTANHS)


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
            weight_bits: of the file; a layer's own follow (`layer_bits`).
            layers: provenance keys of the layers that are quantized, their inputs with them; None: everything is.
        """
        keys = provenance_keys(module.graph)
        bits = layer_bits(module, weight_bits)
        quantized = copy.deepcopy(module)
        for node in weighted_nodes(quantized):
            if layers is None or keys[node.name] in layers:
                read = ranges.get(keys.get(str(node.args[0]), ""))
                _round_layer(quantized, node, bits[keys[node.name]], None if read is None else asymmetric(*read))
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


def _round_layer(module: GraphModule, node: Node, bits: WeightBits, read: Affine | None) -> None:
    """Round a layer's weight, and its bias to 32 bits; `read`: how its input is quantized, None: not at all."""
    bias = bias_of(module, node)
    scale = 1.0 if read is None else read.scale
    known = None if bias is None or read is None else bias.float().numpy()
    found = integer_weight(weight_of(module, node), bits, bias=known, input_scale=scale)
    rounded = {"weight": real_weight(torch.from_numpy(found.integers), torch.from_numpy(found.scales))}
    if known is not None:
        rounded["bias"] = torch.from_numpy(rounded_bias(known, input_scale=scale, weight_scales=found.scales))
    for place, (name, value) in enumerate(rounded.items(), start=1):
        module.register_buffer(f"{node.name}_rounded_{name}", value)
        with module.graph.inserting_before(node):
            node.update_arg(place, module.graph.get_attr(f"{node.name}_rounded_{name}"))


def rounded_activations(module: GraphModule, layers: Collection[str] | None = None) -> set[str]:
    """Return the keys of activations that are rounded.

    A value that only a ReLU or clip reads is not stored, and one that was only moved is on its source's grid already.
    """
    keys = provenance_keys(module.graph)
    if layers is not None:
        nodes = [node.args[0] for node in weighted_nodes(module) if keys[node.name] in layers]
        return {keys[node.name] for node in nodes if isinstance(node, Node) and node.name in keys}
    return {
        keys[node.name]
        for node in module.graph.nodes
        if node.name in keys
        and not only_moves(node)
        and not (len(node.users) == 1 and next(iter(node.users)).target in CLIPS)
    }
