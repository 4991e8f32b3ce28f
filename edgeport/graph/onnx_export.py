"""The float network as ONNX, once, for every backend that starts from it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING

from edgeport.errors import LoweringError, MissingPackageError

if TYPE_CHECKING:
    import onnx
    import torch

    from edgeport.types import TensorSpec


def export_onnx(
    exported: torch.export.ExportedProgram, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> onnx.ModelProto:
    """Return the ONNX form of an exported network.

    Values are named as the graph's nodes, but for what the exporter takes apart: inside the graph, adaptive pooling to
    1x1 becomes a `ReduceMean` called `mean`, and a flatten a `Reshape` called `view`. Metadata is dropped: the exporter
    writes source paths and stack traces of the building machine into it.

    Raises:
        MissingPackageError: onnx or onnxscript is not installed.
        LoweringError: an operator has no ONNX form.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # the exporter needs it and would say so less clearly
        import torch
    except ImportError as error:
        raise MissingPackageError(
            f"package '{error.name}' is not installed: pip install 'edgeport[onnxruntime]'"
        ) from error
    names = [spec.name for spec in outputs]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise LoweringError(f"ONNX export: the network returns '{repeated.pop()}' twice; return it once")
    with _quiet():
        try:
            program = torch.onnx.export(
                exported,
                dynamo=True,
                input_names=[spec.name for spec in inputs],
                output_names=names,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise LoweringError(f"ONNX export: {_first_cause(error)}") from error
    if program is None:
        raise LoweringError("ONNX export returned nothing")
    model: onnx.ModelProto = program.model_proto
    strip_metadata(model)
    onnx.checker.check_model(model)
    return model


def strip_metadata(model: onnx.ModelProto) -> None:
    """Drop every metadata entry and documentation string, in place."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model):
        if "metadata_props" in {field.name for field in part.DESCRIPTOR.fields}:
            del part.metadata_props[:]
        part.doc_string = ""


def _first_cause(error: BaseException) -> str:
    deepest = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    lines = [line.strip() for line in str(deepest).splitlines() if line.strip()]
    return lines[0] if lines else type(deepest).__name__


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]  # a generator for contextmanager
    """Keep the exporter's progress chatter and deprecation warnings off the user's screen."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
