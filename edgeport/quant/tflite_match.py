"""Find out by value which activation of the network each tensor of a converted file holds.

Names do not survive a converter reliably; values do. Network and file compute the same probes, and a tensor belongs to
the node whose values it holds on all of them, in PyTorch's layout or a permutation of it.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from edgeport.quant.tflite_file import MAIN, operators, read, run_keeping_tensors, tensor_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from edgeport.graph.float_graph import FloatGraph

TOLERANCE = 1e-4  # of the largest value: float32 convolutions that add in another order differ by about 1e-6
LARGEST_PERMUTED_RANK = 4
LAYERS = frozenset({"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})


def channels_last(value: torch.Tensor) -> bool:
    """Whether the file takes (gives) this input (output) channels last: pictures and volumes, `(N, C, H, W[, D])`."""
    return value.dim() in (4, 5)


def file_layout(value: torch.Tensor) -> np.ndarray:
    """Return an input as the file takes it, contiguous."""
    moved = value.movedim(1, -1) if channels_last(value) else value
    array: np.ndarray = moved.contiguous().numpy()
    return array


def match_tensors(content: bytes, graph: FloatGraph) -> dict[int, tuple[str, ...]]:
    """Return tensor index -> names of the nodes with its values, best first.

    More than one node has the values where an operator changes nothing (a ReLU of positive values, a reshape): nodes
    that no earlier tensor took come first, then the order of the graph.

    Args:
        content: a float file whose signature inputs `args_0`, ... are the network's, in `file_layout`.
        graph: the network it was converted from.
    """
    probes = _probes(graph.example_inputs)
    wanted = [
        {name: value.numpy() for name, value in graph.activations(probe).items() if value.is_floating_point()}
        for probe in probes
    ]
    held = run_keeping_tensors(content, [[file_layout(value) for value in probe] for probe in probes])
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, value in wanted[0].items():
        groups.setdefault(_signature(value), []).append(name)
    matches: dict[int, tuple[str, ...]] = {}
    taken: set[str] = set()
    for index in _in_order(content):
        if index not in held[0]:
            continue
        values = [tensors[index] for tensors in held]
        found = [
            name
            for name in groups.get(_signature(values[0]), ())
            if all(_is_same(value, node[name]) for value, node in zip(values, wanted, strict=True))
        ]
        if found:
            found.sort(key=lambda name: name in taken)
            matches[index] = tuple(found)
            taken.add(found[0])
    return matches


def rename_tensors(content: bytes, graph: FloatGraph, matches: Mapping[int, tuple[str, ...]]) -> bytes:
    """Return the file with tensors named by provenance: unique, shorter, and the same on every device.

    An activation gets its key (`layer1.0/relu`), an unmatched one that of its first input and the operator
    (`layer1.0/relu;PAD`). A constant gets the key of the layer that it belongs to, also where an activation is fused
    into that layer (`layer1.0.conv1/conv2d;1`: input 1 of the operator), else the name of what is computed from it.
    """
    from edgeport.quant.tflite_file import write

    model = read(content)
    names: dict[int, str] = {}
    used: set[str] = set()

    def give(index: int, name: str) -> None:
        unique, count = name, 2
        while unique in used:
            unique, count = f"{name};{count}", count + 1
        used.add(unique)
        names[index] = unique

    for index in model.subgraphs[MAIN].inputs:
        give(int(index), graph.provenance[matches[index][0]] if index in matches else f"/{tensor_name(model, index)}")
    for op in operators(model):
        key = next((names[index].split(";")[0] for index in op.inputs if index in names), "")
        for index in op.outputs:
            give(index, graph.provenance[matches[index][0]] if index in matches else f"{key};{op.kind}")
        node = next((matches[index][0] for index in op.outputs if index in matches), None)
        layer = graph.provenance[_layer_of(graph, node)] if node and op.kind in LAYERS else names[op.outputs[0]]
        for position, index in enumerate(op.inputs):
            if index >= 0 and index not in names:
                give(index, f"{layer};{position}")
    for number, subgraph in enumerate(model.subgraphs):
        for index, tensor in enumerate(subgraph.tensors):
            tensor.name = (names.get(index, f"~;{index}") if number == MAIN else f"~{number};{index}").encode()
        subgraph.name = b"main" if number == MAIN else subgraph.name
    return write(model)


def _layer_of(graph: FloatGraph, name: str) -> str:
    """Return the node that has the weights: the matched one, or the one before the activation fused into it."""
    node = next(node for node in graph.module.graph.nodes if node.name == name)
    if "pad" in str(node.target) or "slice" in str(node.target):  # written as a layer of its own (`tflite_shortcuts`)
        return name
    while True:
        operands = node.all_input_nodes
        if any(operand.op == "get_attr" for operand in operands) or len(operands) != 1:
            return node.name if operands and any(operand.op == "get_attr" for operand in operands) else name
        node = operands[0]


def _probes(example: tuple[torch.Tensor, ...]) -> list[tuple[torch.Tensor, ...]]:
    """Return the example and its negative: what a ReLU leaves alone in one, it changes in the other."""
    return [example, tuple(-value if value.is_floating_point() else value for value in example)]


def _in_order(content: bytes) -> Iterator[int]:
    model = read(content)
    yield from (int(index) for index in model.subgraphs[MAIN].inputs)
    for op in operators(model):
        yield from op.outputs


def _signature(value: np.ndarray) -> tuple[int, ...]:
    return tuple(sorted(size for size in value.shape if size != 1))


def _is_same(tensor: np.ndarray, node: np.ndarray) -> bool:
    """Whether two arrays hold the same values up to a permutation of dimensions, and dimensions of one."""
    limit = TOLERANCE * max(float(np.abs(node).max(initial=0.0)), 1e-30)
    if abs(float(tensor.min()) - float(node.min())) > limit or abs(float(tensor.max()) - float(node.max())) > limit:
        return False
    if abs(float(tensor.mean(dtype=np.float64)) - float(node.mean(dtype=np.float64))) > limit:
        return False
    target, source = tensor.squeeze(), node.squeeze()
    return any(
        bool(np.abs(target - source.transpose(order)).max(initial=0.0) <= limit)
        for order in _orders(source.shape, target.shape)
    )


def _orders(source: Sequence[int], target: Sequence[int]) -> Iterator[tuple[int, ...]]:
    rank = len(source)
    same = tuple(range(rank))
    if rank > LARGEST_PERMUTED_RANK:
        candidates: Iterator[tuple[int, ...]] = iter([same, (*same[:1], *same[2:], 1), (*same[1:], 0)])
    else:
        candidates = permutations(same)
    return (order for order in candidates if tuple(source[place] for place in order) == tuple(target))
