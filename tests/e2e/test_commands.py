"""Every command of the real command line: what it prints, where, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e_case import NETWORKS, edgeport, environment, files_of, refused, target_or_skip, write_samples

from edgeport import profile

if TYPE_CHECKING:
    from e2e_builds import Build

pytest_plugins = ("e2e_builds",)


def test_dry_run_prints_the_resolved_plan_and_writes_nothing(tmp_path: Path) -> None:
    flags = ("--target", "arm64,cpu", "--prune", "0.25", "--seed", "5", "--dry-run")
    run = edgeport("build", *flags, store=tmp_path / "store", cwd=tmp_path)
    assert (run.code, run.err) == (0, "")
    plan = json.loads(run.out)
    assert (plan["model"], plan["prune"], plan["seed"]) == ("edgeport.demo.net:digits", 0.25, 5)
    assert [target["name"] for target in plan["targets"]] == ["arm64", "cpu"]
    assert plan["targets"][0]["limits"]["max_top1_drop"] == 1.0
    assert (plan["output"], plan["precision"], plan["threads"]) == ("edgeport-out", "int8", 1)
    assert list(tmp_path.iterdir()) == []


def test_flags_go_over_the_configuration_file_and_that_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "edgeport.toml").write_text('target = "cpu"\nseed = 3\nprune = 0.5\nmax-drop = 2.5\n')
    run = edgeport("build", "--seed", "4", "--dry-run", store=tmp_path / "store", cwd=tmp_path)
    plan = json.loads(run.out)
    assert [target["name"] for target in plan["targets"]] == ["cpu"]
    assert (plan["seed"], plan["prune"], plan["max_drop"], plan["importance"]) == (4, 0.5, 2.5, "l1")
    other = tmp_path / "other.toml"
    other.write_text('target = "intel"\n')
    run = edgeport("build", "--config", other, "--dry-run", store=tmp_path / "store", cwd=tmp_path)
    assert [target["name"] for target in json.loads(run.out)["targets"]] == ["intel"]


def test_target_file_of_a_users_own_is_a_target(tmp_path: Path) -> None:
    text = 'description = "mine"\nbackend = "onnxruntime"\nisa = "any"\nchannel_multiple = 12\n'
    (tmp_path / "my-board.toml").write_text(text)
    run = edgeport("build", "--target", "my-board.toml,arm64", "--dry-run", store=tmp_path / "store", cwd=tmp_path)
    plan = json.loads(run.out)
    assert [target["name"] for target in plan["targets"]] == ["my-board", "arm64"]
    assert plan["channel_multiple"] == 24  # lcm(12, 8)


def test_targets_lists_every_target_file(tmp_path: Path) -> None:
    run = edgeport("targets", store=tmp_path / "store", cwd=tmp_path)
    assert (run.code, run.err) == (0, "")
    assert [line.split()[0] for line in run.out.splitlines()] == profile.known_targets()
    listed = json.loads(edgeport("targets", "--json", store=tmp_path / "store", cwd=tmp_path).out)
    assert [target["name"] for target in listed] == profile.known_targets()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--help"], ["build", "--target", "x", "--help"], ["inspect", "--help"]])
def test_help_is_printed_whatever_stands_before_it(tmp_path: Path, arguments: list[str]) -> None:
    run = edgeport(*arguments, store=tmp_path / "store", cwd=tmp_path)
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith("Usage: edgeport")


def test_doctor_finds_everything_here_or_says_what_to_install(tmp_path: Path) -> None:
    run = edgeport("doctor", store=tmp_path / "store", cwd=tmp_path)
    assert run.code == 0, run.err
    assert "torch" in run.out
    last = run.out.splitlines()[-1]
    assert last == "everything is installed" or last.startswith("fix: pip install 'edgeport[")


def test_network_that_prints_leaves_stdout_to_the_report(tmp_path: Path) -> None:
    target_or_skip("cpu")
    write_samples(tmp_path / "e.npz", {"x": (20, 3, 12, 12)}, classes=4)
    arguments = ("--target", "cpu", "--precision", "float32", "--evaluate", "e.npz", "--output", "out", "--json")
    run = edgeport("build", f"{NETWORKS}:talking", *arguments, store=tmp_path / "store", cwd=tmp_path)
    assert run.code == 0, run.err
    assert run.report()["verdict"] == "pass"
    assert "loading the network ..." in run.err


def test_limit_that_is_exceeded_fails_with_six_and_keeps_the_files(tmp_path: Path) -> None:
    target_or_skip("cpu")
    write_samples(tmp_path / "e.npz", {"x": (20, 3, 12, 12)}, classes=4)
    text = (profile.data_folder("targets") / "cpu.toml").read_text(encoding="utf-8")
    (tmp_path / "strict.toml").write_text(f"{text}\n[limits]\nmin_agreement = 100.5\n")  # cannot be reached
    arguments = ("--target", "strict.toml", "--precision", "float32", "--evaluate", "e.npz", "--output", "out")
    run = edgeport("build", f"{NETWORKS}:small", *arguments, store=tmp_path / "store", cwd=tmp_path)
    assert run.code == 6, run.err
    assert "verdict: fail" in run.out
    assert "agreement is 100 percent" in run.out
    assert "strict/model.onnx" in files_of(tmp_path / "out")
    assert edgeport("report", "out", store=tmp_path / "store", cwd=tmp_path).code == 6


@pytest.mark.slow
def test_report_verify_bench_and_compare_read_a_build(demo_build: Build, tmp_path: Path) -> None:
    out = demo_build.output
    report = edgeport("report", out, store=tmp_path / "store", cwd=tmp_path)
    assert (report.code, report.err) == (0, "")
    assert "verdict: pass" in report.out
    targets = list(demo_build.report()["targets"])
    for name in targets:
        assert name in report.out
    verify = edgeport("verify", out, store=tmp_path / "store", cwd=tmp_path)
    assert verify.code == 0, verify.err
    assert all(line.startswith(("ok ", "runs ")) for line in verify.out.splitlines())
    assert verify.out.count("runs ") == len(targets)
    bench = edgeport("bench", out, store=tmp_path / "store", cwd=tmp_path)
    assert bench.code == 0, bench.err
    assert len(bench.out.splitlines()) == 2 * len(targets)
    compare = edgeport("compare", out, out, store=tmp_path / "store", cwd=tmp_path)
    assert (compare.code, compare.err) == (0, "")
    assert "1.000" in compare.out


@pytest.mark.slow
def test_verify_finds_a_changed_and_a_missing_file(demo_build: Build, tmp_path: Path) -> None:
    shutil.copytree(demo_build.output, tmp_path / "out")
    target = next(iter(demo_build.report()["targets"]))
    (tmp_path / "out" / target / "io.json").write_text("{}")
    (tmp_path / "out" / "model.safetensors").unlink()
    run = edgeport("verify", "out", store=tmp_path / "store", cwd=tmp_path)
    assert run.code == 6
    assert run.error == f"{target}/io.json is changed; model.safetensors is missing"


@pytest.mark.slow
def test_inspect_reads_every_artifact(demo_build: Build, tmp_path: Path) -> None:
    report = demo_build.report()
    for found in report["targets"].values():
        file = demo_build.output / found["artifact"]
        run = edgeport("inspect", file, store=tmp_path / "store", cwd=tmp_path)
        assert (run.code, run.err) == (0, "")
        content = json.loads(edgeport("inspect", file, "--json", store=tmp_path / "store", cwd=tmp_path).out)
        macs = next(metric["value"] for metric in found["metrics"] if metric["name"] == "macs")
        assert content["totals"]["macs"] == macs
        assert content["size_bytes"] == file.stat().st_size


@pytest.mark.slow
def test_output_that_is_no_terminal_has_no_escape_codes(demo_build: Build, tmp_path: Path) -> None:
    arguments = (*demo_build.arguments, "--output", str(tmp_path / "out"))
    run = edgeport(*arguments, store=demo_build.store, cwd=tmp_path, TERM="xterm-256color")
    assert run.code == 0, run.err
    assert "verdict: pass" in run.out
    assert "\x1b" not in run.out + run.err


@pytest.mark.slow
@pytest.mark.parametrize(("no_color", "is_coloured"), [("", True), ("1", False)])
def test_terminal_is_coloured_unless_no_color_is_set(
    demo_build: Build, tmp_path: Path, no_color: str, is_coloured: bool
) -> None:
    """A build shows a bar there, which moves the cursor; the report is results alone."""
    reader, terminal = pty.openpty()
    with os.fdopen(reader, "rb", closefd=True) as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeport", "report", str(demo_build.output)],
            env=environment(tmp_path, NO_COLOR=no_color, TERM="xterm-256color"),
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        text = b""
        with contextlib.suppress(OSError):  # Linux: reading from a terminal that its last writer has closed
            while chunk := stream.read1():
                text += chunk
    assert process.wait() == 0, text
    assert b"verdict: pass" in text
    assert (b"\x1b" in text) == is_coloured


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "none.tflite"], "none.tflite"),
        (["inspect", "text.txt"], "cannot tell the format of 'text.txt'"),
        (["inspect", "text.onnx"], "text.onnx"),
        (["inspect", "text.tflite"], "text.tflite"),
        (["inspect", "text.xml"], "text.xml"),
        (["report", "none"], "no report at 'none'"),
        (["report", "text.txt"], "is not a report of edgeport build"),
        (["verify", "none"], "no manifest.json in 'none'"),
        (["bench", "none"], "no model.tflite, model.xml or model.onnx in 'none'"),
        (["bench", "none", "--device", "moon"], "unknown device 'moon'"),
        (["compare", "none", "none"], "no report at 'none'"),
        (["compare", "none"], "missing argument 'B'"),
    ],
    ids=" ".join,
)
def test_wrong_file_is_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    for name in ("text.txt", "text.onnx", "text.tflite", "text.xml"):
        (tmp_path / name).write_text("no model")
    refused(edgeport(*arguments, store=tmp_path / "store", cwd=tmp_path), 2, words)
