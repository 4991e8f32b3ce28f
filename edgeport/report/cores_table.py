"""What the shipped files answered on emulated cores: a row a core and runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from edgeport.report import units
from edgeport.report.report import Report

_COLUMNS = ("runtime", "samples", "same bits as here", "largest difference", "other top-1", "as float", "top-1", "here")


def core_runs(report: Report) -> dict[str, list[dict[str, Any]]]:
    """Return target -> rows of `edgeport.validation.cores.CoreRun` as JSON; only targets that have any."""
    validate = next((stage.metrics for stage in report.stages if stage.name == "validate"), {})
    found = {name: validate.get(name) for name in report.targets}
    return {name: list(said["cores"]) for name, said in found.items() if isinstance(said, dict) and said.get("cores")}


def own_table_names(report: Report) -> frozenset[str]:
    """Return what stands behind the `@` of figures that this table has, so that no other table needs them."""
    rows = [row for found in core_runs(report).values() for row in found]
    return frozenset(f"@{row[key]}" for row in rows for key in ("core", "runtime"))


def cores_table(report: Report) -> Table | None:
    """Return the table; None where nothing ran on an emulated core."""
    found = core_runs(report)
    if not found:
        return None
    title = "on emulated cores (e: exact instructions; differences are from this machine)"
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "runtime" else "right", no_wrap=True)
    for name, rows in found.items():
        table.add_row(Text(name, style="bold"))
        for core in dict.fromkeys(str(row["core"]) for row in rows):
            own = [row for row in rows if row["core"] == core]
            for row in own:
                table.add_row(f"  {core}" if row is own[0] else "", *_cells(row))
    return table


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    same = "all" if row["identical"] == row["samples"] else f"{row['identical']} of {row['samples']}"

    def share(key: str, mark: str = " e") -> str:
        return "-" if row[key] is None else f"{units.percent(row[key])}{mark}"

    return (
        f"{row['runtime']} {row['runtime_version']}",
        str(row["samples"]),
        f"{same} e",
        f"{units.plain(row['difference'])} e",
        "-" if row["flips"] is None else f"{row['flips']} e",
        share("agreement"),
        share("top1"),
        share("top1_here", ""),
    )
