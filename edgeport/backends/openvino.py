"""OpenVINO: IR (.xml + .bin) from the float ONNX form, and static int8 with quantizers from the shared calibration.

NNCF is not used: it runs its own calibration, and importing it costs 1.9 CPU seconds. Nor is `openvino.convert_model`:
it reports to the vendor's telemetry, which reading a model does not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeport.errors import LoweringError, MissingPackageError
from edgeport.quant.arithmetic import Arithmetic
from edgeport.quant.onnx_corrections import corrected_onnx
from edgeport.quant.onnx_placement import layer_keys, refuse_random, value_names, value_ranges
from edgeport.quant.packing import low_bit_notes
from edgeport.quant.storage import MEANING, Storage
from edgeport.types import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx
    from openvino import Model, Node  # type: ignore[import-untyped]  # ships no types

    from edgeport.graph.float_graph import FloatGraph
    from edgeport.profile import TargetProfile
    from edgeport.quant.scheme import Raised, Scheme

suffix = ".xml"
packages = ("onnx", "onnxscript", "openvino")
raised_formats: tuple[Raised, ...] = ("float32",)
stores_zeros = False
arithmetic = Arithmetic(
    rounded="read", rounds_addends=False, clips_on_grid=False, fuses_additions=False, rounds_bias=False
)

NOT_CONVERTED = re.compile(r"(?:No conversion rule found for operations|Conversion is failed for): (.*)")


def lower_float(graph: FloatGraph, profile: TargetProfile, out: Path) -> Artifact:
    """Write the float32 network to `out`, weights beside it as .bin.

    Raises:
        MissingPackageError: openvino, onnx or onnxscript is not installed.
        LoweringError: an operator has no ONNX or no OpenVINO form.
    """
    files = _save(_read(graph, graph.onnx), graph, out)
    return Artifact(path=out, backend="openvino", precision="float32", files=files)


def lower_int8(graph: FloatGraph, scheme: Scheme, float_file: Artifact, out: Path) -> Artifact:
    """Write the network to `out` with int8 weights and activations as the scheme says.

    Raises:
        MissingPackageError: openvino, onnx or onnxscript is not installed.
        LoweringError: an operator has no ONNX or no OpenVINO form.
    """
    refuse_random(graph)
    source, left = corrected_onnx(graph, scheme)
    model = _read(graph, source)
    from edgeport.quant.layers import layer_bits
    from edgeport.quant.openvino_quantize import quantize

    layers = layer_keys(graph.onnx, graph.provenance)
    keys = {  # OpenVINO names a node after the ONNX node, or after its value
        name: layers.get(node.output[0]) or graph.provenance.get(node.output[0], "")
        for node in graph.onnx.graph.node
        for name in (node.name, *node.output)
    }
    raised = {name for name, key in keys.items() if key in scheme.raised}
    bits = layer_bits(graph.module, scheme.weight_bits)
    named = {name: bits[key] for name, key in keys.items() if key in bits}
    notes = quantize(model, value_ranges(graph), scheme, raised=raised, bits=named) + left
    notes += low_bit_notes(bits, scheme)
    if scheme.io == "int8":
        notes += ("inputs and outputs stay float32: only the tflite backend has integer ones",)
    files = _save(model, graph, out)
    return Artifact(path=out, backend="openvino", precision="int8", files=files, notes=notes)


def lower_float16(graph: FloatGraph, float_file: Artifact, out: Path) -> Artifact:
    """Write the network to `out` with float16 weights, which OpenVINO widens when it compiles the file.

    Raises:
        MissingPackageError: openvino, onnx or onnxscript is not installed.
        LoweringError: an operator has no ONNX or no OpenVINO form.
    """
    del float_file
    return _stored(graph, "float16", out)


def lower_dynamic(graph: FloatGraph, scheme: Scheme, float_file: Artifact, out: Path) -> Artifact:
    """Write the network to `out` with int8 weights, one scale an output channel, and float activations; same errors."""
    del scheme, float_file  # no kernel adds pairs of 8-bit products here, so all 8 bits are safe
    return _stored(graph, "int8", out)


def lower_sparse(graph: FloatGraph, float_file: Artifact, out: Path) -> Artifact:
    """Not offered: the runtime has no kernels that skip zeros; raises LoweringError."""
    del graph, float_file, out
    raise LoweringError("openvino: zeros cannot be left out of the file")


def bindings(graph: FloatGraph, path: Path) -> Mapping[str, object]:
    """Return how the file's tensors belong to the network's inputs and outputs; they have the same names."""
    return {
        "inputs": [{"name": spec.name, "tensor": spec.name, "channels_last": False} for spec in graph.inputs],
        "outputs": [{"name": spec.name, "tensor": spec.name} for spec in graph.outputs],
        "layers": value_names(graph),
    }


def _stored(graph: FloatGraph, storage: Storage, out: Path) -> Artifact:
    model = _read(graph, graph.onnx)
    from edgeport.quant.openvino_storage import store_weights

    layers = {node.name: graph.provenance.get(node.output[0], node.name) for node in graph.onnx.graph.node}
    notes = store_weights(model, storage, layers)
    precision, explained = MEANING[storage]
    files = _save(model, graph, out)
    return Artifact(path=out, backend="openvino", precision=precision, files=files, notes=(*explained, *notes))


def _read(graph: FloatGraph, source: onnx.ModelProto) -> Model:
    """Return the network, given as ONNX, as an OpenVINO model, constants folded."""
    try:
        import openvino
        from openvino._offline_transformations import (  # type: ignore[import-untyped]  # ships no types
            apply_moc_transformations,  # what `convert_model` runs; not public, the version is pinned
        )
    except ImportError as error:
        raise MissingPackageError(
            f"package '{error.name}' is not installed: pip install 'edgeport[openvino]'"
        ) from error
    refuse_random(graph)
    content = source.SerializeToString(deterministic=True)
    try:
        model = openvino.Core().read_model(content)
        apply_moc_transformations(model, cf=False, smart_reshape=False)
    except RuntimeError as error:
        raise LoweringError(_reason(str(error), graph)) from error
    return model


def _reason(text: str, graph: FloatGraph) -> str:
    found = NOT_CONVERTED.search(text)
    if found is None:
        last = [line.strip() for line in text.splitlines() if line.strip()][-1]
        return f"openvino cannot read the network: {last}"
    kinds = {operator.split(".")[-1].rsplit("-", 1)[0] for operator in found.group(1).split(", ")}
    nodes = [node for node in graph.onnx.graph.node if node.op_type in kinds]
    layers = ", ".join(graph.provenance.get(node.output[0], node.name) for node in nodes)
    return f"openvino has no form of operator {found.group(1).strip()} (layers: {layers})"


def _save(model: Model, graph: FloatGraph, out: Path) -> tuple[Path, Path]:
    """Write a model; the same network gives the same bytes in every process."""
    import openvino

    _name(model, graph)
    openvino.save_model(model, out, compress_to_fp16=False)
    out.write_bytes(re.sub(rb"(?m)^\t+", b"", out.read_bytes()))  # a third of the .xml is indentation
    return out, out.with_suffix(".bin")


def _name(model: Model, graph: FloatGraph) -> None:
    """Name every node after the ONNX node it comes from, or by its place.

    OpenVINO numbers what it makes itself with a counter that runs on through the process.
    """
    made = {name for node in graph.onnx.graph.node for name in (node.name, *node.output)}
    made |= {value.name for value in graph.onnx.graph.input}
    model.set_friendly_name("network")
    taken: set[str] = set()
    for index, node in enumerate(model.get_ordered_ops()):
        name = _own_name(node, made) or f"{node.get_type_name()[:1].lower()}{index}"
        name = name if name not in taken else f"{name}/{index}"
        taken.add(name)
        node.set_friendly_name(name)
        for output in node.outputs():
            kept = sorted(output.get_names() & made) if node.get_type_name() != "Constant" else []
            leaves = [spec.name for spec in graph.outputs if spec.name in kept]
            output.get_tensor().set_names(set(leaves or kept[:1]))


def _own_name(node: Node, made: set[str]) -> str | None:
    """Return the name a node keeps; a layer's multiply-add has the layer's ONNX name, its bias `NAME/bias`."""
    name: str = node.get_friendly_name()
    base, _, rest = name.partition("/")
    if node.get_type_name() == "Constant" or base not in made:
        return None
    if rest == "WithoutBiases":
        return base
    sources = [node.input_value(i).get_node().get_friendly_name() for i in range(node.get_input_size())]
    has_bias = not rest and any(source == base for source in sources)
    return f"{base}/bias" if has_bias else name
