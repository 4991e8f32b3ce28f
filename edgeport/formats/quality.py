"""What is wrong with an int8 file although it runs: layers left in float, transposes between layouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeport.formats import ExecutedOp
    from edgeport.types import OpCost, Precision

_ONNX = frozenset(
    {
        "Conv", "FusedConv", "ConvInteger", "QLinearConv", "ConvTranspose", "Gemm", "FusedGemm", "QGemm", "MatMul",
        "FusedMatMul", "MatMulInteger", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    }
)  # fmt: skip
# the runtime's types of convolution and linear layers
LAYERS = {
    "tflite": frozenset(
        {"CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"}
    ),
    "openvino": frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"}),
    "onnxruntime": _ONNX,
    "onnx": _ONNX,
}
SHOWN = 3  # names in a sentence
LONGEST = (
    60  # characters of a name in a sentence; TFLite names join those of everything fused, the end tells them apart
)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What the runtime makes of a file.

    Attributes:
        transposes: operators that only change the layout of an activation.
        macs_int8: multiply-adds that run on integers.
        macs_other: the rest.
        float_layers: convolutions and linear layers that run in float: torch module path where the file tells,
            otherwise the name in the file.
        findings: what a user should know, a sentence each; empty when all is well.
    """

    transposes: int
    macs_int8: int
    macs_other: int
    float_layers: tuple[str, ...]
    findings: tuple[str, ...]


def check_quality(
    costs: Sequence[OpCost], executed: Sequence[ExecutedOp], *, backend: str, precision: Precision = "int8"
) -> Quality:
    """Return what is wrong with a file, from `read_costs` and `executed_operators` of it.

    What runs decides, not what is stored: a layer that the file has in int8 but the runtime runs in float is a float
    layer. A layer with int8 weights and float activations is one, too.

    Args:
        costs: rows of the file.
        executed: what the runtime runs.
        backend: `tflite`, `openvino` or `onnxruntime`.
        precision: what the file was meant to be; float layers are a finding in an int8 file only.

    Raises:
        ValueError: unknown backend.
    """
    if backend not in LAYERS:
        raise ValueError(f"backend must be one of {', '.join(sorted(LAYERS))}, got {backend!r}")
    products = [row for row in costs if row.macs]
    layers = [operator for operator in executed if operator.kind in LAYERS[backend]]
    rows = _rows_of(layers, products)
    in_float = [index for index, operator in enumerate(layers) if operator.dtype != "int8"]
    slow_rows = {id(row) for index in in_float if (row := rows[index]) is not None}
    macs_other = sum(row.macs for row in products if row.dtype != "int8" or id(row) in slow_rows)
    total = sum(row.macs for row in products)
    names = tuple(_label(layers[index], rows[index]) for index in in_float)
    transposes = sum(operator.kind.upper() == "TRANSPOSE" for operator in executed)
    findings = []
    if names and precision == "int8":
        share = f" ({100 * macs_other / total:.1f} % of the multiply-adds)" if total else ""
        findings.append(f"{len(names)} of {_counted(len(layers), 'layer')} run in float{share}: {_some(names)}")
    if transposes:
        findings.append(f"{_counted(transposes, 'transpose')} between layouts left in the file")
    return Quality(
        transposes=transposes,
        macs_int8=total - macs_other,
        macs_other=macs_other,
        float_layers=names,
        findings=tuple(findings),
    )


def _rows_of(layers: Sequence[ExecutedOp], products: Sequence[OpCost]) -> list[OpCost | None]:
    """Return the row of the file that each executed layer came from: by name, then module path, then order."""
    rows: list[OpCost | None] = [None] * len(layers)
    free = list(products)

    def take(index: int, row: OpCost | None) -> None:
        if row is not None:
            rows[index] = row
            free.remove(row)

    for index, layer in enumerate(layers):
        take(index, next((row for row in free if row.name == layer.name or row.name in layer.layers), None))
    for index, layer in enumerate(layers):
        if rows[index] is None and layer.provenance:
            take(index, next((row for row in free if row.provenance == layer.provenance), None))
    left = [index for index, row in enumerate(rows) if row is None]
    if len(left) == len(free):
        for index, row in zip(left, tuple(free), strict=True):
            take(index, row)
    return rows


def _label(layer: ExecutedOp, row: OpCost | None) -> str:
    stored = (row.provenance or row.name) if row is not None else None
    return stored or layer.provenance or layer.name


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name if len(name) <= LONGEST else f"...{name[-LONGEST:]}" for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
