"""The printed report: every figure with its origin, every reason of a verdict."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from edgeport.report.report import Report
from edgeport.report.table import print_comparison, print_report
from edgeport.types import Metric, Origin, StageRecord, TargetResult

TRACE = StageRecord(
    name="trace",
    options={},
    seconds=0.5,
    metrics={
        "inputs": [["x", [3, 32, 32], "float32"]],
        "outputs": [["output", [10], "float32"], ["output_1", [], "float32"]],
        "parameters": 270_000,
        "dynamic_batch": True,
    },
)
PRUNE = StageRecord(
    name="prune",
    options={},
    seconds=0.5,
    metrics={
        "macs_before": 40_000_000,
        "macs_after": 20_000_000,
        "parameters_before": 270_000,
        "parameters_after": 135_500,
        "left_whole": ["layer 'stem' because it is small [really]"],
    },
)
DISTILL = StageRecord(name="distill", options={}, seconds=12.34, metrics={"epochs": 6, "samples": 1200})
CALIBRATE = StageRecord(name="calibrate", options={}, seconds=0.5, metrics={"samples": 200, "activations": 31})
VALIDATE = StageRecord(name="validate", options={}, seconds=3.0, metrics={"samples": 500, "host": "x86_64"})


def metric(name: str, value: float, unit: str, origin: Origin = "measured", passed: bool | None = None) -> Metric:
    return Metric(
        name=name, value=value, unit=unit, origin=origin, limit=None if passed is None else 1.0, passed=passed
    )


SHOWN: list[tuple[Metric, str, str]] = [
    (metric("top1_float", 81.034, "percent"), "top-1, float network that came in", "81.03 %"),
    (metric("top1@float32", 80.5, "percent"), "top-1, float file", "80.50 %"),
    (metric("top1", 79.996, "percent"), "top-1, shipped file", "80.00 %"),
    (metric("top1_drop", 1.04, "points", passed=False), "top-1 lost, points", "1.04"),
    (metric("agreement", 97.4, "percent", passed=True), "same answer as float PyTorch", "97.40 %"),
    (metric("agreement@float32", 100.0, "percent"), "same answer, float file", "100.00 %"),
    (metric("cosine_min", 0.98765, "cosine"), "lowest cosine with float PyTorch", "0.9877"),
    (metric("cosine_min@float32", 0.99999, "cosine"), "lowest cosine, float file", "1.0000"),
    (metric("latency_p50_ms", 0.1781, "ms"), "latency p50", "0.178 ms"),
    (metric("latency_p90_ms", 12.0, "ms"), "latency p90", "12.000 ms"),
    (metric("latency_float_p50_ms", 0.5, "ms"), "latency p50, float file", "0.500 ms"),
    (metric("speedup", 2.805, "x"), "speed-up over the float file", "2.81 x"),
    (metric("size_bytes", 99_260, "bytes"), "size", "99.3 kB"),
    (metric("size_float_bytes", 3_439_000, "bytes"), "size, float file", "3.44 MB"),
    (metric("compression", 3.9, "x"), "compression", "3.90 x"),
    (metric("peak_rss_bytes", 45_600_000, "bytes"), "peak memory of the process", "45.60 MB"),
    (metric("peak_rss_bytes@float32", 55_600_000, "bytes"), "peak memory, float file", "55.60 MB"),
    (metric("macs", 40_550_000, "macs"), "multiply-adds", "40.55 M"),
    (metric("macs@int8", 640, "macs"), "multiply-adds in int8", "0.6 k"),
    (metric("bytes_moved", 1234, "bytes"), "bytes moved an inference", "1.2 kB"),
    (metric("instructions@cortex-a76", 123_456, "instructions"), "instructions@cortex-a76", "123456 instructions"),
    (metric("energy_mj", 0.25, "mJ"), "energy of an inference", "0.25 mJ"),
]


def printed(report: Report, width: int = 160) -> list[str]:
    console = Console(file=io.StringIO(), width=width, no_color=True)
    print_report(report, console)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def report(metrics: tuple[Metric, ...], *stages: StageRecord, name: str = "arm64") -> Report:
    result = TargetResult(artifact=f"{name}/model.tflite", metrics=metrics)
    return Report(model="net", stages=stages, targets={name: result})


def rows(lines: list[str]) -> dict[str, list[str]]:
    """Return label -> cells of lines that look like table rows."""
    split = [re.split(r"  +", line.strip()) for line in lines]
    return {parts[0]: parts[1:] for parts in split if len(parts) > 1}


@pytest.mark.parametrize(("origin", "mark"), [("measured", ""), ("emulated", " e"), ("modelled", " ~")])
def test_every_figure_is_shown_with_its_origin(origin: Origin, mark: str) -> None:
    metrics = tuple(metric(shown.name, shown.value, shown.unit, origin, shown.passed) for shown, _, _ in SHOWN)
    found = rows(printed(report(metrics, VALIDATE)))
    for _, label, text in SHOWN:
        assert found[label] == [f"{text}{mark}"]


def test_legend_explains_the_marks_that_occur() -> None:
    text = "\n".join(printed(report((metric("top1", 80, "percent", "modelled"),), VALIDATE)))
    assert "500 samples, no mark: measured on this kind of processor" in text
    assert "~ modelled: this machine (x86_64) stood in for the target" in text
    assert "e emulated" not in text
    text = "\n".join(printed(report((metric("top1", 80, "percent", "emulated"),), VALIDATE)))
    assert "e emulated: exact instructions" in text
    assert "~ modelled" not in text


def test_target_without_a_figure_has_a_dash() -> None:
    both = Report(
        model="net",
        stages=(),
        targets={
            "arm64": TargetResult(artifact="a", metrics=(metric("top1", 80, "percent"), metric("macs", 1e6, "macs"))),
            "cpu": TargetResult(artifact="b", metrics=(metric("macs", 2e6, "macs", "modelled"),)),
        },
    )
    lines = printed(both)
    assert rows(lines)["top-1, shipped file"] == ["80.00 %", "-"]
    assert rows(lines)["multiply-adds"] == ["1.00 M", "2.00 M ~"]
    assert not [line for line in lines if "latency" in line]  # no row without a figure
    assert any(re.fullmatch(r" *arm64 +cpu", line) for line in lines)


def test_stages_are_told_in_numbers() -> None:
    lines = printed(report((), TRACE, PRUNE, DISTILL, CALIBRATE))
    text = "\n".join(lines)
    assert "270.0 k parameters, x 3x32x32 -> output 10, output_1 scalar" in text
    assert "multiply-adds 40.00 M -> 20.00 M (2.00x fewer), parameters 270.0 k -> 135.5 k" in text
    assert "layer 'stem' because it is small [really]" in text
    assert "6 epochs of 1200 samples, 12.3 s" in text
    assert "200 samples, 31 activations" in text


def test_fixed_batch_is_told() -> None:
    fixed = replace(TRACE, metrics={**TRACE.metrics, "dynamic_batch": False})
    assert "output_1 scalar; takes batches of one only" in "\n".join(printed(report((), fixed)))
    assert "batches of one" not in "\n".join(printed(report((), TRACE)))


def test_verdict_comes_with_its_reasons() -> None:
    assert printed(report((metric("top1", 80, "percent"),)))[-1] == "verdict: pass"
    lines = printed(report((metric("top1_drop", 1.5, "points", "modelled", passed=False),)))
    assert lines[-1] == "verdict: fail"
    assert "  arm64: top1_drop is 1.5 points (modelled), limit 1" in lines
    lines = printed(Report(model="net", stages=(), targets={}, failures={"cpu": "operator [fft] has no form"}))
    assert lines[-2:] == ["  cpu: not built: operator [fft] has no form", "verdict: fail"]


def test_notes_are_shown() -> None:
    result = TargetResult(artifact="a", metrics=(), notes=("layer [1] is float",))
    assert "  note, cpu: layer [1] is float" in printed(Report(model="n", stages=(), targets={"cpu": result}))


def test_names_are_shown_as_they_are() -> None:
    lines = printed(
        Report(model="net[bold]", stages=(), targets={"my[red]board": TargetResult(artifact="a", metrics=())})
    )
    assert any(line.startswith("net[bold]") for line in lines)
    assert any("my[red]board" in line for line in lines)


def test_colour_is_for_terminals_only() -> None:
    made = report((metric("top1_drop", 1.5, "points", passed=False),))
    for is_terminal in (True, False):
        console = Console(
            file=io.StringIO(), width=160, force_terminal=is_terminal, color_system="standard" if is_terminal else None
        )
        print_report(made, console)
        assert isinstance(console.file, io.StringIO)
        assert ("\x1b[" in console.file.getvalue()) is is_terminal


def compared(first: Report, second: Report) -> list[str]:
    console = Console(file=io.StringIO(), width=160, no_color=True)
    print_comparison(first, second, console)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_comparison_is_a_ratio_of_shared_figures() -> None:
    first = report((metric("size_bytes", 100, "bytes"), metric("top1_drop", 0, "points"), metric("macs", 5, "macs")))
    second = report((metric("size_bytes", 50, "bytes", "modelled"), metric("top1_drop", 1, "points")))
    cells = [re.split(r"  +", line.strip()) for line in compared(first, second)[1:]]
    assert cells == [
        ["arm64", "size_bytes", "100 bytes", "50 bytes ~", "0.500"],
        ["arm64", "top1_drop", "0 points", "1 points", "-"],
    ]


def test_comparison_keeps_the_order_of_the_first() -> None:
    names = ["raspberry-pi-4", "arm64", "cpu", "intel", "zeta", "alpha"]
    made = Report(
        model="net",
        stages=(),
        targets={name: TargetResult(artifact="a", metrics=(metric("macs", 1, "macs"),)) for name in names},
    )
    assert [line.split()[0] for line in compared(made, made)[1:]] == names


def core_row(core: str, runtime: str, **changes: object) -> dict[str, object]:
    found: dict[str, object] = {"core": core, "runtime": runtime, "runtime_version": "2.3.0", "samples": 200}
    found |= {"identical": 200, "difference": 0.0, "flips": 0, "agreement": 99.0, "top1": 88.0, "top1_here": 88.5}
    return found | changes


def test_cores_have_a_table_of_their_own() -> None:
    rows = [
        core_row("cortex-a53", "ai-edge-litert"),
        core_row("cortex-a53", "tflite-runtime", identical=3, difference=0.3195, flips=1, top1=None, top1_here=None),
    ]
    figures = (
        metric("agreement@cortex-a53", 99.0, "percent", "emulated", passed=True),
        metric("agreement@tflite-runtime", 94.0, "percent", "emulated", passed=False),
        metric("agreement@float32", 100.0, "percent"),
    )
    stage = replace(VALIDATE, metrics={**VALIDATE.metrics, "arm64": {"notes": [], "cores": rows}})
    result = TargetResult(artifact="a", metrics=figures)
    text = printed(Report(model="m", stages=(stage,), targets={"arm64": result}))
    lines = [re.sub(r" {2,}", "|", line.strip()) for line in text]
    assert "cortex-a53|ai-edge-litert 2.3.0|200|all e|0 e|0 e|99.00 % e|88.00 % e|88.50 %" in lines
    assert "tflite-runtime 2.3.0|200|3 of 200 e|0.3195 e|1 e|99.00 % e|-|-" in lines
    assert not any(line.startswith("agreement@cortex-a53") for line in lines)
    assert any("agreement@tflite-runtime is 94" in line for line in lines)  # the reason of the verdict
    assert any(line.startswith("same answer, float file|100.00 %") for line in lines)


def test_repairs_of_a_cut_are_told_and_what_was_not_repaired() -> None:
    on = {"data": "--calibrate", "samples": 160}
    repaired = {**PRUNE.metrics, "compensation": {**on, "layers": 19}, "recalibration": on}
    skipped = {**repaired, "compensation": {"skipped": "no samples"}, "recalibration": {"skipped": "no batch norm"}}
    lines, others = (printed(report((), replace(PRUNE, metrics=metrics), VALIDATE)) for metrics in (repaired, skipped))

    assert "repaired: 19 layers make up for cut channels, on 160 samples of --calibrate" in map(str.strip, lines)
    assert "repaired: batch norms measured again, on 160 samples of --calibrate" in map(str.strip, lines)
    assert "not repaired: no samples" in map(str.strip, others)
    assert "not repaired: no batch norm" in map(str.strip, others)
