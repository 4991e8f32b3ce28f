"""`edgeport doctor --data` on the command line, and the findings in a build's records and report."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chain_case import project
from examination_case import arrays, normalised, pictures
from rich.console import Console

from edgeport import cli
from edgeport.report.report import Report, read_report
from edgeport.report.table import print_report
from edgeport.stages.examine import examined
from edgeport.types import StageRecord


def doctor(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["edgeport", "doctor", *map(str, arguments)])
    return cli.main()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    raw, labels = pictures(64, 0)
    arrays(tmp_path / "good.npz", normalised(raw), labels)
    return tmp_path / "good.npz"


def test_good_data_ends_with_0(good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(monkeypatch, "--data", good) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "--data: 64 samples, 64 looked at"
    assert lines[2].split() == ["samples", "1", "2", "4", "8", "16", "32", "64"]
    assert lines[-1] == "nothing wrong was found"


def test_something_found_ends_with_6_and_is_in_the_json(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = np.load(good)["x"]
    bad[5] = 0
    arrays(tmp_path / "bad.npz", bad)
    assert doctor(monkeypatch, "--data", bad_path := tmp_path / "bad.npz") == 6
    assert "  constant: 1 of 64 samples are all zeros (samples 5); remove them" in capsys.readouterr().out
    assert doctor(monkeypatch, "--data", bad_path, "--evaluate", good, "--json") == 6
    seen = json.loads(capsys.readouterr().out)
    assert [finding["kind"] for finding in seen["--data"]["findings"]] == ["constant"]
    assert [finding["kind"] for finding in seen["--evaluate"]["findings"]] == ["overlap"]
    assert "63 samples are in both --data and --evaluate" in seen["--evaluate"]["findings"][0]["sentence"]


def test_channels_last_data_that_the_network_refuses_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, _ = pictures(32, 1)
    arrays(tmp_path / "last.npz", normalised(raw).transpose(0, 2, 3, 1))
    arrays(tmp_path / "vectors.npz", np.random.default_rng(0).normal(size=(32, 7, 9)).astype(np.float32))
    project(tmp_path)
    network = f"{tmp_path / 'chain_net.py'}:net"
    assert doctor(monkeypatch, "--data", tmp_path / "last.npz", "--model", network) == 6
    assert "save x.transpose(0, 3, 1, 2)" in capsys.readouterr().out
    assert doctor(monkeypatch, "--data", tmp_path / "vectors.npz", "--model", network) == 2
    assert "the network does not take inputs of shape (1, 7, 9)" in capsys.readouterr().err


def test_what_examines_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(monkeypatch, "--model", "net.py:net") == 2
    assert "of doctor need --data DATA" in capsys.readouterr().err
    assert doctor(monkeypatch, "--data", "nowhere.npz") == 2
    assert "nowhere.npz" in capsys.readouterr().err


def test_a_build_examines_its_data_once(tmp_path: Path) -> None:
    ready = project(tmp_path)
    chain = ready.chain(prune=0, distill=0)
    trace, calibrate = examined(chain, chain.records())
    assert (trace.name, calibrate.name) == ("trace", "calibrate")
    assert trace.metrics["findings"] == []
    assert "examine the data" in ready.progress.labels
    again = ready.chain(prune=0, distill=0)
    assert examined(again, again.records())[0] == trace
    assert ready.progress.labels == []
    bad = np.load(tmp_path / "calibrate.npz")
    np.savez(tmp_path / "bad.npz", x=bad["x"] * np.float32(0), y=bad["y"])
    other = ready.chain(prune=0, distill=0, calibrate=str(tmp_path / "bad.npz"))
    findings = examined(other, other.records())[0].metrics["findings"]
    assert isinstance(findings, list)
    assert [finding["kind"] for finding in findings] == ["constant"]


def test_findings_are_printed_and_do_not_change_the_verdict(tmp_path: Path) -> None:
    shapes = {"inputs": [["x", [3], "float32"]], "outputs": [["y", [2], "float32"]], "parameters": 6}
    trace = StageRecord(name="trace", options={}, seconds=1.0, metrics=shapes)
    finding = {"kind": "constant", "sentence": "2 of 9 samples are all zeros [really]", "evidence": {"samples": [1, 2]}}
    found = replace(trace, metrics={**shapes, "findings": [finding]})
    report = Report(model="net", stages=(found,), targets={})
    (tmp_path / "report.json").write_text(report.to_json())
    for shown in (report, read_report(tmp_path)):
        console = Console(file=io.StringIO(), width=120)
        print_report(shown, console)
        assert isinstance(console.file, io.StringIO)
        assert "  data      2 of 9 samples are all zeros [really]" in console.file.getvalue()
        assert (shown.verdict, shown.exit_code) == ("pass", 0)
