"""Correct layers one after another: the float network and its int8 forms run side by side, node by node.

When a layer's turn comes, what arrives at it in the float and in each int8 network is at hand for all samples, so its
integers and bias are chosen for what the corrected layers before it really give, and the walk goes on with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgeport.graph.canonical import attribute
from edgeport.graph.provenance import provenance_keys
from edgeport.quant.adaround import LARGEST_INPUTS, moments, rounding, solve
from edgeport.quant.affine import Affine, IntegerWeight, asymmetric
from edgeport.quant.bias_correction import measured_shift
from edgeport.quant.corrections import Corrections, Layers, LayerWeights, correctable_layers
from edgeport.quant.layers import (
    bias_of,
    channel_dimension,
    compute,
    integer_weight,
    layer_bits,
    on_grid,
    weight_of,
)
from edgeport.quant.simulate import fake_quantize, rounded_activations
from edgeport.quant.weight_grid import LARGEST
from edgeport.types import WeightBits

FLOAT = 0  # the place of the float network among the networks that run side by side
Batches = list[torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Methods:
    """What is done to each layer.

    Attributes:
        bias: correct biases.
        adaround: provenance keys of the layers whose weights are rounded by AdaRound; the others are rounded to nearest
            with balanced errors (`affine.symmetric_weight`).
        iterations: of AdaRound's relaxation, at most; 0: only flips.
        layer_macs: multiply-adds that one layer's relaxation may take; large layers get fewer iterations.
    """

    bias: bool = True
    adaround: frozenset[str] = frozenset()
    iterations: int = 200
    layer_macs: int = 5 * 10**9


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """What a walk gave.

    Attributes:
        corrections: the layers.
        noise: bits -> provenance key -> how much of its output's power the layer added as error (0: nothing), given
            what arrived.
        skipped: layers that AdaRound was asked for and has no room for.
    """

    corrections: Corrections
    noise: Mapping[WeightBits, Mapping[str, float]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


def correct_layers(
    module: GraphModule,
    batches: Sequence[Sequence[torch.Tensor]],
    ranges: Mapping[str, tuple[float, float]],
    *,
    weight_bits: Sequence[WeightBits],
    methods: Methods,
) -> Corrected:
    """Return every layer's corrected weight and bias for each number of bits.

    Args:
        module: canonical form; left as it is.
        batches: calibration samples, a tensor an input each.
        ranges: provenance key -> calibrated (low, high) of activations; a layer that reads another stays in float.
        weight_bits: of the int8 networks.
        methods: what to do.
    """
    walk = _Walk(module, ranges, tuple(weight_bits), methods)
    with torch.no_grad():
        run_side_by_side(module, batches, 1 + len(weight_bits), layer=walk.layer, value=walk.rounded)
    return Corrected(
        corrections=Corrections(layers=walk.layers), noise=walk.noise, skipped=tuple(dict.fromkeys(walk.skipped))
    )


def run_side_by_side(
    module: GraphModule,
    batches: Sequence[Sequence[torch.Tensor]],
    networks: int,
    *,
    layer: Callable[[Node, list[Batches]], list[Batches] | None],
    value: Callable[[Node, int, torch.Tensor], torch.Tensor],
) -> None:
    """Run a graph for all batches in several networks at once, node by node; a value lives until its last use.

    Args:
        module: the graph.
        batches: samples, a tensor an input each.
        networks: how many.
        layer: given an operator and its first input in each network (batch by batch), returns its output, or None:
            the operator is run as the graph says.
        value: given an operator, the network and a result, returns what takes its place.
    """
    held: dict[Node, Any] = {}  # [network][batch]
    last = {operand: node for node in module.graph.nodes for operand in node.all_input_nodes}
    pictures = [[_channels_last(tensor) for tensor in batch] for batch in batches]
    inputs = iter(range(len(pictures[0])))
    for node in module.graph.nodes:
        if node.op == "placeholder":
            place = next(inputs)
            held[node] = [[batch[place] for batch in pictures] for _ in range(networks)]
        elif node.op == "get_attr":
            constant = attribute(module, str(node.target))
            held[node] = [[constant] * len(batches)] * networks
            continue
        elif node.op == "call_function":
            source = node.args[0] if node.args and isinstance(node.args[0], Node) else None
            done = layer(node, held[source]) if source is not None else None
            held[node] = done or [
                [_called(node, held, network, batch) for batch in range(len(batches))] for network in range(networks)
            ]
        else:
            continue
        held[node] = [
            [value(node, network, found) if isinstance(found, torch.Tensor) else found for found in found_batches]
            for network, found_batches in enumerate(held[node])
        ]
        for operand in node.all_input_nodes:
            if last[operand] is node:
                del held[operand]


def _called(node: Node, held: Mapping[Node, Any], network: int, batch: int) -> object:
    def known(operand: Node) -> Any:
        return held[operand][network][batch]

    function: Any = node.target
    return function(*map_arg(node.args, known), **map_arg(node.kwargs, known))


class _Walk:
    """The rules of `correct_layers`, and what they gave so far."""

    def __init__(
        self,
        module: GraphModule,
        ranges: Mapping[str, tuple[float, float]],
        weight_bits: tuple[WeightBits, ...],
        methods: Methods,
    ) -> None:
        self.module, self.weight_bits, self.methods = module, weight_bits, methods
        self.keys = provenance_keys(module.graph)
        self.affines = {key: asymmetric(*ends) for key, ends in ranges.items()}
        self.stored = rounded_activations(module, None)
        self.correctable = set(correctable_layers(module, self.affines))
        self.bits = {bits: layer_bits(module, bits) for bits in weight_bits}
        self.layers: dict[WeightBits, Layers] = {bits: {} for bits in weight_bits}
        self.noise: dict[WeightBits, dict[str, float]] = {bits: {} for bits in weight_bits}
        self.skipped: list[str] = []

    def rounded(self, node: Node, network: int, value: torch.Tensor) -> torch.Tensor:
        """Return an activation as the network stores it."""
        key = self.keys.get(node.name, "")
        if network == FLOAT or key not in self.stored or key not in self.affines or not value.is_floating_point():
            return value
        return fake_quantize(value, self.affines[key])

    def layer(self, node: Node, arriving: list[Batches]) -> list[Batches] | None:
        """Correct a layer for each number of bits and return its outputs in all networks."""
        key = self.keys.get(node.name, "")
        if key not in self.correctable:
            return None
        weight, bias = weight_of(self.module, node), bias_of(self.module, node)
        outputs = [[compute(node, value, weight, bias) for value in arriving[FLOAT]]]
        for place, bits in enumerate(self.weight_bits, start=1):
            rounded = self._rounded_weight(node, bits, arriving[FLOAT], arriving[place])
            given = [compute(node, value, rounded, bias) for value in arriving[place]]
            corrected = bias
            if bias is not None and self.methods.bias:
                dimension = channel_dimension(given[0], weight)
                shift = measured_shift(outputs[FLOAT], given, dimension)
                corrected = bias - shift
                given = [value - shift.reshape(-1, *[1] * (value.dim() - dimension - 1)) for value in given]
            self.noise[bits][key] = max(
                0.0, _relative_error(outputs[FLOAT], given) - _relative_error(arriving[FLOAT], arriving[place])
            )
            self.layers[bits][key] = LayerWeights(
                weight=rounded.contiguous().numpy(), bias=None if corrected is None else corrected.numpy()
            )
            outputs.append(given)
        return outputs

    def _rounded_weight(self, node: Node, bits: WeightBits, floats: Batches, ints: Batches) -> torch.Tensor:
        """Return the weight as its integers stand for it; the channel's largest and widened channels as they were."""
        key, weight, bias = self.keys[node.name], weight_of(self.module, node), bias_of(self.module, node)
        scale = self._scale_of(node.args[0]).scale
        own = self.bits[bits][key]
        found = integer_weight(weight, own, bias=None if bias is None else bias.numpy(), input_scale=scale)
        integers, scales = torch.from_numpy(found.integers), torch.from_numpy(found.scales)
        if key in self.methods.adaround:
            if weight[0].numel() <= LARGEST_INPUTS:
                integers = self._adarounded(node, own, found, floats, ints)
            else:
                self.skipped.append(key)
        real = on_grid(weight, integers, scales)
        real[list(found.widened)] = weight[list(found.widened)]
        return real

    def _adarounded(
        self, node: Node, bits: WeightBits, found: IntegerWeight, floats: Batches, ints: Batches
    ) -> torch.Tensor:
        weight = weight_of(self.module, node)
        centre = self.methods.bias and bias_of(self.module, node) is not None
        seen = moments(node, weight, floats, ints, centre=centre)
        problem = rounding(weight, torch.from_numpy(found.scales), seen, largest=LARGEST[bits])
        start = torch.from_numpy(found.integers.astype(np.float64)).reshape(problem.steps.shape)
        macs = weight.numel() * weight[0].numel()
        iterations = min(self.methods.iterations, self.methods.layer_macs // macs)
        return solve(problem, starts=(start,), iterations=iterations).reshape(weight.shape)

    def _scale_of(self, source: object) -> Affine:
        return self.affines[self.keys[source.name]]  # type: ignore[attr-defined]  # a node: the layer is correctable


def _relative_error(exact: Batches, other: Batches) -> float:
    """Return |other - exact|^2 / |exact|^2 over all batches; 0 where all is zero."""
    power = sum(float(one.square().sum()) for one in exact)
    error = sum(float((two - one).square().sum()) for one, two in zip(exact, other, strict=True))
    return error / power if power else 0.0


def _channels_last(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
