"""Put corrected weights and biases into a float ONNX graph, for the int8 files that are made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeport.quant.corrections import float_layers, not_corrected

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from numpy.typing import NDArray

    from edgeport.graph.float_graph import FloatGraph
    from edgeport.quant.corrections import LayerWeights
    from edgeport.quant.scheme import Scheme

TOLERANCE = 1e-6  # of the largest weight: the exporter copies or transposes constants, it does not compute with them


def corrected_onnx(graph: FloatGraph, scheme: Scheme) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the float network as the int8 file of this scheme starts from it, and notes on layers left as they were.

    The network's own ONNX form (`graph.onnx`) is not changed: the float file is made of that.
    """
    import onnx

    layers = graph.corrections_for(scheme)
    if not layers:
        return graph.onnx, ()
    model = onnx.ModelProto()
    model.CopyFrom(graph.onnx)
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    original = float_layers(graph.module)
    missed = [
        graph.provenance[name]
        for name, layer in layers.items()
        if not _correct(model, producers.get(name), constants, original[name], layer)
    ]
    return model, not_corrected(missed)


def _correct(
    model: onnx.ModelProto,
    node: onnx.NodeProto | None,
    constants: Mapping[str, onnx.TensorProto],
    original: LayerWeights,
    layer: LayerWeights,
) -> bool:
    """Give a layer its constants under new names (others may read the old ones); False where they are not found.

    A linear layer on more than two dimensions is a MatMul and an Add, and the Add has its name.
    """
    from onnx import numpy_helper

    nodes = [node]
    if node is not None and node.op_type == "Add":
        nodes += [other for other in model.graph.node if other.op_type == "MatMul" and other.output[0] in node.input]
    fitting: list[tuple[onnx.NodeProto, int, NDArray[np.float32]]] = []
    for wanted, value in ((original.weight, layer.weight), (original.bias, layer.bias)):
        if wanted is None or value is None:
            continue
        found = next((found for part in nodes if part and (found := _place(part, constants, wanted))), None)
        if found is None:
            return False
        part, place, is_transposed = found
        fitting.append((part, place, value.T if is_transposed else value))
    for part, place, value in fitting:
        name = f"{part.input[place]}:{part.output[0]}:corrected"
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        part.input[place] = name
    return True


def _place(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], wanted: NDArray[np.float32]
) -> tuple[onnx.NodeProto, int, bool] | None:
    """Return at which input a node reads these values, and whether transposed."""
    from onnx import numpy_helper

    for place, name in enumerate(node.input):
        if name not in constants:
            continue
        value = numpy_helper.to_array(constants[name])
        forms = (value, value.T) if value.ndim == 2 else (value,)
        for is_transposed, form in enumerate(forms):
            if form.shape == wanted.shape and np.abs(form - wanted).max(initial=0.0) <= TOLERANCE * np.abs(wanted).max(
                initial=0.0
            ):
                return node, place, bool(is_transposed)
    return None
