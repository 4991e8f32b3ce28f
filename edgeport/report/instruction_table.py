"""Instruction counts as a person reads them: a row a core, and a sentence on what the counts say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

import msgspec

from edgeport.report import units
from edgeport.validation.instructions import CoreCounts, metrics

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgeport.devices.counting import Counts
    from edgeport.report.report import Report

Cores = Mapping[str, CoreCounts]

_SHOWN_SHARE = 0.05  # of all instructions; families that multiply less are left out
_STATEMENT = "  exact counts under emulation, of the runtime's call alone, one thread; no statement about time"


def counted_cores(report: Report) -> dict[str, dict[str, CoreCounts]]:
    """Return target -> core -> counts, of targets that have any."""
    validate = next((stage.metrics for stage in report.stages if stage.name == "validate"), {})
    said = {name: validate.get(name) for name in report.targets}
    found = {name: figures["instructions"] for name, figures in said.items() if _has_counts(figures)}
    return msgspec.convert(found, dict[str, dict[str, CoreCounts]])


def _has_counts(figures: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(figures, Mapping) and bool(figures.get("instructions"))


def print_counts(report: Report, console: Console) -> None:
    """Print the table, and for each target what it says; nothing where nothing was counted."""
    counted = counted_cores(report)
    if not counted:
        return
    console.print()
    console.print(table(counted))
    for name, cores in counted.items():
        for sentence in sentences(cores):
            console.print(f"  {name}: {sentence}", highlight=False, markup=False)
    console.print(_STATEMENT, highlight=False, markup=False, style="dim")


def shown_names(cores: Cores) -> frozenset[str]:
    """Return the metrics that the table stands for."""
    return frozenset(metric.name for metric in metrics(cores))


def table(counted: Mapping[str, Cores]) -> Table:
    """Return a row a core of each target."""
    from rich.table import Table
    from rich.text import Text

    precisions = {counts.precision for cores in counted.values() for counts in cores.values()}
    shipped = precisions.pop() if len(precisions) == 1 else "shipped"
    made = Table(
        title=Text("instructions an inference (emulated)"),
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    made.add_column("")
    for column in (shipped, "float32", "ratio", f"{shipped} multiplies by", "MACs an instruction", "loads"):
        made.add_column(column, justify="right")
    for name, cores in counted.items():
        if len(counted) > 1:
            made.add_row(Text(name, style="bold"))
        for core, counts in cores.items():
            made.add_row(core, *_cells(counts))
    return made


def sentences(cores: Cores) -> list[str]:
    """Return what a target's counts say, computed from them."""
    both = {core: counts for core, counts in cores.items() if counts.floating}
    said = []
    if both:
        ratios = ", ".join(f"{_ratio(counts):.2f}x on {core}" for core, counts in both.items())
        precision = next(iter(both.values())).precision
        said.append(f"{precision} takes, of the instructions of float32: {ratios}")
    most = max(cores, key=lambda core: cores[core].shipped.instructions, default="")
    least = min(cores, key=lambda core: cores[core].shipped.instructions, default="")
    if most != least:
        said.append(_comparison(least, cores[least], most, cores[most]))
    return said


def multiplies(counts: Counts) -> str:
    """Return the families that multiply, with their shares of all instructions: `SMULL 21 %, SMLAL 17 %`."""
    shares = {name: number / counts.instructions for name, number in counts.multiplies.items()}
    shown = {name: share for name, share in shares.items() if share >= _SHOWN_SHARE}
    return ", ".join(f"{name.upper()} {100 * share:.0f} %" for name, share in shown.items()) or "-"


def macs_each(macs: int, counts: Counts) -> float | None:
    """Return the multiply-adds that a multiplying instruction does on average; None where none multiplies."""
    total = sum(counts.multiplies.values())
    return macs / total if total else None


def _cells(counts: CoreCounts) -> list[str]:
    shipped, floating = counts.shipped, counts.floating
    return [
        units.count(shipped.instructions),
        units.count(floating.instructions) if floating else "-",
        f"{_ratio(counts):.2f} x" if floating else "-",
        multiplies(shipped),
        f"{counts.macs / shipped.instructions:.2f}",
        units.size(shipped.load_bytes),
    ]


def _ratio(counts: CoreCounts) -> float:
    return counts.shipped.instructions / counts.floating.instructions if counts.floating else 1.0


def _comparison(least: str, few: CoreCounts, most: str, many: CoreCounts) -> str:
    """Return how many more instructions one core needs than another, and why, as far as multiplications tell."""
    times = many.shipped.instructions / few.shipped.instructions
    text = f"{most} executes {times:.2f}x the {few.precision} instructions of {least}"
    ours, theirs = _multiplying(few), _multiplying(many)
    return f"{text}: {theirs} there, {ours} on {least}" if ours and theirs else text


def _multiplying(counts: CoreCounts) -> str:
    """Return such as `10.22 M SMLAL of 4.0 multiply-adds each`; empty where no instruction multiplies."""
    each = macs_each(counts.macs, counts.shipped)
    if each is None:
        return ""
    total = sum(counts.shipped.multiplies.values())
    names = " and ".join(name.upper() for name in _main_families(counts.shipped))
    return f"{units.count(total)} {names} of {each:.1f} multiply-adds each"


def _main_families(counts: Counts) -> list[str]:
    """Return the families that do at least a tenth of the multiplying."""
    total = sum(counts.multiplies.values())
    return [name for name, number in counts.multiplies.items() if number >= total / 10]
