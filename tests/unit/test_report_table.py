"""A report of many targets still says what its figures are."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from edgeport.report.report import Report
from edgeport.report.table import SIDE_BY_SIDE, print_report
from edgeport.types import Metric, TargetResult


def test_many_targets_leave_room_for_the_names_of_figures() -> None:
    latency = Metric(name="latency_p50_ms", value=1.0, unit="ms", origin="modelled", interval=(0.5, 2.0))
    names = [f"board-{index}" for index in range(2 * SIDE_BY_SIDE + 1)]
    results = {name: TargetResult(artifact="model.tflite", metrics=(latency,)) for name in names}
    console = Console(file=StringIO(), width=160)
    print_report(Report(model="net", stages=(), targets=results), console)
    said = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    rows = [line for line in said.splitlines() if line.startswith("latency p50")]
    assert [row.count("1.000 ms (0.500 to 2.000)") for row in rows] == [SIDE_BY_SIDE, SIDE_BY_SIDE, 1]
    assert all(name in said for name in names)
