"""A report as a person reads it: what was done, one column a target, and the verdict with its reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeport.report import instruction_table, units
from edgeport.report.cores_table import cores_table, own_table_names
from edgeport.report.report import Report
from edgeport.report.stage_lines import data_lines, stage_line
from edgeport.types import Metric, TargetResult

SIDE_BY_SIDE = 4  # targets in one table: with their intervals about 160 characters
MARKS = {"measured": "", "emulated": " e", "modelled": " ~"}


def print_report(report: Report, console: Console) -> None:
    """Print the whole report."""
    for stage in report.stages:
        if line := stage_line(stage):
            console.print(f"  {stage.name:<10}{line}", highlight=False, markup=False)
        for line in data_lines(stage):
            console.print(f"  data      {line}", highlight=False, markup=False)
    if report.targets:
        _print_figures(report, console)
    if cores := cores_table(report):
        console.print()
        console.print(cores)
    instruction_table.print_counts(report, console)
    if steps := _steps(report):
        console.print()
        console.print(steps)
    for name, result in report.targets.items():
        for note in result.notes:
            console.print(f"  note, {name}: {note}", highlight=False, markup=False)
    for note in _data_notes(report):
        console.print(f"  note: {note}", highlight=False, markup=False)
    console.print()
    for name, why in report.failures.items():
        console.print(f"  {name}: not built: {why}", highlight=False, markup=False)
    for name, metric in report.exceeded:
        console.print(f"  {name}: {_exceeded(metric)}", highlight=False, markup=False)
    style = "bold green" if report.verdict == "pass" else "bold red"
    console.print(Text(f"verdict: {report.verdict}", style=style))


def _print_figures(report: Report, console: Console) -> None:
    """Print the targets' figures, few targets side by side, so that the figures' names have room."""
    names = tuple(report.targets)
    for start in range(0, len(names), SIDE_BY_SIDE):
        console.print()
        console.print(_table(report, names[start : start + SIDE_BY_SIDE]))
    for line in _legend(report):
        console.print(line, highlight=False, markup=False, style="dim")


def _table(report: Report, names: tuple[str, ...]) -> Table:
    table = Table(title=Text(report.model), title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in names:
        table.add_column(Text(name), justify="right", no_wrap=True)
    counted = {name: instruction_table.shown_names(c) for name, c in instruction_table.counted_cores(report).items()}
    places_elsewhere = own_table_names(report)  # figures of these cores, and counts, have tables of their own
    figures = [
        {metric.name: metric for metric in report.targets[name].metrics if metric.name not in counted.get(name, ())}
        for name in names
    ]
    given = dict.fromkeys(name for found in figures for name in found if name[name.find("@") :] not in places_elsewhere)
    order = {name: place for place, name in enumerate(_ROWS)}
    places = {name: order.get(name, order.get(name.partition("@")[0], len(order))) for name in given}
    for name in sorted(given, key=lambda one: (places[one], one not in order)):
        table.add_row(_label(name), *(_cell(found.get(name)) for found in figures))
    return table


def _steps(report: Report) -> Table | None:
    """Return a table of what each step did to accuracy, size and speed; None where samples were random."""
    found = ablation_rows(report)
    if not found:
        return None
    table = Table(title=Text("step by step"), title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in _STEP_COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for name, rows in found.items():
        table.add_row(Text(name, style="bold"))
        for row in rows:
            table.add_row(f"  {row['step']}" if row is rows[0] else f"  + {row['step']}", *_step_cells(row))
    return table


_STEP_COLUMNS = (
    "top-1", "same answer", "multiply-adds", "weights, not zero", "size", "latency p50, this machine", "energy",
)  # fmt: skip


def ablation_rows(report: Report) -> dict[str, list[dict[str, Any]]]:
    """Return target -> rows of `edgeport.steps.Step` as JSON; empty where samples were random."""
    found = next((stage.metrics.get("ablation") for stage in report.stages if stage.name == "validate"), None)
    return found if isinstance(found, dict) else {}


def _step_cells(row: Mapping[str, Any]) -> list[str]:
    mark = MARKS[row["origin"]]
    accuracy_mark = mark if row["step"] in _SHIPPED else ""  # of the other steps it is PyTorch's

    def cell(key: str, write: Callable[[float], str], suffix: str = "") -> str:
        return "-" if row[key] is None else f"{write(row[key])}{suffix}"

    return [
        cell("top1", units.percent, accuracy_mark),
        cell("agreement", units.percent, accuracy_mark),
        cell("macs", units.count),
        cell("weights_nonzero", units.count),
        cell("size_bytes", units.size),
        cell("latency_p50_ms", units.milliseconds, mark),
        _energy_cell(row.get("energy_shares", {})),
    ]


def _energy_cell(shares: Mapping[str, float]) -> str:
    """Return the share of the first step's energy, from the lowest board's to the highest's; always modelled."""
    ends = dict.fromkeys(f"{100 * share:.0f}" for share in sorted(shares.values()))
    return f"{' to '.join(list(ends)[:: max(1, len(ends) - 1)])} % ~" if ends else "-"


_SHIPPED = ("int8", "dynamic_int8", "float16", "float32")


def _cell(metric: Metric | None) -> Text:
    if metric is None:
        return Text("-", style="dim")
    row = _row(metric.name)

    def written(value: float) -> str:
        return row[1](value) if row else f"{value:.6g} {metric.unit}"

    value = written(metric.value)
    if metric.interval is not None:
        value += f" ({written(metric.interval[0]).split()[0]} to {written(metric.interval[1]).split()[0]})"
    style = {True: "green", False: "red", None: ""}[metric.passed]
    return Text(f"{value}{MARKS[metric.origin]}", style=style)


# Figure -> how it is called and written, in the order of the table; any other figure follows under its own name.
_ROWS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "top1_float": ("top-1, float network that came in", units.percent),
    "top1@float32": ("top-1, float file", units.percent),
    "top1": ("top-1, shipped file", units.percent),
    "top1_drop": ("top-1 lost, points", units.points),
    "agreement": ("same answer as float PyTorch", units.percent),
    "agreement@float32": ("same answer, float file", units.percent),
    "agreement@simulated": ("same answer as in training on int8", units.percent),
    "agreement@original": ("same answer as the network that came in", units.percent),
    "flips@haswell": ("answers changed on Haswell", units.number_of),
    "logit_difference_max@haswell": ("largest change of an output there", units.plain),
    "samples@haswell": ("samples run there", units.number_of),
    "failures": ("runs that ended badly", units.number_of),
    "cosine_min": ("lowest cosine with float PyTorch", units.cosine),
    "cosine_min@float32": ("lowest cosine, float file", units.cosine),
    "latency_p50_ms": ("latency p50", units.milliseconds),
    "latency_p90_ms": ("latency p90", units.milliseconds),
    "latency_float_p50_ms": ("latency p50, float file", units.milliseconds),
    "speedup": ("speed-up over the float file", units.times),
    "size_bytes": ("size", units.size),
    "size_compressed_bytes": ("size, deflated", units.size),
    "size_float_bytes": ("size, float file", units.size),
    "compression": ("compression", units.times),
    "peak_rss_bytes": ("peak memory of the process", units.size),
    "peak_rss_bytes@float32": ("peak memory, float file", units.size),
    "arena_bytes": ("memory for activations", units.size),
    "ram_bytes": ("memory for file and activations", units.size),
    "energy_mj": ("energy of an inference", units.millijoules),
    "energy_net_mj": ("energy without idling", units.millijoules),
    "energy_day_j": ("energy of a day", units.joules),
    "energy_ratio": ("energy, float file over this one", units.times),
    "rank_correlation": ("rank correlation with metered energy", units.cosine),
    "macs": ("multiply-adds", units.count),
    "macs@int8": ("multiply-adds in int8", units.count),
    "bytes_moved": ("bytes moved an inference", units.size),
}


def _row(name: str) -> tuple[str, Callable[[float], str]] | None:
    """Return how a figure is called and written; one of a core, board or runtime as the target's own is."""
    return _ROWS.get(name) or _ROWS.get(name.partition("@")[0])


def _label(name: str) -> str:
    row = _row(name)
    if row is None or name in _ROWS:
        return row[0] if row else name
    return f"{row[0]}, {_PLACES.get(name.partition('@')[2], name.partition('@')[2])}"


_PLACES = {"host": "this machine"}


def _legend(report: Report) -> list[str]:
    metrics = [metric for result in report.targets.values() for metric in result.metrics]
    modelled = [metric for metric in metrics if metric.origin == "modelled"]
    validate = next((stage for stage in report.stages if stage.name == "validate"), None)
    samples = f"{validate.metrics.get('samples')} samples, " if validate else ""
    lines = [f"  {samples}no mark: measured on this kind of processor, or read from the file"]
    if any(metric.interval is None and metric.unit != "spearman" for metric in modelled):
        host = validate.metrics.get("host") if validate else "host"
        lines.append(f"  ~ modelled: this machine ({host}) stood in for the target; run benchmark.py there to measure")
    if any(metric.interval for metric in modelled):
        lines.append("  ~ with an interval: predicted, the notes say from what; nine of ten networks lie in it")
    if any(metric.origin == "emulated" for metric in metrics):
        lines.append("  e emulated: exact instructions of the target under emulation")
    return lines


def _data_notes(report: Report) -> list[str]:
    """Return what there is to say of the samples that the figures were taken on."""
    found = next((stage.metrics.get("notes") for stage in report.stages if stage.name == "validate"), None)
    return [str(note) for note in found] if isinstance(found, (list, tuple)) else []


def _exceeded(metric: Metric) -> str:
    return f"{metric.name} is {metric.value:.4g} {metric.unit} ({metric.origin}), limit {metric.limit:.4g}"


def print_comparison(first: Report, second: Report, console: Console) -> None:
    """Print two reports' figures side by side, a row a figure that both have."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("target", "figure", "A", "B", "B / A"):
        table.add_column(column, justify="left" if column in ("target", "figure") else "right")
    for name in (name for name in first.targets if name in second.targets):
        for metric, other in _shared(first.targets[name], second.targets[name]):
            ratio = f"{other.value / metric.value:.3f}" if metric.value else "-"
            cells = [f"{found.value:.6g} {found.unit}{MARKS[found.origin]}" for found in (metric, other)]
            table.add_row(Text(name), metric.name, *cells, ratio)
    console.print(table)


def _shared(first: TargetResult, second: TargetResult) -> list[tuple[Metric, Metric]]:
    others = {metric.name: metric for metric in second.metrics}
    return [(metric, others[metric.name]) for metric in first.metrics if metric.name in others]
