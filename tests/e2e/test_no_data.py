"""Builds without calibration data: int8 weights alone, an input that is found out, and a report that says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e_case import NETWORKS, available_targets, edgeport, files_of, metrics_of, refused, target_or_skip, write_samples

ZOO = Path(__file__).resolve().parents[3] / "shared" / "data" / "zoo.py"
LEAST = {"arm64": 3.5, "cpu": 3.5, "intel": 3.1}  # OpenVINO describes ResNet-20 in 54 kB of text, whatever the weights


def test_real_network_without_any_data_becomes_a_quarter(tmp_path: Path) -> None:
    if not ZOO.is_file():
        pytest.skip("needs ../shared/data")
    targets = available_targets()
    if not targets:
        pytest.skip("needs a runtime")
    flags = ("--target", ",".join(targets), "--output", "out")
    run = edgeport("build", f"{ZOO}:resnet20_jpeg", *flags, store=tmp_path / "store", cwd=tmp_path)
    assert run.code == 0, run.err
    for words in ("input 3x32x32, INFERRED", "NOBODY HAS CHECKED", "int8 weights, float activations", "verdict: pass"):
        assert words in " ".join(run.out.split())
    report = edgeport("report", "out", store=tmp_path / "store", cwd=tmp_path)
    assert "NOBODY HAS CHECKED" in " ".join(report.out.split())  # also when it is read again
    json = edgeport("build", f"{ZOO}:resnet20_jpeg", *flags, "--json", store=tmp_path / "store", cwd=tmp_path).report()
    for target in targets:
        figures = metrics_of(json, target)
        assert figures["compression"]["value"] >= LEAST[target]
        assert figures["cosine_min"]["value"] >= 0.999
        assert figures["agreement"]["passed"] is None
        assert figures["cosine_min@float32"]["passed"] is True


def test_rebuild_without_data_gives_the_same_bytes(tmp_path: Path) -> None:
    target_or_skip("cpu")
    files = []
    for place in "ab":
        flags = ("--target", "cpu", "--input", "3x12x12", "--output", place)
        run = edgeport("build", f"{NETWORKS}:small", *flags, store=tmp_path / f"store-{place}", cwd=tmp_path)
        assert run.code == 0, run.err
        assert "given by --input" in run.out
        files.append({name: digest for name, digest in files_of(tmp_path / place).items() if name != "report.json"})
    assert files[0] == files[1]
    assert {"cpu/model.onnx", "cpu/model-float.onnx"} <= set(files[0])


def test_evaluation_data_judge_a_file_with_int8_weights(tmp_path: Path) -> None:
    target_or_skip("cpu")
    write_samples(tmp_path / "e.npz", {"x": (50, 3, 12, 12)}, classes=4)
    flags = ("--target", "cpu", "--evaluate", "e.npz", "--json")
    run = edgeport("build", f"{NETWORKS}:small", *flags, store=tmp_path / "store", cwd=tmp_path)
    report = run.report()
    assert report["stages"][-2]["options"]["precision"] == "dynamic_int8"
    figures = metrics_of(report, "cpu")
    assert figures["agreement"]["limit"] == 95.0
    assert "top1_drop" in figures


@pytest.mark.parametrize("data", [True, False])
def test_float16_ships_beside_a_float32_file(tmp_path: Path, data: bool) -> None:
    target_or_skip("cpu")
    write_samples(tmp_path / "e.npz", {"x": (50, 3, 12, 12)}, classes=4)
    flags = ["--target", "cpu", "--precision", "float16", "--output", "out", "--json"]
    flags += ["--evaluate", "e.npz"] if data else ["--input", "3x12x12"]
    run = edgeport("build", f"{NETWORKS}:small", *flags, store=tmp_path / "store", cwd=tmp_path)
    assert run.code == 0, run.err
    figures = metrics_of(run.report(), "cpu")
    assert figures["compression"]["value"] > 1.5  # 5,500 parameters; the graph takes the rest
    assert figures["cosine_min"]["value"] > 0.9999
    for name, weights in (("model", "float16"), ("model-float", "float32")):
        shown = edgeport("inspect", f"out/cpu/{name}.onnx", store=tmp_path / "store", cwd=tmp_path)
        rows = [line.split() for line in shown.out.splitlines()]
        assert ["Conv", "float32", weights] in [row[:3] for row in rows]


def test_what_cannot_be_inferred_or_run_is_refused(tmp_path: Path) -> None:
    target_or_skip("cpu")
    run = edgeport("build", f"{NETWORKS}:two_by_two", "--target", "cpu", store=tmp_path / "store", cwd=tmp_path)
    refused(run, 2, "takes 2 inputs", "give --input")
    flags = ("--target", "cpu", "--input", "4x12x12")
    run = edgeport("build", f"{NETWORKS}:small", *flags, store=tmp_path / "store", cwd=tmp_path)
    refused(run, 2, "the network does not take inputs of shape (1, 4, 12, 12)")
