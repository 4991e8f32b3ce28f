"""TensorFlow Lite: channels-last float files by litert-torch, static int8 by ai-edge-quantizer with our ranges."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from edgeport.errors import LoweringError, MissingPackageError
from edgeport.quant.arithmetic import Arithmetic
from edgeport.quant.storage import MEANING, Storage
from edgeport.types import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgeport.graph.float_graph import FloatGraph
    from edgeport.profile import TargetProfile
    from edgeport.quant.scheme import Raised, Scheme
    from edgeport.quant.tflite_file import Op

suffix = ".tflite"
packages = ("litert-torch", "ai-edge-quantizer", "ai-edge-litert", "litert-converter")
raised_formats: tuple[Raised, ...] = ("float32", "int16")
stores_zeros = True
arithmetic = Arithmetic(
    rounded="all", rounds_addends=True, clips_on_grid=False, fuses_additions=False, rounds_bias=True
)

SHOWN = 4  # layers in a sentence
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
    """Write the int8 file to `out`: activations with the ranges of `graph`, weights with a scale a channel (or layer).

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


def lower_float16(graph: FloatGraph, float_file: Artifact, out: Path) -> Artifact:
    """Write the float file to `out` with float16 weights, which XNNPACK widens when it loads the file.

    Raises:
        MissingPackageError: ai-edge-litert is not installed.
    """
    del graph
    return _stored(float_file, "float16", out)


def lower_dynamic(graph: FloatGraph, scheme: Scheme, float_file: Artifact, out: Path) -> Artifact:
    """Write the float file to `out` with int8 weights, one scale an output channel, and float activations; same errors.

    Inputs and outputs stay float32 whatever the scheme says: integers would need ranges.
    """
    del graph, scheme
    return _stored(float_file, "int8", out)


def lower_sparse(graph: FloatGraph, float_file: Artifact, out: Path) -> Artifact:
    """Write the float file to `out` without the zeros of its weights; they are put back when the file is loaded.

    Raises:
        MissingPackageError: ai-edge-litert is not installed.
    """
    del graph
    try:
        from edgeport.quant.tflite_sparse import store_zeros

        content, layers = store_zeros(float_file.path.read_bytes())
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    out.write_bytes(content)
    notes = (f"weights of {layers} layers are stored without their zeros",) if layers else ()
    return Artifact(path=out, backend="tflite", precision="float32", files=(out,), notes=notes)


def bindings(graph: FloatGraph, path: Path) -> Mapping[str, object]:
    """Return how a file's tensors belong to the network's inputs and outputs: the content of `io.json`.

    `tensor` is a name of the file's one signature: converters keep those, and their order, whatever they do to tensors.

    Raises:
        MissingPackageError: ai-edge-litert is not installed.
        LoweringError: the file's signature does not fit the network.
    """
    try:
        from edgeport.quant.tflite_file import operators, read, tensor_name
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
    kept = {tensor_name(model, index) for op in operators(model) for index in op.outputs}
    inputs = {f"/{spec.name}" for spec in graph.inputs}
    result["layers"] = {key: key for key in graph.provenance.values() if key in kept or key in inputs}
    return result


def _stored(float_file: Artifact, storage: Storage, out: Path) -> Artifact:
    try:
        from edgeport.quant.tflite_storage import store_weights

        content, notes = store_weights(float_file.path.read_bytes(), storage)
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    out.write_bytes(content)
    precision, explained = MEANING[storage]
    return Artifact(path=out, backend="tflite", precision=precision, files=(out,), notes=(*explained, *notes))


def _quantize(graph: FloatGraph, scheme: Scheme, content: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return the int8 file of a float file and what there is to say about it."""
    from edgeport.quant.corrections import not_corrected
    from edgeport.quant.layers import layer_bits
    from edgeport.quant.packing import low_bit_notes
    from edgeport.quant.tflite_corrections import correct
    from edgeport.quant.tflite_file import read, silenced, write
    from edgeport.quant.tflite_match import match_tensors
    from edgeport.quant.tflite_packing import pack_weights
    from edgeport.quant.tflite_ranges import calibration_result, raised_operators, tensor_ranges, unranged_operators
    from edgeport.quant.tflite_weights import saturated_biases, weight_ranges

    model = read(content)
    with silenced():
        from ai_edge_quantizer import quantizer  # type: ignore[import-untyped]  # ships no types

        ranges = tensor_ranges(model, match_tensors(content, graph), graph.ranges)
        missed = correct(model, graph, scheme)
        bits = layer_bits(graph.module, scheme.weight_bits)
        weights = weight_ranges(
            model, ranges, weight_bits=scheme.weight_bits, bits=bits, per_channel=scheme.per_channel
        )
        unranged = unranged_operators(model, ranges)
        raised = raised_operators(model, scheme.raised)
        in_float = raised.get("float32", [])
        in_int16 = [op for op in raised.get("int16", []) if op not in unranged]
        recipe = _recipe(model, [*unranged, *in_float], in_int16, scheme)
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
        *low_bit_notes(bits, scheme),
        *pack_weights(quantized, bits),
        *not_corrected(missed),
        *_float_notes(quantized, _reasons(model, {UNRANGED: unranged, RAISED: in_float})),
        *_widened_notes(weights.widened),
        *([f"{len(in_int16)} operators compute with 16-bit activations, {RAISED}"] if in_int16 else []),
        *(
            f"{count} biases of '{name}' exceed int32 and were clipped"
            for name, count in saturated_biases(quantized).items()
        ),
    ]
    return write(quantized), tuple(notes)


def _recipe(model: Any, in_float: Sequence[Op], in_int16: Sequence[Op], scheme: Scheme) -> list[dict[str, Any]]:
    """Return ai-edge-quantizer's recipe: static int8 everywhere but in these operators (and at the file's edges).

    Operators in int16 have int8 weights and 16-bit activations.
    """
    from ai_edge_quantizer import qtyping, recipe_manager

    from edgeport.quant.tflite_file import tensor_name

    manager = recipe_manager.RecipeManager()
    granularity = qtyping.QuantGranularity.CHANNELWISE if scheme.per_channel else qtyping.QuantGranularity.TENSORWISE
    manager.add_static_config(
        ".*",
        qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=8,
        weight_granularity=granularity,
    )
    skip = recipe_manager.AlgorithmName.NO_QUANTIZE
    names = qtyping.TFLOperationName
    if scheme.io == "float":
        for edge in (names.INPUT, names.OUTPUT):
            manager.add_quantization_config(".*", edge, algorithm_key=skip)

    def scope(op: Op) -> str:
        name = "".join(f"{tensor_name(model, index)};" for index in op.outputs if index >= 0)
        return f"^{re.escape(name)}$"

    for op in in_int16:
        manager.add_static_config(scope(op), names.ALL_SUPPORTED, activation_num_bits=16, weight_num_bits=8)
    for op in in_float:
        manager.add_quantization_config(scope(op), names.ALL_SUPPORTED, algorithm_key=skip)
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
    layers = [name.partition(";")[0] for name in widened]
    named = ", ".join(layers[:SHOWN]) + (f" and {len(layers) - SHOWN} more" if len(layers) > SHOWN else "")
    total = sum(widened.values())
    channels = "1 channel" if total == 1 else f"{total} channels"
    return [f"{channels} got a wider weight scale, so that their biases fit into int32: in {named}"]


def _missing(error: ModuleNotFoundError) -> MissingPackageError:
    return MissingPackageError(f"package '{error.name}' is not installed: pip install 'edgeport[tflite]'")
