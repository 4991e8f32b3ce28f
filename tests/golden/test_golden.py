"""What people read, letter by letter. After a wanted change run with EDGEPORT_GOLDEN=write, and read the diff."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from edgeport.report.report import Report
from edgeport.report.table import print_report
from edgeport.types import Metric, StageRecord, TargetResult

HERE = Path(__file__).resolve().parent


def assert_golden(name: str, text: str) -> None:
    path = HERE / name
    if os.environ.get("EDGEPORT_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_list_of_targets() -> None:
    done = subprocess.run([sys.executable, "-m", "edgeport", "targets"], capture_output=True, text=True, check=True)
    assert_golden("targets.txt", done.stdout)


def test_report() -> None:
    figures = (
        Metric(name="top1", value=87.3, unit="percent", origin="modelled"),
        Metric(name="top1_float", value=87.1, unit="percent", origin="modelled"),
        Metric(name="top1_drop", value=1.5, unit="points", origin="modelled", limit=1.0, passed=False),
        Metric(name="agreement", value=99.05, unit="percent", origin="modelled", limit=95.0, passed=True),
        Metric(name="latency_p50_ms", value=0.346, unit="ms", origin="modelled"),
        Metric(name="speedup", value=3.12, unit="x", origin="modelled"),
        Metric(name="size_bytes", value=300_800.0, unit="bytes", origin="measured"),
        Metric(name="macs", value=40_551_040.0, unit="macs", origin="measured"),
    )
    interface = {
        "parameters": 269_722,
        "inputs": [["x", [3, 32, 32], "float32"]],
        "outputs": [["output", [10], "float32"]],
    }
    checks = {
        "transposes": 0,
        "macs_int8": 40_551_040,
        "macs_other": 0,
        "float_layers": [],
        "findings": [],
        "notes": [],
    }
    report = Report(
        model="resnet20",
        stages=(
            StageRecord(name="trace", options={}, seconds=1.0, metrics=interface),
            StageRecord(name="calibrate", options={}, seconds=1.0, metrics={"samples": 512, "activations": 47}),
            StageRecord(name="lower", options={}, seconds=1.0, metrics={"arm64": checks}),
            StageRecord(name="validate", options={}, seconds=1.0, metrics={"samples": 2000, "host": "x86_64"}),
        ),
        targets={"arm64": TargetResult(artifact="arm64/model.tflite", metrics=figures, notes=("one thing to know",))},
        failures={"cpu": "ONNX export: no operator for aten.det"},
    )
    text = io.StringIO()
    print_report(report, Console(file=text, width=100, no_color=True))
    assert_golden("report.txt", text.getvalue())
