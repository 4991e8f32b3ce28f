"""Put corrected weights and biases into a float TFLite file, for the int8 file that is made from it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgeport.quant.corrections import LayerWeights, float_layers
from edgeport.quant.layers import integer_weight, layer_bits, on_grid, weight_of, weighted_nodes
from edgeport.quant.tflite_file import MAIN, constant, operators, tensor_name
from edgeport.quant.tflite_weights import POSITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from edgeport.graph.float_graph import FloatGraph
    from edgeport.quant.scheme import Scheme
    from edgeport.quant.tflite_file import Op


TOLERANCE = 1e-6  # of the largest weight: the converter transposes constants, it does not compute with them
LAYOUTS: Mapping[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {  # from PyTorch's layout
    "CONV_2D": lambda weight: _as_pictures(weight).transpose(0, 2, 3, 1),
    "DEPTHWISE_CONV_2D": lambda weight: _as_pictures(weight).transpose(1, 2, 3, 0),
    "FULLY_CONNECTED": lambda weight: weight.reshape(len(weight), -1),
}


def correct(model: Any, graph: FloatGraph, scheme: Scheme) -> tuple[str, ...]:
    """Give a float file (a `ModelT`, changed in place) the weights that its int8 form shall have.

    Corrected layers get their weights and biases. The others get weights that lie on their grid already, rounded with
    balanced errors (`affine.symmetric_weight`) as in the other runtimes' files: ai-edge-quantizer rounds to nearest.

    Args:
        model: with our tensor names: a layer's weights are `KEY;1`, its bias `KEY;2`.
        graph: the network it was made from.
        scheme: of the int8 file.

    Returns:
        The corrected layers whose constants were not found, by provenance key.
    """
    original = {graph.provenance[name]: layer for name, layer in float_layers(graph.module).items()}
    corrected = {graph.provenance[name]: layer for name, layer in graph.corrections_for(scheme).items()}
    layers = {**_balanced(graph, scheme), **corrected}
    readers = Counter(index for op in operators(model) for index in op.inputs)
    found: set[str] = set()
    for number, op in enumerate(operators(model)):
        key = _layer_of(model, op)
        if key in layers and key not in found:
            values = _values(model, op, layers[key], original[key])
            if values is None:
                continue
            for place, value in values.items():
                _replace(model, number, place, value, is_shared=readers[op.inputs[place]] > 1)
            found.add(key)
    return tuple(key for key in corrected if key not in found)


def _balanced(graph: FloatGraph, scheme: Scheme) -> dict[str, LayerWeights]:
    """Return provenance key -> weight on its grid (and no bias) of all layers that the scheme quantizes."""
    if not scheme.per_channel:
        return {}
    result = {}
    bits = layer_bits(graph.module, scheme.weight_bits)
    for node in weighted_nodes(graph.module):
        key, weight = graph.provenance[node.name], weight_of(graph.module, node)
        is_quantized = key not in scheme.raised and str(node.args[0]) in graph.ranges
        if is_quantized and node.name not in graph.corrections_for(scheme):
            found = integer_weight(weight, bits[key])
            real = on_grid(weight, torch.from_numpy(found.integers), torch.from_numpy(found.scales))
            result[key] = LayerWeights(weight=real.numpy(), bias=None)
    return result


def _layer_of(model: Any, op: Op) -> str:
    if op.kind not in LAYOUTS:
        return ""
    return tensor_name(model, op.inputs[POSITIONS[op.kind][1]]).partition(";")[0]


def _values(model: Any, op: Op, layer: LayerWeights, original: LayerWeights) -> dict[int, NDArray[np.float32]] | None:
    """Return input place -> new constant; None where the file's constants are not the layer's."""
    _, weights, bias, _ = POSITIONS[op.kind]
    pairs = [(weights, original.weight, layer.weight), (bias, original.bias, layer.bias)]
    result: dict[int, NDArray[np.float32]] = {}
    for place, before, after in pairs:
        if before is None or after is None:
            continue
        form = LAYOUTS[op.kind] if place == weights else np.asarray
        known = constant(model, op.inputs[place]) if len(op.inputs) > place else None
        if known is None or known.dtype != np.float32 or known.shape != form(before).shape:
            return None
        if np.abs(known - form(before)).max(initial=0.0) > TOLERANCE * np.abs(before).max(initial=0.0):
            return None
        result[place] = np.ascontiguousarray(form(after), np.float32)
    return result


def _replace(model: Any, operator: int, place: int, value: NDArray[np.float32], *, is_shared: bool) -> None:
    """Let one operator read another constant; where others read the old one too, under a name of its own."""
    from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]  # ships no types

    subgraph = model.subgraphs[MAIN]
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(value.tobytes(), np.uint8)
    model.buffers.append(buffer)
    inputs = subgraph.operators[operator].inputs
    tensor = subgraph.tensors[inputs[place]]
    if is_shared:
        tensor = copy.copy(tensor)
        tensor.name = f"{tensor.name.decode()};{operator}".encode()
        subgraph.tensors.append(tensor)
        inputs[place] = len(subgraph.tensors) - 1
    tensor.buffer = len(model.buffers) - 1


def _as_pictures(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a convolution's weight with height and width; one over time has a height of one."""
    return weight[:, :, None] if weight.ndim == 3 else weight
