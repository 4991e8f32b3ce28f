"""Some of the network's classes, and classes that the training samples lack, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from e2e_case import edgeport, refused, target_or_skip

import edgeport as library
from edgeport.demo.net import digits


@pytest.fixture
def _digits() -> None:
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    target_or_skip("cpu")


@pytest.mark.usefixtures("_digits")
def test_three_classes_are_a_network_of_their_own(tmp_path: Path) -> None:
    options = ("--classes", "7,1,4", "--prune", "0.5", "--distill", "2", "--output", "out")
    run = edgeport("build", "--target", "cpu", *options, store=tmp_path / "store")
    assert run.code in {0, 6}, run.err  # two epochs need not hold the limits
    assert "3 of 10 classes: 7, 1, 4" in run.out

    out = tmp_path / "out"
    report = json.loads((out / "report.json").read_text())
    trace = report["stages"][0]["metrics"]
    assert trace["outputs"][0][1] == [3]
    figures = {metric["name"]: metric["value"] for metric in report["targets"]["cpu"]["metrics"]}
    assert figures["top1_float"] > 98  # of three digits; of ten it is less
    assert figures["top1"] > 90
    structure = json.loads((out / "structure.json").read_text())
    assert structure["head"]["kept"] == [7, 1, 4]
    assert structure["then"]["groups"]

    loaded = library.load_pruned(digits, out)
    assert loaded(torch.zeros(2, *trace["inputs"][0][1])).shape == (2, 3)


@pytest.mark.usefixtures("_digits")
def test_classes_are_named_and_the_labels_file_holds_them(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(4, 5)\n")
    names = np.array(["ant", "bee", "cow", "dog", "eel"])
    for use, seed in (("calibrate", 0), ("evaluate", 1)):
        chance = np.random.default_rng(seed)
        x = chance.normal(size=(80, 4)).astype(np.float32)
        np.savez(tmp_path / f"{use}.npz", x=x, y=chance.integers(0, 5, 80), classes=names)
    data = ("--calibrate", "calibrate.npz", "--evaluate", "evaluate.npz", "--target", "cpu", "--output", "out")
    run = edgeport("build", "net.py:net", *data, "--classes", "dog,bee", store=tmp_path / "store")
    assert run.code in {0, 6}, run.err
    assert "2 of 5 classes: dog, bee" in run.out
    assert (tmp_path / "out" / "cpu" / "labels.txt").read_text() == "dog\nbee\n"
    output = tmp_path / "refused"
    for words, said in (("dog,cat", "no class 'cat'; known: ant, bee, cow, dog, eel"), ("dog", "name two classes")):
        options = (*data[:-1], str(output), "--classes", words)
        refused(edgeport("build", "net.py:net", *options, store=tmp_path / "store"), 2, said, output=output)


@pytest.mark.usefixtures("_digits")
def test_class_without_training_samples_is_repaired(tmp_path: Path) -> None:
    (tmp_path / "lacking.py").write_text(
        "from edgeport.demo import data\n"
        "def train():\n"
        "    for x, y in data.train():\n"
        "        yield x[y != 3], y[y != 3]\n"
    )
    options = ("--train", "lacking.py:train", "--prune", "0.5", "--distill", "2", "--repair-bias", "--output", "out")
    run = edgeport("build", "--target", "cpu", *options, store=tmp_path / "store")
    assert run.code in {0, 6}, run.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    repair = next(stage for stage in report["stages"] if stage["name"] == "repair")["metrics"]
    assert repair["classes"] == ["3"]
    assert repair["tune_top1_after"] >= repair["tune_top1_before"]
    assert f"{repair['offset']:+.2f} on the scores of 3, rare in the training samples" in " ".join(run.out.split())
