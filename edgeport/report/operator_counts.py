"""`edgeport inspect FILE --device qemu:CORE`: what a file and each of its operators execute on an emulated core."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, cast

import msgspec

from edgeport.devices.counting import Counts, count
from edgeport.formats import format_of, reader_of
from edgeport.report import units
from edgeport.report.instruction_table import multiplies
from edgeport.validation.operator_counts import TOLERANCE_PERCENT, break_down

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from edgeport.devices.device import Device
    from edgeport.types import OpCost


class CountsRow(TypedDict):
    """Fields as in `edgeport.devices.counting.Counts`."""

    instructions: int
    load_bytes: int
    store_bytes: int
    l1d_misses: int | None
    l2_misses: int | None
    classes: dict[str, int]


class OperatorCounts(TypedDict):
    """One operator; `name`: its layer, where the file tells; `fused_into`: that of the one it is computed with."""

    name: str
    kind: str
    macs: int
    counts: CountsRow
    fused_into: str | None


class FileCounts(TypedDict):
    """All that is shown; JSON values only.

    `call` is what the interpreter's call costs, whatever it computes. Other files than .tflite only have `whole`.
    """

    device: str
    whole: CountsRow
    call: CountsRow | None
    operators: list[OperatorCounts]
    deviation_percent: float | None


def file_counts(path: Path, device: Device) -> FileCounts:
    """Count one inference of a file, and of a .tflite each operator.

    Raises:
        ConfigError: the file is damaged or of an unknown format, or has several subgraphs.
        MissingPackageError: what counting needs is not installed.
        StageError: the guest crashes or hangs, the disk is full.
    """
    costs = reader_of(path).read_costs(path)
    if format_of(path) != "tflite":
        whole = count([path], device).counts[0]
        return FileCounts(device=device.name, whole=_row(whole), call=None, operators=[], deviation_percent=None)
    found = break_down(path, device)
    return FileCounts(
        device=device.name,
        whole=_row(found.whole),
        call=_row(found.call),
        operators=[
            OperatorCounts(
                name=_name(cost),
                kind=cost.kind,
                macs=cost.macs,
                counts=_row(counts),
                fused_into=_name(costs[found.fused[index]]) if index in found.fused else None,
            )
            for index, (cost, counts) in enumerate(zip(costs, found.operators, strict=True))
        ],
        deviation_percent=found.deviation_percent,
    )


def render_counts(found: FileCounts, console: Console) -> None:
    """Show the counts: operators in execution order, the call, and the whole file."""
    from rich.table import Table
    from rich.text import Text

    whole = _counts(found["whole"])
    table = Table(
        title=Text(f"instructions an inference on {found['device']} (emulated)"),
        title_justify="left",
        box=None,
        header_style="bold",
        show_footer=True,
        footer_style="bold",
    )
    table.add_column("operator", footer="whole file")
    table.add_column("name")
    total, loads = f"{whole.instructions:,}", units.size(whole.load_bytes)
    footers = (total, "100.0 %", _each(found, whole), multiplies(whole), loads)
    columns = ("instructions", "share", "MACs an instruction", "multiplies by", "loads")
    for column, footer in zip(columns, footers, strict=True):
        table.add_column(column, footer=footer, justify="right")
    rows = list(found["operators"])
    if found["call"]:
        rows.append(OperatorCounts(name="the call itself", kind="", macs=0, counts=found["call"], fused_into=None))
    for row in rows:
        counts, macs = _counts(row["counts"]), row["macs"]
        name, fused_into = row["name"], row["fused_into"]
        table.add_row(
            row["kind"],
            Text(f"{name}, within {fused_into}" if fused_into else name),
            f"{counts.instructions:,}",
            f"{100 * counts.instructions / whole.instructions:.1f} %",
            f"{macs / counts.instructions:.2f}" if macs and counts.instructions else "-",
            multiplies(counts) if counts.instructions else "-",
            units.size(counts.load_bytes),
        )
    console.print(table)
    for line in _explained(found):
        console.print(line, style="dim", highlight=False, markup=False)


def _explained(found: FileCounts) -> list[str]:
    deviation = found["deviation_percent"]
    if deviation is None:
        return ["operators are counted one by one in .tflite files only"]
    lines = [f"each operator ran in a file of its own; their sum is {deviation:+.2f} % from the whole file"]
    if abs(deviation) > TOLERANCE_PERCENT:
        lines.append(
            f"more than {TOLERANCE_PERCENT:g} %: in the whole file the runtime fuses operators or picks other kernels"
        )
    return lines


def _each(found: FileCounts, whole: Counts) -> str:
    macs = sum(row["macs"] for row in found["operators"])
    return f"{macs / whole.instructions:.2f}" if macs else "-"


def _name(cost: OpCost) -> str:
    """Return the layer, else the first of the names that a converter joined."""
    return cost.provenance or cost.name.partition(";")[0]


def _row(counts: Counts) -> CountsRow:
    return cast("CountsRow", msgspec.to_builtins(counts))


def _counts(row: CountsRow) -> Counts:
    return msgspec.convert(row, Counts)
