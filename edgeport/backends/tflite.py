"""TensorFlow Lite: channels-last float files by litert-torch, static int8 by ai-edge-quantizer with our ranges."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from edgeport.errors import LoweringError, MissingPackageError
from edgeport.types import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgeport.graph.float_graph import FloatGraph
    from edgeport.profile import TargetProfile
    from edgeport.quant.scheme import Scheme
    from edgeport.quant.tflite_file import Op

suffix = ".tflite"
packages = ("litert-torch", "ai-edge-quantizer", "ai-edge-litert", "litert-converter")

UNRANGED, RAISED = "their ranges are not known", "int8 is too coarse for them"


def lower_float(graph: FloatGraph, profile: TargetProfile, out: Path) -> Artifact:
    """Write the float32 file to `out`, with pictures and volumes channels last.

    Raises:
        MissingPackageError: litert-torch is not installed.
        LoweringError: an operator cannot be expressed; it is named.
    """
    del profile  # a float file is the same for every target
    try:
        from edgeport.quant.tflite_convert import convert

        content = convert(graph)
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    out.write_bytes(content)
    return Artifact(path=out, backend="tflite", precision="float32", files=(out,))


def lower_int8(graph: FloatGraph, scheme: Scheme, float_file: Artifact, out: Path) -> Artifact:
    """Write the int8 file to `out`: activations with the ranges of `graph`, weights with a scale an output channel.

    Operators without a known range, and those that ai-edge-quantizer has no integer form for, stay in float32. The
    notes name them, and say how many channels were widened so that their biases fit.

    Raises:
        MissingPackageError: ai-edge-quantizer is not installed.
        LoweringError: the quantizer failed, or the network was not calibrated.
    """
    if not graph.ranges:
        raise LoweringError("tflite: int8 needs a calibrated network")
    try:
        content, notes = _quantize(graph, scheme, float_file.path.read_bytes())
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    out.write_bytes(content)
    return Artifact(path=out, backend="tflite", precision="int8", files=(out,), notes=notes)


def bindings(graph: FloatGraph, path: Path) -> Mapping[str, object]:
    """Return how a file's tensors belong to the network's inputs and outputs: the content of `io.json`.

    `tensor` is a name of the file's one signature: converters keep those, and their order, whatever they do to tensors.

    Raises:
        MissingPackageError: ai-edge-litert is not installed.
        LoweringError: the file's signature does not fit the network.
    """
    try:
        from edgeport.quant.tflite_file import read
        from edgeport.quant.tflite_match import channels_last

        model = read(path.read_bytes())
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    outputs = graph.outputs_of(graph.example_inputs)
    signature = model.signatureDefs[0]
    sides = (
        ("inputs", signature.inputs, "args_", graph.inputs, graph.example_inputs),
        ("outputs", signature.outputs, "output_", graph.outputs, outputs),
    )
    result: dict[str, object] = {}
    for side, entries, prefix, specs, values in sides:
        known = {entry.name.decode() for entry in entries}
        expected = [f"{prefix}{position}" for position in range(len(specs))]
        if known != set(expected):
            raise LoweringError(f"tflite: {path.name} has the {side} {sorted(known)}, the network needs {expected}")
        result[side] = [
            {"name": spec.name, "tensor": name, "channels_last": channels_last(value)}
            for spec, name, value in zip(specs, expected, values, strict=True)
        ]
    return result


def _quantize(graph: FloatGraph, scheme: Scheme, content: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return the int8 file of a float file and what there is to say about it."""
    from edgeport.quant.corrections import not_corrected
    from edgeport.quant.tflite_corrections import correct
    from edgeport.quant.tflite_file import read, silenced, write
    from edgeport.quant.tflite_match import match_tensors
    from edgeport.quant.tflite_ranges import calibration_result, layer_operators, tensor_ranges, unranged_operators
    from edgeport.quant.tflite_weights import saturated_biases, weight_ranges

    model = read(content)
    with silenced():
        from ai_edge_quantizer import quantizer  # type: ignore[import-untyped]  # ships no types

        ranges = tensor_ranges(model, match_tensors(content, graph), graph.ranges)
        missed = correct(model, graph, scheme)
        weights = weight_ranges(model, ranges, weight_bits=scheme.weight_bits)
        unranged = unranged_operators(model, ranges)
        raised = layer_operators(model, scheme.raised)
        recipe = _recipe(model, [*unranged, *raised], has_float_io=scheme.io == "float")
        try:
            result = quantizer.Quantizer(write(model), recipe).quantize(
                calibration_result(model, ranges) | dict(weights.result),
                enable_progress_bar=False,
                enable_progress_report=False,
            )
        except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
            raise LoweringError(f"tflite: the quantizer failed: {str(error).splitlines()[0]}") from error
    quantized = read(bytes(result.quantized_model))
    notes = [
        *not_corrected(missed),
        *_float_notes(quantized, _reasons(model, {UNRANGED: unranged, RAISED: raised})),
        *_widened_notes(weights.widened),
        *(
            f"{count} biases of '{name}' exceed int32 and were clipped"
            for name, count in saturated_biases(quantized).items()
        ),
    ]
    return write(quantized), tuple(notes)


def _recipe(model: Any, in_float: Sequence[Op], *, has_float_io: bool) -> list[dict[str, Any]]:
    """Return ai-edge-quantizer's recipe: static int8 everywhere but in these operators (and at the file's edges)."""
    from ai_edge_quantizer import qtyping, recipe, recipe_manager

    from edgeport.quant.tflite_file import tensor_name

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe.static_wi8_ai8())
    skip = recipe_manager.AlgorithmName.NO_QUANTIZE
    names = qtyping.TFLOperationName
    if has_float_io:
        for edge in (names.INPUT, names.OUTPUT):
            manager.add_quantization_config(".*", edge, algorithm_key=skip)
    for op in in_float:
        scope = "".join(f"{tensor_name(model, index)};" for index in op.outputs if index >= 0)
        manager.add_quantization_config(f"^{re.escape(scope)}$", names.ALL_SUPPORTED, algorithm_key=skip)
    result: list[dict[str, Any]] = manager.get_quantization_recipe()
    return result


def _reasons(model: Any, found: Mapping[str, Sequence[Op]]) -> dict[str, str]:
    """Return name of an operator's result -> why it stays in float32."""
    return {model.subgraphs[0].tensors[op.outputs[0]].name.decode(): why for why, ops in found.items() for op in ops}


def _float_notes(model: Any, reasons: Mapping[str, str]) -> list[str]:
    """Name the operators of a quantized file that compute in float32."""
    from edgeport.quant.tflite_file import is_float, operators, tensor_name

    left: dict[str, list[tuple[str, str]]] = {}
    for op in operators(model):
        if op.kind in ("QUANTIZE", "DEQUANTIZE") or not any(is_float(model, index) for index in op.outputs):
            continue
        name = tensor_name(model, op.outputs[0])
        reason = reasons.get(name, "they have no integer form")
        left.setdefault(reason, []).append((op.kind, name))
    return [
        f"{len(found)} operators stay in float32, {reason}: "
        + ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kind for kind, _ in found).items()))
        + f" (first '{found[0][1]}')"
        for reason, found in left.items()
    ]


def _widened_notes(widened: Mapping[str, int]) -> list[str]:
    if not widened:
        return []
    total = sum(widened.values())
    return [f"{total} channels of {len(widened)} layers got a wider weight scale, so that their biases fit into int32"]


def _missing(error: ModuleNotFoundError) -> MissingPackageError:
    return MissingPackageError(f"package '{error.name}' is not installed: pip install 'edgeport[tflite]'")
