"""A float network that computes what its int8 files will compute, and can be trained: quantization-aware training.

Weights and activations are rounded to their grid on the way forward; on the way back rounding counts as the identity
within the range and as constant outside (the straight-through estimator). Jacob et al., "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018), section 3, and Bengio et al., "Estimating or
Propagating Gradients Through Stochastic Neurons for Conditional Computation" (2013). Batch norms are folded before, and
ranges of activations stay as calibrated, as in the last phase of Krishnamoorthi, "Quantizing Deep Convolutional
Networks for Efficient Inference" (2018), section 3.3.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from edgeport.graph.canonical import drop_unused
from edgeport.graph.provenance import provenance_keys
from edgeport.quant.affine import asymmetric, least_scales, rounded_bias
from edgeport.quant.corrections import Layers, LayerWeights, correctable_layers
from edgeport.quant.layers import (
    bias_of,
    integer_weight,
    layer_bits,
    on_grid,
    real_weight,
    weight_of,
    weighted_nodes,
)
from edgeport.quant.simulate import rounded_activations
from edgeport.quant.weight_grid import LARGEST, SMALLEST_SCALE, channel_scales, target_steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import Node

    from edgeport.types import WeightBits

Ranges = dict[str, tuple[float, float]]  # provenance key -> calibrated (low, high) of an activation


def round_weight(weight: torch.Tensor, bits: WeightBits) -> torch.Tensor:
    """Return a weight, `(out, ...)`, rounded to the nearest integers of so many bits, one scale an output channel."""
    exact = weight.detach()
    return weight + (nearest(exact, bits) - exact)


def nearest(weight: torch.Tensor, bits: WeightBits) -> torch.Tensor:
    """Return the nearest weight, `(out, ...)`, that integers of so many bits stand for, one scale an output channel."""
    if bits > 2:
        peaks = weight.reshape(len(weight), -1).abs().amax(1)
        step = (peaks / LARGEST[bits]).clamp(min=SMALLEST_SCALE).reshape(-1, *[1] * (weight.dim() - 1))
        return torch.round(weight / step) * step
    rows = weight.reshape(len(weight), -1).numpy()
    scales = channel_scales(rows, bits)
    steps = np.rint(target_steps(rows, scales, bits)).reshape(weight.shape)
    return real_weight(torch.from_numpy(steps), torch.from_numpy(scales))


def round_bias(bias: torch.Tensor, weight: torch.Tensor, bits: WeightBits, input_scale: float) -> torch.Tensor:
    """Return a bias, `(out,)`, in the steps of 32-bit integers that a file keeps it in.

    The steps are fine, but where they are left out a tie here and there is rounded to the other side, and every layer
    behind it has more of them.

    Args:
        bias: as trained.
        weight: as trained, `(out, ...)`.
        bits: of the layer's weights.
        input_scale: of the activation that the layer reads.
    """
    exact = bias.detach()
    scales = channel_scales(weight.detach().reshape(len(weight), -1).numpy(), bits)
    scales = np.maximum(scales, least_scales(exact.numpy(), input_scale).astype(np.float32))
    rounded = torch.from_numpy(rounded_bias(exact.numpy(), input_scale=input_scale, weight_scales=scales))
    return bias + (rounded - exact)


def round_activation(values: torch.Tensor, scale: float, zero_point: int, smallest: int, largest: int) -> torch.Tensor:
    """Return activations rounded to their grid; the gradient is that of clipping to the range."""
    return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, smallest, largest)


def int8_student(module: GraphModule, ranges: Ranges, weight_bits: WeightBits) -> GraphModule:
    """Return a copy whose quantized layers have trainable weights (`NODE_weight`, `NODE_bias`) and int8 arithmetic.

    Args:
        module: canonical form.
        ranges: what has none stays float, as do the layers that read it.
        weight_bits: of the file; a layer's own follow (`layer_bits`).
    """
    student = copy.deepcopy(module)
    keys = provenance_keys(student.graph)
    tuned = set(correctable_layers(student, ranges))
    stored = rounded_activations(student)
    activations = [node for node in student.graph.nodes if keys.get(node.name) in stored & ranges.keys()]
    bits = layer_bits(student, weight_bits)
    for node in weighted_nodes(student):
        if keys[node.name] in tuned:
            scale = asymmetric(*ranges[keys[str(node.args[0])]]).scale  # a node with a range: the layer is tuned
            _make_trainable(student, node, bits[keys[node.name]], scale)
    for node in activations:
        affine = asymmetric(*ranges[keys[node.name]])
        with student.graph.inserting_after(node):
            rounded = student.graph.call_function(
                round_activation, (node, affine.scale, affine.zero_point, affine.smallest, affine.largest)
            )
        node.replace_all_uses_with(rounded)
        rounded.update_arg(0, node)
    student.graph.eliminate_dead_code()
    student.graph.lint()
    student.recompile()
    drop_unused(student)
    return student


def trained_layers(
    module: GraphModule, student: Mapping[str, torch.Tensor], ranges: Ranges, bits: WeightBits
) -> Layers:
    """Return what the layers of an int8 file hold: provenance key -> weight on its grid, and bias.

    Args:
        module: the canonical network that the student was made from.
        student: its trained tensors by name.
        ranges: as the student was made with.
        bits: of the file's weights.
    """
    keys = provenance_keys(module.graph)
    tuned = set(correctable_layers(module, ranges))
    own = layer_bits(module, bits)
    layers: Layers = {}
    for node in weighted_nodes(module):
        key = keys[node.name]
        if key not in tuned:
            continue
        weight, bias = student[f"{node.name}_weight"].contiguous(), student.get(f"{node.name}_bias")
        scale = asymmetric(*ranges[keys[str(node.args[0])]]).scale  # a node: the layer is tuned
        found = integer_weight(weight, own[key], bias=None if bias is None else bias.numpy(), input_scale=scale)
        if own[key] > 2:
            scales = torch.from_numpy(found.scales)
            steps = torch.round(weight / scales.reshape(-1, *[1] * (weight.dim() - 1)))
            real = on_grid(weight, steps, scales)
        else:
            real = nearest(weight, own[key])
        real[list(found.widened)] = weight[list(found.widened)]
        layers[key] = LayerWeights(weight=real.contiguous().numpy(), bias=None if bias is None else bias.numpy())
    return layers


def _make_trainable(student: GraphModule, node: Node, bits: WeightBits, input_scale: float) -> None:
    weight, bias = weight_of(student, node), bias_of(student, node)
    with student.graph.inserting_before(node):
        student.register_parameter(f"{node.name}_weight", nn.Parameter(weight.clone()))
        source = student.graph.get_attr(f"{node.name}_weight")
        node.update_arg(1, student.graph.call_function(round_weight, (source, bits)))
        if bias is not None:
            student.register_parameter(f"{node.name}_bias", nn.Parameter(bias.clone()))
            exact = student.graph.get_attr(f"{node.name}_bias")
            node.update_arg(2, student.graph.call_function(round_bias, (exact, source, bits, input_scale)))
