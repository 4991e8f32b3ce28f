"""The table of instruction counts, and the sentences that are computed from it."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from rich.console import Console

from edgeport.devices.counting import Counts
from edgeport.report.instruction_table import counted_cores, macs_each, multiplies, sentences
from edgeport.report.operator_counts import CountsRow, FileCounts, OperatorCounts, render_counts
from edgeport.report.report import Report
from edgeport.report.table import print_report
from edgeport.types import Metric, StageRecord, TargetResult
from edgeport.validation.instructions import CoreCounts, metrics

MACS = 12_500_000


def counts(instructions: int, load_bytes: int, **classes: int) -> Counts:
    return Counts(instructions=instructions, load_bytes=load_bytes, store_bytes=1, classes=classes)


def core(shipped: Counts, floating: Counts | None) -> CoreCounts:
    return CoreCounts(precision="int8", macs=MACS, shipped=shipped, floating=floating, runtime="r", seconds=1.0)


FLOAT = counts(7_000_000, 16_000_000, fmla=3_150_000)
CORES = {
    "cortex-a53": core(counts(5_000_000, 4_870_000, smlal=3_125_000), FLOAT),
    "cortex-a72": core(counts(4_000_000, 9_930_000, smull=880_000, smlal=720_000, mla=7_000), FLOAT),
    "cortex-a76": core(counts(1_500_000, 4_780_000, sdot=781_250, mla=7_000), FLOAT),
}


def report(cores: dict[str, CoreCounts]) -> Report:
    figures: dict[str, Any] = {"samples": 8, "host": "x86_64"}
    figures |= {"arm64": {"instructions": msgspec.to_builtins(cores)}} if cores else {}
    size = Metric(name="size_bytes", value=1000, unit="bytes", origin="measured")
    result = TargetResult(artifact="arm64/model.tflite", metrics=(size, *metrics(cores)))
    stage = StageRecord(name="validate", options={}, seconds=1.0, metrics=figures)
    return Report(model="m", stages=(stage,), targets={"arm64": result})


def printed(found: Report) -> list[str]:
    console = Console(file=io.StringIO(), width=100, no_color=True)
    print_report(found, console)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_table_has_a_row_a_core_and_says_what_it_shows() -> None:
    lines = printed(report(CORES))
    start = lines.index("instructions an inference (emulated)")
    rows = {line.split()[0]: line.split("  ") for line in lines[start + 2 : start + 5]}
    assert [cell.strip() for cell in rows["cortex-a53"] if cell] == [
        "cortex-a53", "5.00 M", "7.00 M", "0.71 x", "SMLAL 62 %", "2.50", "4.87 MB",
    ]  # fmt: skip
    assert "SMULL 22 %, SMLAL 18 %" in lines[start + 3]
    assert "SDOT 52 %" in lines[start + 4]
    assert not [line for line in lines if line.startswith(("instructions@", "load_bytes@"))]


def test_table_fits_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=80, no_color=True)
    print_report(report(CORES), console)
    assert isinstance(console.file, io.StringIO)
    assert "…" not in console.file.getvalue()


def test_sentences_are_computed_from_the_counts() -> None:
    assert sentences(CORES) == [
        "int8 takes, of the instructions of float32: 0.71x on cortex-a53, 0.57x on cortex-a72, 0.21x on cortex-a76",
        "cortex-a53 executes 3.33x the int8 instructions of cortex-a76: 3.12 M SMLAL of 4.0 multiply-adds each there, "
        "788.2 k SDOT of 15.9 multiply-adds each on cortex-a76",
    ]
    assert sentences({"cortex-a53": replace_floating(CORES["cortex-a53"], None)}) == []
    bare = {"a": core(counts(200, 1), None), "b": core(counts(100, 1), None)}
    assert sentences(bare) == ["a executes 2.00x the int8 instructions of b"]


def replace_floating(found: CoreCounts, floating: Counts | None) -> CoreCounts:
    return msgspec.structs.replace(found, floating=floating)


def test_report_without_counts_has_no_table() -> None:
    assert not [line for line in printed(report({})) if "instructions" in line]
    assert counted_cores(report({})) == {}
    assert counted_cores(replace(report(CORES), stages=())) == {}
    assert counted_cores(report(CORES)) == {"arm64": CORES}


def test_rare_multiplications_are_left_out() -> None:
    assert multiplies(counts(100, 0, sdot=50, mla=4)) == "SDOT 50 %"
    assert multiplies(counts(100, 0, mla=4)) == "-"
    assert macs_each(600, counts(100, 0, sdot=50, mla=10)) == pytest.approx(10)
    assert macs_each(600, counts(100, 0)) is None


def row(instructions: int) -> CountsRow:
    return CountsRow(
        instructions=instructions, load_bytes=64, store_bytes=8, l1d_misses=None, l2_misses=None, classes={}
    )


@pytest.mark.parametrize(("deviation", "is_told"), [(0.02, False), (-3.5, True)])
def test_operators_are_listed_with_what_they_are_computed_in(deviation: float, is_told: bool) -> None:
    found = FileCounts(
        device="qemu:cortex-a76",
        whole=row(1000),
        call=row(100),
        operators=[
            OperatorCounts(name="stem", kind="PAD", macs=0, counts=row(0), fused_into="conv1"),
            OperatorCounts(name="conv1", kind="CONV_2D", macs=1800, counts=row(900), fused_into=None),
        ],
        deviation_percent=deviation,
    )
    console = Console(file=io.StringIO(), width=120, no_color=True)
    render_counts(found, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "stem, within conv1" in text
    assert "90.0 %" in text
    assert "1.80" in text  # 1,800 multiply-adds of 1,000 instructions
    assert f"their sum is {deviation:+.2f} % from the whole file" in text
    assert ("fuses operators or picks other kernels" in text) == is_told
