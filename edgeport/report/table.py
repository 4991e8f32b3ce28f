"""A report as a person reads it: what was done, one column a target, and the verdict with its reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeport.report.report import Report
from edgeport.types import Metric, StageRecord, TargetResult

SHOWN_REASONS = 4  # of what pruning left whole
INDENT = " " * 12
MARKS = {"measured": "", "emulated": " e", "modelled": " ~"}


def print_report(report: Report, console: Console) -> None:
    """Print the whole report."""
    for stage in report.stages:
        if line := _stage_line(stage):
            console.print(f"  {stage.name:<10}{line}", highlight=False, markup=False)
        for line in _data_lines(stage):
            console.print(f"  data      {line}", highlight=False, markup=False)
    if report.targets:
        console.print()
        console.print(_table(report))
        for line in _legend(report):
            console.print(line, highlight=False, markup=False, style="dim")
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


def _table(report: Report) -> Table:
    table = Table(title=Text(report.model), title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in report.targets:
        table.add_column(Text(name), justify="right", no_wrap=True)
    figures = [{metric.name: metric for metric in result.metrics} for result in report.targets.values()]
    names = dict.fromkeys([*_ROWS, *(name for found in figures for name in found)])
    for name in names:
        if any(name in found for found in figures):
            table.add_row(_ROWS[name][0] if name in _ROWS else name, *(_cell(found.get(name)) for found in figures))
    return table


def _steps(report: Report) -> Table | None:
    """Return a table of what each step did to accuracy, size and speed; None where no stage changed the network."""
    found = next((stage.metrics.get("ablation") for stage in report.stages if stage.name == "validate"), None)
    if not isinstance(found, (list, tuple)) or not found:
        return None
    table = Table(title=Text("step by step"), title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in ("top-1", "same answer", "multiply-adds", "weights, not zero", "size", "latency p50"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found:
        name = row["step"] if row["step"] == "float" else f"+ {row['step']}"
        shares = ["-" if row[key] is None else _percent(row[key]) for key in ("top1", "agreement")]
        table.add_row(name, *shares, _count(row["macs"]), _count(row["weights_nonzero"]), "", "")
    for name, result in report.targets.items():
        figures = {metric.name: metric for metric in result.metrics}
        for title, keys in _FILES.items():
            cells = [_cell(figures.get(key)) for key in keys]
            table.add_row(f"{title}, {name}", *cells[:2], "", "", *cells[2:])
    return table


# Rows of files in the table of steps -> top-1, agreement with the float network that was lowered, size, latency.
_FILES = {
    "  float file": ("top1@float32", "agreement@float32", "size_float_bytes", "latency_float_p50_ms"),
    "+ shipped file": ("top1", "agreement", "size_bytes", "latency_p50_ms"),
}


def _cell(metric: Metric | None) -> Text:
    if metric is None:
        return Text("-", style="dim")
    value = _ROWS[metric.name][1](metric.value) if metric.name in _ROWS else f"{metric.value:.6g} {metric.unit}"
    style = {True: "green", False: "red", None: ""}[metric.passed]
    return Text(f"{value}{MARKS[metric.origin]}", style=style)


def _percent(value: float) -> str:
    return f"{value:.2f} %"


def _milliseconds(value: float) -> str:
    return f"{value:.3f} ms"


def _bytes(value: float) -> str:
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def _count(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"


def _points(value: float) -> str:
    return f"{value:.2f}"


def _cosine(value: float) -> str:
    return f"{value:.4f}"


def _number_of(value: float) -> str:
    return f"{value:.0f}"


def _plain(value: float) -> str:
    return f"{value:.4g}"


def _times(value: float) -> str:
    return f"{value:.2f} x"


# Figure -> how it is called and written, in the order of the table; any other figure follows under its own name.
_ROWS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "top1_float": ("top-1, float network that came in", _percent),
    "top1@float32": ("top-1, float file", _percent),
    "top1": ("top-1, shipped file", _percent),
    "top1_drop": ("top-1 lost, points", _points),
    "agreement": ("same answer as float PyTorch", _percent),
    "agreement@float32": ("same answer, float file", _percent),
    "flips@haswell": ("answers changed on Haswell", _number_of),
    "logit_difference_max@haswell": ("largest change of an output there", _plain),
    "samples@haswell": ("samples run there", _number_of),
    "cosine_min": ("lowest cosine with float PyTorch", _cosine),
    "cosine_min@float32": ("lowest cosine, float file", _cosine),
    "latency_p50_ms": ("latency p50", _milliseconds),
    "latency_p90_ms": ("latency p90", _milliseconds),
    "latency_float_p50_ms": ("latency p50, float file", _milliseconds),
    "speedup": ("speed-up over the float file", _times),
    "size_bytes": ("size", _bytes),
    "size_compressed_bytes": ("size, deflated", _bytes),
    "size_float_bytes": ("size, float file", _bytes),
    "compression": ("compression", _times),
    "peak_rss_bytes": ("peak memory of the process", _bytes),
    "peak_rss_bytes@float32": ("peak memory, float file", _bytes),
    "macs": ("multiply-adds", _count),
    "macs@int8": ("multiply-adds in int8", _count),
    "bytes_moved": ("bytes moved an inference", _bytes),
}


def _legend(report: Report) -> list[str]:
    origins = {metric.origin for result in report.targets.values() for metric in result.metrics}
    validate = next((stage for stage in report.stages if stage.name == "validate"), None)
    samples = f"{validate.metrics.get('samples')} samples, " if validate else ""
    lines = [f"  {samples}no mark: measured on this kind of processor, or read from the file"]
    if "modelled" in origins:
        host = validate.metrics.get("host") if validate else "host"
        lines.append(f"  ~ modelled: this machine ({host}) stood in for the target; run benchmark.py there to measure")
    if "emulated" in origins:
        lines.append("  e emulated: exact instructions of the target under emulation")
    return lines


def _data_notes(report: Report) -> list[str]:
    """Return what there is to say of the samples that the figures were taken on."""
    found = next((stage.metrics.get("notes") for stage in report.stages if stage.name == "validate"), None)
    return [str(note) for note in found] if isinstance(found, (list, tuple)) else []


def _exceeded(metric: Metric) -> str:
    return f"{metric.name} is {metric.value:.4g} {metric.unit} ({metric.origin}), limit {metric.limit:.4g}"


def _stage_line(stage: StageRecord) -> str:
    describe = _STAGES.get(stage.name)
    return describe(stage) if describe else ""


def _data_lines(stage: StageRecord) -> list[str]:
    """Return what is wrong with the calibration data, a line a finding."""
    findings = stage.metrics.get("findings")
    if not isinstance(findings, (list, tuple)):
        return []
    return [str(finding["sentence"]) for finding in findings if isinstance(finding, dict) and "sentence" in finding]


def _trace_line(stage: StageRecord) -> str:
    def shape(key: str) -> str:
        return ", ".join(f"{name} {'x'.join(map(str, dims)) or 'scalar'}" for name, dims, _ in stage.metrics[key])  # type: ignore[attr-defined]  # JSON rows

    fixed = "; takes batches of one only" if stage.metrics.get("dynamic_batch") is False else ""
    return f"{_count(_number(stage, 'parameters'))} parameters, {shape('inputs')} -> {shape('outputs')}{fixed}"


def _prune_line(stage: StageRecord) -> str:
    before, after = _number(stage, "macs_before"), _number(stage, "macs_after")
    weights_before, weights_after = _number(stage, "parameters_before"), _number(stage, "parameters_after")
    return (
        f"multiply-adds {_count(before)} -> {_count(after)} ({before / after:.2f}x fewer), "
        f"parameters {_count(weights_before)} -> {_count(weights_after)}{_left_out(stage)}{_whole_lines(stage)}"
    )


def _sparsify_line(stage: StageRecord) -> str:
    weights, nonzero = _number(stage, "weights"), _number(stage, "weights_nonzero")
    macs, needed = _number(stage, "macs"), _number(stage, "macs_nonzero")
    return (
        f"{' and '.join(map(str, stage.metrics['grains']))}: {100 * (1 - nonzero / weights):.1f} % of the weights are"  # type: ignore[call-overload]  # JSON list
        f" zero, and {100 * (1 - needed / macs):.1f} % of the multiply-adds multiply by zero"
        f"\n{INDENT}the runtimes compute zeros like other weights: only the compressed size gains{_whole_lines(stage)}"
    )


def _left_out(stage: StageRecord) -> str:
    blocks = stage.metrics.get("blocks", [])
    names = (
        [str(block["block"]).rpartition("/")[0] or "/" for block in blocks] if isinstance(blocks, (list, tuple)) else []
    )
    return f"\n{INDENT}left out: {', '.join(names)}" if names else ""


def _whole_lines(stage: StageRecord) -> str:
    whole = stage.metrics.get("left_whole", [])
    reasons = [str(reason) for reason in whole] if isinstance(whole, (list, tuple)) else []
    more = [f"and {len(reasons) - SHOWN_REASONS} more, see report.json"] if len(reasons) > SHOWN_REASONS else []
    return "".join(f"\n{INDENT}{reason}" for reason in [*reasons[:SHOWN_REASONS], *more])


def _distill_line(stage: StageRecord) -> str:
    epochs = stage.metrics.get("epochs")
    return (
        f"{epochs} epoch{'' if epochs == 1 else 's'} of {stage.metrics.get('samples')} samples, {stage.seconds:.1f} s"
    )


def _calibrate_line(stage: StageRecord) -> str:
    counted = stage.metrics.get("estimators")
    parts = [f"{count} {name}" for name, count in counted.items()] if isinstance(counted, dict) else []
    ranges = f"; ranges {', '.join(parts)}" if parts else ""
    if stage.options.get("method") == "auto" and parts:
        ranges += f" ({stage.metrics['chosen']})"
    warnings = [
        f"{len(names)} activation{'s' * (len(names) > 1)} {words}: {', '.join(names[:SHOWN_REASONS])}"
        for key, words in _CALIBRATION_WARNINGS.items()
        if isinstance(names := stage.metrics.get(key), (list, tuple)) and names
    ]
    tail = "".join(f"\n{INDENT}{line}" for line in warnings)
    return f"{stage.metrics.get('samples')} samples, {stage.metrics.get('activations')} activations{ranges}{tail}"


_CALIBRATION_WARNINGS = {"always_zero": "always zero", "outliers": "with a range set by outliers"}


def _equalize_line(stage: StageRecord) -> str:
    kept = "kept" if stage.metrics["kept"] else "not kept"
    return f"{kept}, {stage.metrics['why']}{_change(stage.metrics, 'before', 'after')}"


def _correct_line(stage: StageRecord) -> str:
    found = stage.metrics["bits"]
    if not isinstance(found, dict) or not found:
        return f"nothing kept, {stage.metrics.get('why', 'no layer to correct')}"
    lines = []
    for bits, figures in found.items():
        kept = "+".join(figures["kept"]) or "nothing"
        last = [name for name in figures if isinstance(figures[name], dict)][-1:]
        lines.append(f"{bits} bits: {kept} kept, {figures['why']}{_change(figures, 'none', *last)}")
    return f"\n{INDENT}".join(lines)


def _change(figures: Mapping[str, object], before: str, after: str = "") -> str:
    """Return how far from float the int8 network was without and with what was tried last, or nothing."""
    first, last = figures.get(before), figures.get(after)
    if not isinstance(first, dict) or not isinstance(last, dict):
        return ""
    text = f" (squared error {first['error']:.2g} -> {last['error']:.2g}"
    if first["agreement"] is not None:
        text += f", agreement {first['agreement']:.1f} -> {last['agreement']:.1f} %"
    return text + ")"


def _lower_line(stage: StageRecord) -> str:
    if stage.options.get("precision") in _KEPT:
        return _KEPT[str(stage.options["precision"])]
    checked = [(name, found) for name, found in stage.metrics.items() if isinstance(found, dict)]
    lines = [
        f"{name}: {found['macs_int8'] / max(1, found['macs_int8'] + found['macs_other']):.0%} of the multiply-adds run"
        f" in int8, {found['transposes']} transposes"
        for name, found in checked
        if "macs_int8" in found
    ]
    lines += [f"{name}: {found['control']['sentence']}" for name, found in checked if "control" in found]
    return f"\n{INDENT}".join(lines)


_KEPT: Mapping[str, str] = {  # precisions of weights alone
    "float16": "float16 weights, computed in float32",
    "dynamic_int8": "int8 weights, float activations (no --calibrate)",
}


def _number(stage: StageRecord, key: str) -> float:
    value = stage.metrics[key]
    if not isinstance(value, (int, float)):
        raise TypeError(f"{stage.name}: {key} is not a number: {value!r}")
    return float(value)


_STAGES: Mapping[str, Callable[[StageRecord], str]] = {
    "trace": _trace_line,
    "prune": _prune_line,
    "sparsify": _sparsify_line,
    "distill": _distill_line,
    "equalize": _equalize_line,
    "calibrate": _calibrate_line,
    "correct": _correct_line,
    "finetune": _distill_line,
    "lower": _lower_line,
}


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
