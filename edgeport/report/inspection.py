"""`edgeport inspect FILE`: what a file takes and gives, which operators it has, and what one inference costs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, NotRequired, TypedDict

from edgeport.errors import ConfigError
from edgeport.formats import format_of, reader_of, summarize
from edgeport.validation import energy, latency

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from edgeport.formats import TensorInfo
    from edgeport.profile import TargetProfile
    from edgeport.types import OpCost


class Quantization(TypedDict):
    """real = scale x (integer - zero_point)."""

    scale: float
    zero_point: int


class TensorRow(TypedDict):
    """One input or output; -1 in `shape` is an open size."""

    name: str
    shape: list[int]
    dtype: str
    quantization: Quantization | None


class OperatorRow(TypedDict):
    """One operator; fields as in `edgeport.types.OpCost`."""

    name: str
    kind: str
    dtype: str
    macs: int
    weight_bytes: int
    activation_bytes: int
    is_depthwise: bool
    provenance: str | None
    weight_dtype: str


class TotalsRow(TypedDict):
    """Sums; fields as in `edgeport.formats.Totals`."""

    operators: int
    macs: int
    macs_by_dtype: dict[str, int]
    weight_bytes: int
    activation_bytes: int
    bytes_moved: int
    counts: dict[str, int]


class Prediction(TypedDict):
    """A figure of a target's cost model; nine of ten networks lie in the interval."""

    name: str
    value: float
    unit: str
    interval: tuple[float, float]


class Inspection(TypedDict):
    """All that is shown; JSON values only."""

    file: str
    format: str
    size_bytes: int
    inputs: list[TensorRow]
    outputs: list[TensorRow]
    operators: list[OperatorRow]
    totals: TotalsRow
    predicted: NotRequired[list[Prediction]]


def inspection(path: Path, target: TargetProfile | None = None) -> Inspection:
    """Return what a file says of itself; no runtime runs it.

    Args:
        path: the file.
        target: whose cost model says what an inference takes there; None: nothing is predicted.

    Raises:
        ConfigError: the file is missing, damaged or of an unknown format, or the target has no cost model.
        MissingPackageError: the package that reads the format is not installed.
    """
    reader = reader_of(path)
    interface = reader.read_interface(path)
    costs = reader.read_costs(path)
    totals = summarize(costs)
    files = [path, path.with_suffix(".bin")] if format_of(path) == "openvino" else [path]
    found = Inspection(
        file=str(path),
        format=format_of(path),
        size_bytes=sum(file.stat().st_size for file in files),
        inputs=[_tensor_row(info) for info in interface.inputs],
        outputs=[_tensor_row(info) for info in interface.outputs],
        operators=[OperatorRow(**asdict(row)) for row in costs],  # type: ignore[typeddict-item]  # fields are the same
        totals=TotalsRow(
            operators=len(costs),
            macs=totals.total_macs,
            macs_by_dtype=dict(totals.macs),
            weight_bytes=totals.weight_bytes,
            activation_bytes=totals.activation_bytes,
            bytes_moved=totals.bytes_moved,
            counts=dict(totals.counts),
        ),
    )
    if target is not None:
        found["predicted"] = _predictions(target, costs)
    return found


def _predictions(target: TargetProfile, costs: Sequence[OpCost]) -> list[Prediction]:
    if not target.cost_models:
        raise ConfigError(f"target '{target.name}' has no cost model: no board of its kind was metered")
    metrics = [*latency.modelled(target, costs), *energy.modelled(target, costs)]
    return [
        Prediction(name=metric.name, value=metric.value, unit=metric.unit, interval=metric.interval)
        for metric in metrics
        if metric.interval is not None
    ]


def render_inspection(found: Inspection, console: Console) -> None:
    """Show an inspection: inputs and outputs, operators grouped by kind and number format, totals."""
    from rich.markup import escape

    console.print(f"[bold]{escape(found['file'])}[/bold]  {found['format']}, {found['size_bytes']:,} bytes")
    console.print(_interface_table(found))
    console.print(_operator_table(found))
    macs = found["totals"]["macs_by_dtype"]
    shares = ", ".join(f"{dtype} {100 * count / found['totals']['macs']:.1f} %" for dtype, count in macs.items())
    console.print(f"multiply-adds: {found['totals']['macs']:,}" + (f" ({shares})" if shares else ""))
    for row in found.get("predicted", ()):
        low, high = row["interval"]
        figure = f"{row['value']:.4g} {row['unit']} (modelled, {low:.4g} to {high:.4g})"
        console.print(f"{row['name']}: {figure}", highlight=False, markup=False)
    console.print("counted from the file for one inference with batch one; nothing was run", style="dim")


def _tensor_row(info: TensorInfo) -> TensorRow:
    quantization = info.quantization and Quantization(scale=info.quantization[0], zero_point=info.quantization[1])
    return TensorRow(name=info.name, shape=list(info.shape), dtype=info.dtype, quantization=quantization)


def _interface_table(found: Inspection) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "name", "shape", "dtype", "quantization", box=None, header_style="bold")
    for label, rows in (("input", found["inputs"]), ("output", found["outputs"])):
        for row in rows:
            shape = " x ".join("?" if size < 0 else str(size) for size in row["shape"]) or "scalar"
            scheme = row["quantization"]
            said = f"scale {scheme['scale']:.6g}, zero point {scheme['zero_point']}" if scheme else "-"
            table.add_row(label, escape(row["name"]), shape, row["dtype"], said)
    return table


def _operator_table(found: Inspection) -> Table:
    from rich.markup import escape
    from rich.table import Table

    groups: dict[tuple[str, str, str], list[OperatorRow]] = {}
    for row in found["operators"]:
        groups.setdefault((row["kind"], row["dtype"], row["weight_dtype"]), []).append(row)
    table = Table(box=None, header_style="bold", show_footer=True, footer_style="bold")
    totals = found["totals"]
    table.add_column("operator", footer="total")
    table.add_column("dtype")
    table.add_column("weights")
    for title, total in (
        ("count", totals["operators"]),
        ("multiply-adds", totals["macs"]),
        ("weight bytes", totals["weight_bytes"]),
        ("activation bytes", totals["activation_bytes"]),
    ):
        table.add_column(title, footer=f"{total:,}", justify="right")
    for (kind, dtype, weights), rows in sorted(groups.items(), key=lambda item: -sum(row["macs"] for row in item[1])):
        figures = (
            len(rows),
            sum(row["macs"] for row in rows),
            sum(row["weight_bytes"] for row in rows),
            sum(row["activation_bytes"] for row in rows),
        )
        table.add_row(escape(kind), dtype, weights, *(f"{figure:,}" for figure in figures))
    return table
