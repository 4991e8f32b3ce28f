"""report.json: the contract, the verdict and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeport.errors import ConfigError
from edgeport.report.report import Report, read_report
from edgeport.types import Metric, StageRecord, TargetResult

METRICS = (
    Metric(name="top1", value=81.25, unit="percent", origin="modelled"),
    Metric(name="top1_drop", value=0.5, unit="points", origin="modelled", limit=1.0, passed=True),
    Metric(name="latency_p50_ms", value=0.178, unit="ms", origin="emulated", interval=(0.17, 0.19)),
    Metric(name="size_bytes", value=99_000, unit="bytes", origin="measured"),
)
STAGES = (
    StageRecord(
        name="trace", options={}, seconds=0.5, metrics={"parameters": 10, "inputs": [["x", [3, 8, 8], "float32"]]}
    ),
    StageRecord(
        name="lower",
        options={"precision": "int8"},
        seconds=2.0,
        metrics={"arm64": {"findings": [], "notes": ["one layer is float"]}, "cpu": {"notes": []}},
    ),
)
GOOD = TargetResult(artifact="arm64/model.tflite", metrics=METRICS, notes=("one layer is float",))
EXCEEDED = TargetResult(
    artifact="cpu/model.onnx",
    metrics=(Metric(name="agreement", value=90.0, unit="percent", origin="measured", limit=95.0, passed=False),),
)


def report(**targets: TargetResult) -> Report:
    return Report(model="net", stages=STAGES, targets=targets)


def test_contract_of_the_file() -> None:
    assert json.loads(report(arm64=GOOD).to_json()) == {
        "schema": 1,
        "model": "net",
        "verdict": "pass",
        "stages": [
            {
                "name": "trace",
                "options": {},
                "seconds": 0.5,
                "metrics": {"parameters": 10, "inputs": [["x", [3, 8, 8], "float32"]]},
            },
            {
                "name": "lower",
                "options": {"precision": "int8"},
                "seconds": 2.0,
                "metrics": {"arm64": {"findings": [], "notes": ["one layer is float"]}, "cpu": {"notes": []}},
            },
        ],
        "targets": {
            "arm64": {
                "artifact": "arm64/model.tflite",
                "metrics": [
                    {
                        "name": "top1",
                        "value": 81.25,
                        "unit": "percent",
                        "origin": "modelled",
                        "interval": None,
                        "limit": None,
                        "passed": None,
                    },
                    {
                        "name": "top1_drop",
                        "value": 0.5,
                        "unit": "points",
                        "origin": "modelled",
                        "interval": None,
                        "limit": 1.0,
                        "passed": True,
                    },
                    {
                        "name": "latency_p50_ms",
                        "value": 0.178,
                        "unit": "ms",
                        "origin": "emulated",
                        "interval": [0.17, 0.19],
                        "limit": None,
                        "passed": None,
                    },
                    {
                        "name": "size_bytes",
                        "value": 99_000,
                        "unit": "bytes",
                        "origin": "measured",
                        "interval": None,
                        "limit": None,
                        "passed": None,
                    },
                ],
            }
        },
    }


def failed() -> Report:
    why = {"intel": "operator 'fft' has no form"}
    metrics = {**STAGES[1].metrics, "intel": {"notes": list(why.values())}}
    lower = StageRecord(name="lower", options=STAGES[1].options, seconds=2.0, metrics=metrics)
    return Report(model="net", stages=(STAGES[0], lower), targets={"arm64": GOOD, "cpu": EXCEEDED}, failures=why)


def test_verdict_and_exit_code() -> None:
    assert (report(arm64=GOOD).verdict, report(arm64=GOOD).exit_code) == ("pass", 0)
    exceeded = report(arm64=GOOD, cpu=EXCEEDED)
    assert (exceeded.verdict, exceeded.exit_code) == ("fail", 6)
    assert exceeded.exceeded == (("cpu", EXCEEDED.metrics[0]),)
    assert (failed().verdict, failed().exit_code) == ("fail", 5)  # a target that is missing weighs more than a limit


def test_target_that_was_not_built_is_in_the_file() -> None:
    assert json.loads(failed().to_json())["targets"]["intel"] == {"artifact": None, "metrics": []}


@pytest.mark.parametrize("made", [report(arm64=GOOD), report(cpu=EXCEEDED, arm64=GOOD), failed(), report()])
def test_report_comes_back_equal(made: Report, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(made.to_json())
    for path in (tmp_path, tmp_path / "report.json"):
        found = read_report(path)
        assert found == made
        assert (found.verdict, found.exit_code) == (made.verdict, made.exit_code)
        assert found.to_json() == made.to_json()


def test_missing_report_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "report.json", tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="no report at"):
            read_report(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '{"schema": 1}', '{"schema": 1, "model": "n", "stages": [{}], "targets": {}}',
     '{"model": "n", "stages": [], "targets": []}', '{"model": "n", "stages": [], "targets": {"a": 1}}',
     '{"model": "n", "stages": [], "targets": {"a": {"artifact": "f", "metrics": [{"name": 1}]}}}', "\xff"],
)  # fmt: skip
def test_file_that_is_no_report_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="is not a report of edgeport build"):
        read_report(tmp_path)
