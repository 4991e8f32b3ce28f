"""Cross-layer equalization: scale channels between two layers so that all of them use the integers' range.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section 4.1: with
f(s x) = s f(x) for s > 0, channel i of W1 and b1 may be divided by s_i and its column of W2 multiplied by s_i. The
best scale is s_i = sqrt(r1_i r2_i) / r2_i (equation 11), r being the channel's range on either side.

r2_i is the largest |W2| that reads channel i, as in the paper. r1_i is there the largest |W1| of row i, because the
paper's weights have one scale a layer. Here each row has its own, so its range costs nothing; what channels still share
is the scale of the activation between the layers, and r1_i is that activation's largest |value| on calibration samples
(the smoothing factor of Xiao et al., "SmoothQuant" (2023), equation 4, with alpha = 0.5). A depthwise W2 has a scale a
channel as well, r2_i costs nothing either, and s_i = r1_i / max r1.

ReLU6 is not scale-equivariant where it clips. A channel that reached the clip on calibration samples keeps s = 1; the
others are scaled up only so far that their largest value stays below it by `HEADROOM`, and by `CLIPPED_FACTOR` at most.
So the function is exact on what was seen; with ReLU it is exact everywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgeport.graph.canonical import CONVOLUTIONS
from edgeport.graph.execute import HARDTANHS, Executor
from edgeport.graph.provenance import provenance_keys
from edgeport.quant.layers import bias_of, groups_of, is_depthwise_layer, weight_of, weighted_nodes

aten = torch.ops.aten

HEADROOM = 2.0  # what was not seen may be twice as large before it is clipped
CLIPPED_FACTOR = 2.0  # of 1 / s in front of a clip: some channels wake only on later samples, and are cut then. With
# factors up to 16 from 16 pictures, EfficientNet-Lite0's logits were 46 % off on other pictures (exact on these)
LARGEST_FACTOR = 16.0  # of s and 1 / s: a channel that hardly spoke on the samples may speak up on others
SWEEPS = 4  # over all pairs: the scale of one pair moves the ranges of the next (the paper iterates as well)

RELUS = (aten.relu.default, aten.relu_.default)
RELU6S = (aten.relu6.default, aten.relu6_.default)
COMMUTING = (
    *RELUS,
    *RELU6S,
    aten.leaky_relu.default,
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
)  # per channel, and f(s x) = s f(x)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two layers with nothing but channelwise, scale-equivariant operators between them.

    Attributes:
        first: name of the layer whose outputs are scaled.
        between: names of the operators between, in order.
        second: name of the only layer that reads them.
        clip: where an activation between cuts values off; infinity: nowhere.
        repeats: how many inputs of the second layer one channel becomes (a flatten makes height x width of it).
    """

    first: str
    between: tuple[str, ...]
    second: str
    clip: float
    repeats: int = 1


Ends = tuple[torch.Tensor, torch.Tensor]  # low, high
ChannelRanges = Mapping[str, Ends]  # node name -> ends, each `(channels,)`


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Ranges of activations on calibration samples.

    Attributes:
        channels: node name -> (low, high) of each channel, `(channels,)` each; of the activations in pairs.
        tensors: provenance key -> (low, high), of all.
    """

    channels: ChannelRanges
    tensors: Mapping[str, tuple[float, float]]


def find_pairs(module: GraphModule) -> tuple[Pair, ...]:
    """Return the pairs of layers of a canonical network that can be equalized, in order."""
    layers = {node.name: node for node in weighted_nodes(module)}
    readers = _constant_readers(module)
    found = []
    for first in layers.values():
        pair = _pair(module, first, layers)
        if (
            pair is not None
            and all(
                readers[str(argument.target)] == 1  # type: ignore[union-attr]  # get_attr nodes
                for node in (first, layers[pair.second])
                for argument in node.args[1:3]
                if argument is not None
            )
        ):
            found.append(pair)
    return tuple(found)


def observe(
    module: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    batches: Iterable[Sequence[torch.Tensor]],
    pairs: Sequence[Pair],
) -> Observed:
    """Run samples through a canonical network and return the ranges of its activations."""
    channels: dict[str, Ends] = {}
    tensors: dict[str, Ends] = {}
    keys = provenance_keys(module.graph)
    dimensions = {keys[name]: dimension for pair in pairs for name, dimension in _channel_dimensions(module, pair)}

    def watch(key: str, value: torch.Tensor) -> None:
        if not value.is_floating_point() or not value.numel():
            return
        ends = torch.aminmax(value)
        tensors[key] = _united(tensors.get(key), (ends.min, ends.max))
        if key in dimensions:
            rows = value.movedim(dimensions[key], 0)
            flat = rows.reshape(len(rows), -1)
            channels[key] = _united(channels.get(key), (flat.amin(1), flat.amax(1)))

    executor = Executor(module, example_inputs)
    for batch in batches:
        executor.run(batch, watch)
    names = {key: name for name, key in keys.items()}
    return Observed(
        channels={names[key]: ends for key, ends in channels.items()},
        tensors={key: (float(low), float(high)) for key, (low, high) in tensors.items()},
    )


def ranges_after(
    module: GraphModule, pairs: Sequence[Pair], factors: Mapping[str, torch.Tensor], seen: Observed
) -> dict[str, tuple[float, float]]:
    """Return provenance key -> (low, high) of all activations of the equalized network, without running it."""
    keys = provenance_keys(module.graph)
    result = dict(seen.tensors)
    for pair in pairs:
        s = factors.get(pair.first)
        ends: tuple[float, float] | None = None
        for name in (pair.first, *pair.between):
            if s is not None and name in seen.channels:
                low, high = seen.channels[name]
                ends = float((low / s).min()), float((high / s).max())
            if ends is not None and keys[name] in result:  # behind a flatten: the range before it
                result[keys[name]] = ends
    return result


def scale_factors(first_range: torch.Tensor, second_range: torch.Tensor) -> torch.Tensor:
    """Return s = sqrt(r1 r2) / r2 a channel (Nagel et al. 2019, equation 11); 1 where a range is zero.

    Args:
        first_range: r1, `(channels,)`, >= 0.
        second_range: r2, `(channels,)`, >= 0.
    """
    known = (first_range > 0) & (second_range > 0)
    ratio = torch.where(known, first_range, 1.0) / torch.where(known, second_range, 1.0)
    return torch.where(known, ratio.sqrt(), 1.0)


def limited(factors: torch.Tensor, peaks: torch.Tensor, clip: float) -> torch.Tensor:
    """Return factors that move no channel across the clip, `(channels,)`.

    Args:
        factors: s, `(channels,)`: a channel is divided by it.
        peaks: the largest value of each channel on calibration samples.
        clip: where the activation cuts off; infinity: nowhere.
    """
    if clip == float("inf"):
        return factors
    smallest = (peaks * HEADROOM / clip).clamp(1 / CLIPPED_FACTOR, 1.0)  # never scaled up beyond clip / HEADROOM
    return torch.where(peaks >= clip, 1.0, torch.maximum(factors, smallest))


def pair_factors(module: GraphModule, pairs: Sequence[Pair], ranges: ChannelRanges) -> dict[str, torch.Tensor]:
    """Return name of a pair's first layer -> s, `(channels,)` float32, where the activation was seen.

    Args:
        module: the network, canonical.
        pairs: of it.
        ranges: node name -> (low, high) of the channels of activations (`observe`).
    """
    nodes = {node.name: node for node in module.graph.nodes}
    factors: dict[str, torch.Tensor] = {}
    seen = [(pair, ranges[name]) for pair in pairs if (name := seen_name(pair, ranges)) is not None]
    for _ in range(SWEEPS):
        for pair, (low, high) in seen:
            peaks = torch.maximum(low.abs(), high.abs())
            second = nodes[pair.second]
            weight = weight_of(module, second)
            if is_depthwise_layer(second, weight):
                wanted = torch.where(peaks > 0, peaks / peaks.max().clamp(min=1e-30), 1.0)
            else:
                rows = factors.get(pair.second)  # what the next pair does to the second layer's outputs
                scaled = weight if rows is None else weight / rows.reshape(-1, *[1] * (weight.dim() - 1))
                read = _input_ranges(scaled, groups_of(second), pair.repeats)
                wanted = scale_factors(peaks, read)
                wanted = wanted / wanted.max().clamp(min=1e-30)  # a scale of all channels together changes nothing
            wanted = wanted.clamp(min=1 / LARGEST_FACTOR, max=LARGEST_FACTOR)
            factors[pair.first] = limited(wanted, high, pair.clip).float()
    return factors


def equalized(module: GraphModule, pairs: Sequence[Pair], factors: Mapping[str, torch.Tensor]) -> GraphModule:
    """Return a copy of a canonical network with W1, b1 divided by s and W2 multiplied; it computes the same.

    Args:
        module: the network; left as it is.
        pairs: of it.
        factors: name of a pair's first layer -> s, `(channels,)`.
    """
    result = copy.deepcopy(module)
    nodes = {node.name: node for node in result.graph.nodes}
    with torch.no_grad():
        for pair in pairs:
            s = factors.get(pair.first)
            if s is None:
                continue
            first, second = nodes[pair.first], nodes[pair.second]
            weight, bias = weight_of(result, first), bias_of(result, first)
            weight.div_(s.reshape(-1, *[1] * (weight.dim() - 1)))
            if bias is not None:
                bias.div_(s)
            read, groups = weight_of(result, second), groups_of(second)
            by_input = s.repeat_interleave(pair.repeats).reshape(groups, 1, -1)
            grouped = read.reshape(groups, len(read) // groups, read.shape[1], -1)
            grouped.mul_(by_input.unsqueeze(-1))
    return result


def seen_name(pair: Pair, ranges: ChannelRanges) -> str | None:
    """Return the first activation behind a pair's first layer that was materialised."""
    return next((name for name in (pair.first, *pair.between) if name in ranges), None)


def spread(low: torch.Tensor, high: torch.Tensor) -> float:
    """Return how badly the channels of an activation share one scale: the median of (largest range / own range).

    2 means that half of the channels use at most half of the integers: one of eight bits is lost. Channels that never
    spoke are left out.
    """
    peaks = torch.maximum(low.abs(), high.abs())
    peaks = peaks[peaks > 0]
    return float((peaks.max() / peaks).median()) if len(peaks) else 1.0


def _united(known: Ends | None, found: Ends) -> Ends:
    return found if known is None else (torch.minimum(known[0], found[0]), torch.maximum(known[1], found[1]))


def _channel_dimensions(module: GraphModule, pair: Pair) -> list[tuple[str, int]]:
    """Return the activations of a pair in front of a flatten, and which of their dimensions holds the channels."""
    nodes = {node.name: node for node in module.graph.nodes}
    dimension = 1 if nodes[pair.first].target in CONVOLUTIONS else -1
    found = []
    for name in (pair.first, *pair.between):
        if nodes[name].target is aten.flatten.using_ints:
            break
        found.append((name, dimension))
    return found


def _input_ranges(weight: torch.Tensor, groups: int, repeats: int) -> torch.Tensor:
    """Return the largest |weight| that reads each channel, `(channels,)`."""
    grouped = weight.abs().reshape(groups, len(weight) // groups, weight.shape[1], -1).amax((1, 3)).reshape(-1)
    return grouped.reshape(-1, repeats).amax(1)


def _constant_readers(module: GraphModule) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            counts[str(node.target)] = counts.get(str(node.target), 0) + len(node.users)
    return counts


def _pair(module: GraphModule, first: Node, layers: Mapping[str, Node]) -> Pair | None:
    between: list[str] = []
    clip, is_flat, node = float("inf"), False, first
    while True:
        users = list(node.users)
        if len(users) != 1 or users[0].args[0] is not node or node in users[0].args[1:]:
            return None
        node = users[0]
        if node.name in layers:
            break
        if not _commutes(node):
            return None
        clip = min(clip, _clip_of(node))
        is_flat = is_flat or node.target is aten.flatten.using_ints
        between.append(node.name)
    channels = len(weight_of(module, first))
    inputs = weight_of(module, node).shape[1] * groups_of(node)
    is_linear = node.target not in CONVOLUTIONS
    fits = inputs % channels == 0 and (inputs == channels or (is_flat and is_linear))
    if not fits or (first.target in CONVOLUTIONS) == (is_linear and not is_flat):
        return None  # a linear layer reads the last dimension, a convolution's channels are dimension 1
    return Pair(first=first.name, between=tuple(between), second=node.name, clip=clip, repeats=inputs // channels)


def _commutes(node: Node) -> bool:
    if node.target in COMMUTING:
        return True
    if node.target in HARDTANHS:
        return _bounds(node)[0] == 0.0
    if node.target is aten.flatten.using_ints:
        return list(node.args[1:]) in ([1], [1, -1])
    if node.target in (aten.pad.default, aten.constant_pad_nd.default):
        return _pads_spatially_with_zero(node)
    return False


def _pads_spatially_with_zero(node: Node) -> bool:
    given: tuple[Any, ...] = node.args
    if node.target is aten.pad.default:
        is_constant = len(given) < 3 or given[2] == "constant"
        fill = given[3] if len(given) > 3 else None
    else:
        is_constant, fill = True, given[2] if len(given) > 2 else 0
    return is_constant and not fill and len(given[1]) <= 4


def _bounds(node: Node) -> tuple[float, float]:
    given: tuple[Any, ...] = (*node.args[1:3], *(-1.0, 1.0)[len(node.args) - 1 :])
    return float(given[0]), float(given[1])


def _clip_of(node: Node) -> float:
    if node.target in RELU6S:
        return 6.0
    return _bounds(node)[1] if node.target in HARDTANHS else float("inf")
