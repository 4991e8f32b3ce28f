"""ONNX Runtime: float ONNX as exported, and static int8 with quantizers placed from the shared calibration.

Written here and not with `onnxruntime.quantization`: that runs its own calibration, keeps pads and slices in float, and
rounds biases that do not fit 32 bits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeport.errors import LoweringError, MissingPackageError
from edgeport.quant.arithmetic import Arithmetic
from edgeport.quant.onnx_corrections import corrected_onnx
from edgeport.quant.onnx_placement import OnnxGraph, refuse_random, value_names
from edgeport.quant.onnx_quantize import quantize
from edgeport.quant.packing import low_bit_notes
from edgeport.quant.storage import MEANING, Storage
from edgeport.types import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx

    from edgeport.graph.float_graph import FloatGraph
    from edgeport.profile import TargetProfile
    from edgeport.quant.scheme import Raised, Scheme

suffix = ".onnx"
packages = ("onnx", "onnxscript", "onnxruntime")
raised_formats: tuple[Raised, ...] = ("float32",)
stores_zeros = False
arithmetic = Arithmetic(
    rounded="inner", rounds_addends=True, clips_on_grid=True, fuses_additions=True, rounds_bias=True
)


def lower_float(graph: FloatGraph, profile: TargetProfile, out: Path) -> Artifact:
    """Write the float32 network to `out`.

    Raises:
        MissingPackageError: onnx, onnxscript or onnxruntime is not installed.
        LoweringError: an operator has no ONNX form, or ONNX Runtime has no kernel for it.
    """
    refuse_random(graph)
    _save(graph.onnx, out)
    return Artifact(path=out, backend="onnxruntime", precision="float32", files=(out,))


def lower_int8(graph: FloatGraph, scheme: Scheme, float_file: Artifact, out: Path) -> Artifact:
    """Write the network to `out` with int8 weights and activations as the scheme says.

    Raises:
        MissingPackageError: onnx, onnxscript or onnxruntime is not installed.
        LoweringError: an operator has no ONNX form, or ONNX Runtime has no kernel for it.
    """
    from edgeport.quant.layers import layer_bits

    refuse_random(graph)
    source, left = corrected_onnx(graph, scheme)
    bits = layer_bits(graph.module, scheme.weight_bits)
    model, notes = quantize(replace(OnnxGraph.from_float_graph(graph), model=source), scheme, bits)
    notes += (*left, *low_bit_notes(bits, scheme))
    if scheme.io == "int8":
        notes += ("inputs and outputs stay float32: only the tflite backend has integer ones",)
    _save(model, out)
    return Artifact(path=out, backend="onnxruntime", precision="int8", files=(out,), notes=notes)


def lower_float16(graph: FloatGraph, float_file: Artifact, out: Path) -> Artifact:
    """Write the network to `out` with float16 weights, which ONNX Runtime widens when it loads the file.

    Raises:
        MissingPackageError: onnx, onnxscript or onnxruntime is not installed.
        LoweringError: an operator has no ONNX form, or ONNX Runtime has no kernel for it.
    """
    del float_file
    return _stored(graph, "float16", out)


def lower_dynamic(graph: FloatGraph, scheme: Scheme, float_file: Artifact, out: Path) -> Artifact:
    """Write the network to `out` with int8 weights, one scale an output channel, and float activations; same errors."""
    del scheme, float_file  # no integer kernel runs, so all 8 bits are safe on every processor
    return _stored(graph, "int8", out)


def lower_sparse(graph: FloatGraph, float_file: Artifact, out: Path) -> Artifact:
    """Not offered: the runtime has no kernels that skip zeros; raises LoweringError."""
    del graph, float_file, out
    raise LoweringError("onnxruntime: zeros cannot be left out of the file")


def bindings(graph: FloatGraph, path: Path) -> Mapping[str, object]:
    """Return how the file's tensors belong to the network's inputs and outputs; they have the same names."""
    return {
        "inputs": [{"name": spec.name, "tensor": spec.name, "channels_last": False} for spec in graph.inputs],
        "outputs": [{"name": spec.name, "tensor": spec.name} for spec in graph.outputs],
        "layers": value_names(graph),
    }


def _stored(graph: FloatGraph, storage: Storage, out: Path) -> Artifact:
    from edgeport.quant.onnx_storage import store_weights

    refuse_random(graph)
    model, notes = store_weights(OnnxGraph.from_float_graph(graph), storage)
    _save(model, out)
    precision, explained = MEANING[storage]
    return Artifact(path=out, backend="onnxruntime", precision=precision, files=(out,), notes=(*explained, *notes))


def _save(model: onnx.ModelProto, out: Path) -> None:
    content = model.SerializeToString(deterministic=True)
    _check_runs(content)
    out.write_bytes(content)


def _check_runs(content: bytes) -> None:
    """Raise when ONNX Runtime cannot load a model; without optimization, which costs most of the loading time."""
    try:
        import onnxruntime  # type: ignore[import-untyped]  # ships no types
        from onnxruntime.capi import onnxruntime_pybind11_state as states  # type: ignore[import-untyped]  # as above
    except ImportError as error:
        raise MissingPackageError(
            f"package '{error.name}' is not installed: pip install 'edgeport[onnxruntime]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what it says is in the exception
    try:
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except (states.NotImplemented, states.InvalidGraph, states.Fail, states.RuntimeException) as error:
        raise LoweringError(f"onnxruntime cannot load the network: {str(error).splitlines()[0]}") from error
