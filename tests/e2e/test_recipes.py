"""Pruning to zero, distillation and quantization-aware training in one command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from e2e_case import edgeport, target_or_skip

SHARE = 0.6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where the embedded network was built with zeros in its weights, for `cpu`."""
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    target_or_skip("cpu")
    place = tmp_path_factory.mktemp("recipes")
    recipe = ("--prune", f"fine:{SHARE}", "--distill", "2", "--qat", "1")
    run = edgeport("build", "--target", "cpu", *recipe, "--output", "out", store=place / "store", cwd=place)
    assert run.code == 0, run.err
    (place / "said.txt").write_text(run.out)
    return place


def test_report_tells_what_is_zero_and_what_was_trained(folder: Path) -> None:
    said = " ".join((folder / "said.txt").read_text().split())
    assert "sparsify fine:0.6: 59." in said or "sparsify fine:0.6: 60.0" in said
    assert "only the compressed size gains" in said
    assert "finetune 1 epoch of" in said
    assert "size, deflated" in said
    steps = said[said.index("step by step") :]
    for row in ("float ", "+ sparsify ", "+ distill ", "+ int8 "):
        assert row in steps
    assert "verdict: pass" in said
    assert "least energy first, of what float takes" in said
    assert "least energy first, of what float takes" in next(folder.rglob("report.json")).read_text()


def test_int8_file_has_the_zeros_and_is_smaller_when_deflated(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    import zlib

    from onnx import numpy_helper

    path = folder / "out" / "cpu" / "model.onnx"
    weights = [
        numpy_helper.to_array(value)
        for value in onnx.load(path).graph.initializer
        if value.data_type == onnx.TensorProto.INT8 and len(value.dims) > 1
    ]
    zeros, total = sum(int((value == 0).sum()) for value in weights), sum(value.size for value in weights)
    assert zeros / total > SHARE - 0.05  # depthwise layers keep all of theirs
    raw = path.read_bytes()
    noise = np.random.default_rng(0).integers(-63, 63, total, np.int8).tobytes()
    assert len(zlib.compress(raw, 9)) < 0.8 * len(raw)
    assert len(zlib.compress(noise, 9)) > 0.8 * total  # what a file without zeros would be


def test_rebuild_runs_nothing_again(folder: Path) -> None:
    recipe = ("--prune", f"fine:{SHARE}", "--distill", "2", "--qat", "1")
    before = (folder / "out" / "cpu" / "model.onnx").read_bytes()
    run = edgeport("build", "--target", "cpu", *recipe, "--output", "out", store=folder / "store", cwd=folder)
    assert (run.code, "finetune" in run.err) == (0, False)
    assert (folder / "out" / "cpu" / "model.onnx").read_bytes() == before


def test_training_of_int8_files_alone_is_done_and_its_teacher_may_be_named(folder: Path) -> None:
    from edgeport.demo import net

    options = ("--prune", "0", "--distill", "0", "--qat", "1", "--teacher", f"{net.__file__}:digits")
    run = edgeport("build", "--target", "cpu", *options, "--output", "qat", store=folder / "store", cwd=folder)
    assert run.code == 0, run.err
    assert "finetune 1 epoch of" in " ".join(run.out.split())
    assert "correct" not in run.out  # it takes its place
    metrics = json.loads((folder / "qat" / "report.json").read_text())["targets"]["cpu"]["metrics"]
    same = next(metric for metric in metrics if metric["name"] == "agreement@simulated")
    assert same["value"] >= 99.5  # the file computes what was trained


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--qat", "1", "--precision", "float32"), "--qat trains int8 files"),
        (("--teacher", "big.py:net", "--distill", "0"), "--teacher is for --distill or --qat"),
        (("--teacher", "big.py:net", "--distill", "1"), "no model file 'big.py'"),
        (("--qat", "-1"), "--qat -1: a number of epochs"),
        (("--prune", "fine:1"), "a share of the weights, from 0 to below 1"),
        (("--prune", "fine:0.5,fine:0.6"), "fine is named twice"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    run = edgeport("build", "--target", "cpu", *options, store=tmp_path / "store", cwd=tmp_path)
    assert run.code == 2
    assert words in run.err
