"""Pruning to a budget, with every criterion compared, in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from e2e_case import edgeport, metrics_of, refused, target_or_skip
from safetensors.torch import load_file

from edgeport import load_pruned
from edgeport.demo.net import digits


def test_half_of_the_multiply_adds_by_the_best_criterion(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    target_or_skip("cpu")
    options = ("--macs", "0.5", "--importance", "auto", "--distill", "1", "--output", "out")
    run = edgeport("build", "--target", "cpu", *options, store=tmp_path / "store", cwd=tmp_path)
    assert run.code in {0, 6}, run.err  # one epoch need not hold the limits

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    prune = next(stage for stage in report["stages"] if stage["name"] == "prune")
    figures = prune["metrics"]
    assert 0 < figures["macs_after"] <= 0.5 * figures["macs_before"]
    compared = {name: found for name, found in figures["importance"]["compared"].items() if "error" in found}
    assert {"l1", "l2", "fpgm", "taylor", "activation"} <= set(compared)
    assert figures["importance"]["used"] in compared
    said = " ".join(run.out.split())
    assert f"importance {figures['importance']['used']}, the best of {len(compared)}, for --macs 0.5" in said

    again = edgeport("build", "--target", "cpu", *options, store=tmp_path / "store", cwd=tmp_path)
    assert (again.code, "prune" in again.err) == (run.code, False)


def test_rounds_of_pruning_show_every_step_with_its_file_and_reload(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    target_or_skip("cpu")
    options = ("--macs", "0.4", "--prune-rounds", "2", "--distill", "3", "--output", "out")
    run = edgeport("build", "--target", "cpu", *options, store=tmp_path / "store", cwd=tmp_path)
    assert run.code in {0, 6}, run.err

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    stages = {stage["name"]: stage for stage in report["stages"]}
    rows = stages["validate"]["metrics"]["ablation"]["cpu"]
    assert [row["step"] for row in rows] == ["float", "prune", "distill", "prune", "distill", "int8"]
    multiply_adds, sizes = [row["macs"] for row in rows], [row["size_bytes"] for row in rows]
    assert multiply_adds[0] > multiply_adds[1] == multiply_adds[2] > multiply_adds[3] == multiply_adds[5]
    assert multiply_adds[3] <= 0.4 * multiply_adds[0]
    assert sizes[0] > sizes[1] == sizes[2] > sizes[3] == sizes[4] > sizes[5]
    assert sizes[4] == (tmp_path / "out" / "cpu" / "model-float.onnx").stat().st_size
    assert all(row["latency_p50_ms"] > 0 and row["origin"] == "measured" for row in rows)
    assert rows[-1]["agreement"] <= rows[0]["agreement"] == 100
    assert "+ int8" in run.out
    assert (tmp_path / "out" / "steps.svg").read_text().startswith("<svg")

    network = load_pruned(digits, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert network(torch.zeros(2, 1, 8, 8)).shape[0] == 2


def test_a_share_of_the_latency_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    target_or_skip("cpu")
    options = ("--latency", "0.7", "--distill", "1", "--output", "out")
    run = edgeport("build", "--target", "cpu", *options, store=tmp_path / "store", cwd=tmp_path)
    assert run.code in {0, 6}, run.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    prune = next(stage for stage in report["stages"] if stage["name"] == "prune")
    assert 0 < prune["metrics"]["latency_share"] <= 0.7
    assert prune["metrics"]["macs_after"] < prune["metrics"]["macs_before"]
    assert "for --latency 0.7" in " ".join(run.out.split())


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--macs", "0.5", "--prune", "0.5"), 2, "--prune filter:0.5 and --macs 0.5 say how far to cut"),
        (("--latency", "1.5"), 2, "--latency 1.5: a share of the float file's latency"),
        (("--prune-rounds", "2"), 2, "--prune-rounds cuts on the way to a budget"),
        (("--macs", "0.5", "--prune-rounds", "9"), 2, "--prune-rounds 9 distills after every cut"),
        (("--macs", "0"), 2, "--macs 0: a share of the multiply-adds to keep"),
        (("--macs", "1"), 2, "--macs 1: a share of the multiply-adds to keep"),
        (("--size", "5GB"), 2, "--size 5GB: bytes of weights such as 500kB"),
        (("--macs", "0.0001"), 4, "--macs 0.0001 cannot be met: the least with uniform allocation"),
        (("--prune", "1"), 2, "a share of the filters, from 0 to below 1"),
        (("--prune", "0.01"), 4, "nothing can be cut from this network"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, options: tuple[str, ...], code: int, words: str) -> None:
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    target_or_skip("cpu")
    run = edgeport("build", "--target", "cpu", *options, store=tmp_path / "store", cwd=tmp_path)
    assert run.code == code, run.err
    assert words in run.err.strip().splitlines()[-1]


def test_limits_of_what_is_built(tmp_path: Path) -> None:
    target_or_skip("arm64")
    options = ("edgeport.demo.net:digits", "--precision", "float32", "--input", "1x8x8", "--output", "out")
    limits = ("--max-size", "1kB", "--max-ram", "1MB", "--max-latency", "3", "--max-energy", "1e6", "--per-day", "24")
    run = edgeport("build", *options, *limits, "--target", "raspberry-pi-4", store=tmp_path / "store", cwd=tmp_path)
    assert run.code == 6, run.err
    assert (tmp_path / "out" / "raspberry-pi-4" / "model.tflite").is_file(), "files are kept: they are the evidence"
    found = metrics_of(json.loads((tmp_path / "out" / "report.json").read_text()), "raspberry-pi-4")
    assert found["size_bytes"]["passed"] is False
    assert found["ram_bytes"]["passed"] is True
    assert found["energy_mj"]["passed"] is True
    assert found["energy_mj"]["origin"] == "modelled"
    low, high = found["latency_p50_ms"]["interval"]
    assert low < 3 < high
    assert found["latency_p50_ms"]["passed"] is None
    assert "limit of 3 on latency_p50_ms was not judged: it is modelled" in " ".join(run.out.split())
    assert found["energy_day_j"]["value"] > 86_400
    assert found["latency_p50_ms@host"]["value"] > 0
    assert "raspberry-pi-4: size_bytes is" in run.out


def test_limits_that_are_none_are_refused(tmp_path: Path) -> None:
    for option, value in (("--max-size", "12"), ("--max-ram", "0B"), ("--max-latency", "0"), ("--max-energy", "nan")):
        run = edgeport("build", "--target", "arm64", option, value, store=tmp_path / "store", cwd=tmp_path)
        refused(run, 2, option, value, output=tmp_path / "edgeport-out")
