"""What a build leaves: report, manifest, layout, files that run by themselves and tell nothing of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from e2e_case import files_of, metrics_of, places_of_this_machine

if TYPE_CHECKING:
    from e2e_builds import Build

pytest_plugins = ("e2e_builds",)
pytestmark = pytest.mark.slow  # whichever test comes first pays for the builds

SUFFIXES = {"arm64": (".tflite",), "cpu": (".onnx",), "intel": (".xml", ".bin")}
METRIC_KEYS = {"name", "value", "unit", "origin", "interval", "limit", "passed"}
CONTRACT = {
    "top1",
    "top1_float",
    "top1_drop",
    "agreement",
    "cosine_min",
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_float_p50_ms",
    "speedup",
    "size_bytes",
    "size_float_bytes",
    "compression",
    "peak_rss_bytes",
    "macs",
}
PERCENT = {"agreement", "top1", "top1_float"}


def test_demo_passes_and_says_only_its_report(demo_build: Build) -> None:
    assert demo_build.run.code == 0, demo_build.run.err
    assert demo_build.run.out == (demo_build.output / "report.json").read_text(encoding="utf-8")
    assert demo_build.report()["verdict"] == "pass"


def test_report_keeps_the_contract(demo_build: Build) -> None:
    report = demo_build.report()
    assert set(report) == {"schema", "model", "verdict", "stages", "targets"}
    assert (report["schema"], report["model"]) == (1, "digits")
    names = [stage["name"] for stage in report["stages"]]
    assert names == ["trace", "prune", "distill", "equalize", "calibrate", "correct", "lower", "validate"]
    for stage in report["stages"]:
        assert set(stage) == {"name", "options", "seconds", "metrics"}
        assert stage["seconds"] >= 0
    for target, found in report["targets"].items():
        assert (demo_build.output / found["artifact"]).is_file()
        figures = metrics_of(report, target)
        assert set(figures) >= CONTRACT
        assert len(figures) == len(found["metrics"]), "a name twice"
        for name, metric in figures.items():
            assert set(metric) == METRIC_KEYS, name
            assert metric["origin"] in {"measured", "emulated", "modelled"}, name
            assert (metric["limit"] is None) == (metric["passed"] is None), name
            if name.partition("@")[0] in PERCENT:
                assert metric["unit"] == "percent", name
                assert 0 <= metric["value"] <= 100, name


def test_figures_of_the_report_agree_with_each_other_and_with_the_files(demo_build: Build) -> None:
    report = demo_build.report()
    for target in report["targets"]:
        value = {name: metric["value"] for name, metric in metrics_of(report, target).items()}
        folder = demo_build.output / target
        sizes = [
            sum((folder / f"{stem}{suffix}").stat().st_size for suffix in SUFFIXES[target])
            for stem in ("model", "model-float")
        ]
        assert [value["size_bytes"], value["size_float_bytes"]] == sizes
        assert value["compression"] == pytest.approx(sizes[1] / sizes[0])
        assert value["top1_drop"] == pytest.approx(value["top1_float"] - value["top1"])
        assert value["speedup"] == pytest.approx(value["latency_float_p50_ms"] / value["latency_p50_ms"])
        assert value["latency_p50_ms"] <= value["latency_p90_ms"]
        assert value["macs@int8"] <= value["macs"]


def test_layout_is_what_the_contract_says(demo_build: Build) -> None:
    expected = {"report.json", "manifest.json", "model.safetensors", "structure.json", "network.json", "steps.svg"}
    for target in demo_build.report()["targets"]:
        files = {"io.json", "benchmark.py"}
        files |= {f"{stem}{suffix}" for stem in ("model", "model-float") for suffix in SUFFIXES[target]}
        expected |= {f"{target}/{name}" for name in files}
    assert set(files_of(demo_build.output)) == expected


def test_manifest_lists_every_file_with_its_digest(demo_build: Build) -> None:
    manifest = json.loads((demo_build.output / "manifest.json").read_text(encoding="utf-8"))
    found = files_of(demo_build.output)
    listed = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    assert listed == {
        name: sha for name, sha in found.items() if name not in {"manifest.json", "report.json", "steps.svg"}
    }
    assert all(entry["bytes"] == (demo_build.output / name).stat().st_size for name, entry in manifest["files"].items())


@pytest.mark.parametrize("name", ["demo_build", "two_by_two_build"])
def test_files_tell_nothing_of_this_machine(name: str, request: pytest.FixtureRequest) -> None:
    made: Build = request.getfixturevalue(name)
    assert made.run.code == 0, made.run.err
    places = places_of_this_machine(made.cwd, made.store, Path(made.cwd.anchor, "tmp"))
    for file in sorted(made.output.rglob("*")):
        if file.is_file() and file.name != "benchmark.py":  # that one is edgeport's own source
            content = file.read_bytes()
            told = [place for place in (*places, b"Traceback", b'File "') if place in content]
            assert told == [], file


def test_two_inputs_and_two_outputs_pass_on_every_runtime(two_by_two_build: Build) -> None:
    assert two_by_two_build.run.code == 0, two_by_two_build.run.err
    report = two_by_two_build.report()
    assert report["verdict"] == "pass"
    assert report["targets"]
    trace = report["stages"][0]["metrics"]
    assert [row[:2] for row in trace["inputs"]] == [["picture", [3, 12, 12]], ["numbers", [5]]]
    assert [row[1] for row in trace["outputs"]] == [[2, 6, 6], [3]]
    for target in report["targets"]:
        figures = metrics_of(report, target)
        assert figures["cosine_min@float32"]["value"] > 0.9999
        assert figures["cosine_min"]["value"] > 0.98
        io = json.loads((two_by_two_build.output / target / "io.json").read_text(encoding="utf-8"))
        assert [row["name"] for row in io["inputs"]] == ["picture", "numbers"]
        assert len(io["outputs"]) == 2
        assert len({row["tensor"] for row in (*io["inputs"], *io["outputs"])}) == 4


def test_two_inputs_and_two_outputs_pass_in_float(two_by_two_build: Build, tmp_path: Path) -> None:
    arguments = (*two_by_two_build.arguments, "--precision", "float32")
    made = replace(two_by_two_build, arguments=arguments)
    run = made.again(output=tmp_path / "out")
    assert run.code == 0, run.err
    for target in run.report()["targets"]:
        files = files_of(tmp_path / "out" / target)
        for suffix in SUFFIXES[target]:
            assert files[f"model{suffix}"] == files[f"model-float{suffix}"]
            assert files[f"model{suffix}"] == files_of(made.output / target)[f"model-float{suffix}"]


def agent(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    """Run the bundle's own `benchmark.py`, as on a device: without edgeport and without torch."""
    command = [sys.executable, "-I", str(folder / "benchmark.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_benchmark_in_the_bundle_gives_outputs_in_the_networks_order(two_by_two_build: Build, tmp_path: Path) -> None:
    import torch
    from e2e_networks import two_by_two

    with np.load(two_by_two_build.cwd / "evaluate.npz") as samples:
        inputs = [samples["x0"], samples["x1"]]
    for index, array in enumerate(inputs):
        np.save(tmp_path / f"in{index}.npy", array)
    torch.manual_seed(0)  # the build's seed, which decided the weights
    with torch.no_grad():
        expected = [output.numpy() for output in two_by_two()(*map(torch.from_numpy, inputs))]
    for target in two_by_two_build.report()["targets"]:
        folder = two_by_two_build.output / target
        model = f"model-float{SUFFIXES[target][0]}"
        paths = (tmp_path / "in0.npy", tmp_path / "in1.npy")
        agent(folder, "run", model, "--inputs", *paths, "--outputs", tmp_path / "outputs.npz")
        with np.load(tmp_path / "outputs.npz") as found:
            outputs = [found["out0"], found["out1"]]
        for output, wanted in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(output, wanted, atol=2e-5, err_msg=target)  # float32 sums in another order


def test_benchmark_in_the_bundle_times_both_files(demo_build: Build) -> None:
    for target in demo_build.report()["targets"]:
        suffix = SUFFIXES[target][0]
        folder = demo_build.output / target
        found = agent(folder, "bench", f"model{suffix}", f"model-float{suffix}", "--seconds", "0.2")
        assert [0 < model["p50_ms"] <= model["p90_ms"] for model in found["models"]] == [True, True]


def test_pruned_network_is_rebuilt_from_the_bundle(demo_build: Build, tmp_path: Path) -> None:
    import torch

    from edgeport import load_pruned
    from edgeport.demo.data import split
    from edgeport.demo.net import DigitsNet

    images = split("evaluate")[0][:50]
    np.save(tmp_path / "in0.npy", images)
    network = load_pruned(DigitsNet, demo_build.output)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    full = sum(value.numel() for value in DigitsNet().parameters())
    assert sum(value.numel() for value in network.parameters()) < 0.7 * full
    for target in demo_build.report()["targets"]:
        arguments = ("run", f"model-float{SUFFIXES[target][0]}", "--inputs", tmp_path / "in0.npy")
        agent(demo_build.output / target, *arguments, "--outputs", tmp_path / "outputs.npz")
        with np.load(tmp_path / "outputs.npz") as found:
            np.testing.assert_allclose(found["out0"], expected, atol=1e-4, err_msg=target)  # batch norms are folded
