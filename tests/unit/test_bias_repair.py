"""Bias repair: which classes are rare, the offset that is best of all, and the stage around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from chain_case import project, samples
from distill_case import CLASSES, Net, data, teacher, traced
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeport.dataset import Dataset
from edgeport.errors import ConfigError, StageError
from edgeport.report.stage_lines import stage_line
from edgeport.stages.context import Context
from edgeport.stages.repair_bias import RepairBias
from edgeport.training.bias_repair import best_offset, rare_classes
from edgeport.types import Model, StageRecord


def test_rare_is_fewer_than_half_of_the_mean() -> None:
    labels = np.repeat([0, 1, 2, 3], [20, 12, 8, 4])  # 44 of 4 classes: the mean is 11, half of it 5.5
    assert rare_classes(labels, 4) == (3,)
    assert rare_classes(labels, 5) == (3, 4)  # mean 8.8, half 4.4
    assert rare_classes(np.repeat([0, 1], [2, 1]), 2) == ()  # 1 is more than half of 1.5


def test_offset_lies_between_the_margins_that_it_must_separate() -> None:
    logits = np.array([[3.0, 1.0], [2.5, 1.5], [4.0, 0.0], [1.0, 0.0]], np.float32)  # margins 2, 1, 4, 1
    labels = np.array([1, 1, 0, 1])
    found = best_offset(logits, labels, (1,))
    assert found.offset == pytest.approx(3.0)  # above 2 all three of class 1 are right, below 4 the one of class 0
    assert (found.right_before, found.right_after) == (1, 4)


def test_class_that_gets_too_much_is_lowered() -> None:
    logits = np.array([[0.0, 2.0], [0.0, 1.0], [0.0, 6.0]], np.float32)
    found = best_offset(logits, np.array([0, 0, 1]), (1,))
    assert found.offset == pytest.approx(-4.0)
    assert (found.right_before, found.right_after) == (1, 3)


def test_nothing_is_changed_where_nothing_is_gained() -> None:
    logits = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert best_offset(logits, np.array([0, 1]), (1,)).offset == 0
    wrong = best_offset(np.array([[0.0, 1.0, 2.0]], np.float32), np.array([0]), (2,))
    assert (wrong.offset, wrong.right_after) == (0, 0)  # the other class wins whatever is added to the rare one


def test_one_sample_is_passed_by_a_little() -> None:
    found = best_offset(np.array([[2.0, 0.0]], np.float32), np.array([1]), (1,))
    assert found.offset == pytest.approx(2.01)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 5))
def test_no_other_offset_is_better(seed: int, count: int, classes: int) -> None:
    chance = np.random.default_rng(seed)
    logits = (chance.integers(-8, 9, (count, classes)) / 2).astype(np.float32)  # ties too
    labels = chance.integers(0, classes, count)
    rare = tuple(range(chance.integers(1, classes)))
    found = best_offset(logits, labels, rare)

    def right(offset: float) -> int:
        shifted = logits.astype(np.float64)
        shifted[:, list(rare)] += offset
        return int((shifted.argmax(1) == labels).sum())

    assert right(found.offset) == found.right_after
    assert right(0.0) == found.right_before
    assert found.right_after >= max(right(offset) for offset in np.arange(-20, 20, 0.125) + 0.0625)


def labelled(folder: Path, labels: list[int], seed: int = 0, names: tuple[str, ...] = ()) -> Dataset:
    pixels = np.random.default_rng(seed).normal(size=(len(labels), 3, 16, 16)).astype(np.float32)
    return data(folder, pixels, labels=np.array(labels), classes=names)


class Probabilities(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.net(x), 1)


def answers(model: Model, samples: Dataset) -> np.ndarray:
    with torch.no_grad():
        found = [model.module(torch.from_numpy(batch.inputs[0])).argmax(1).numpy() for batch in samples.batches(64)]
    return np.concatenate(found)


@pytest.mark.parametrize("has_softmax", [False, True])
def test_lowered_bias_is_found_again(tmp_path: Path, has_softmax: bool) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        net.linear.weight.mul_(30)
    model = traced(net)
    tune = labelled(tmp_path / "tune", [0] * 120, seed=1)
    known = answers(model, tune).tolist()
    assert 5 < known.count(2) < 100  # the case is one
    tune = labelled(tmp_path / "known", known, seed=1)
    with torch.no_grad():
        net.linear.bias[2] -= 5
    damaged = traced(Probabilities(net) if has_softmax else net)
    before = (answers(damaged, tune) == np.array(known)).mean()

    train = labelled(tmp_path / "train", [0, 1, 3] * 10)
    repaired, figures = RepairBias()(damaged, Context(train=train, tune=tune))
    assert figures["classes"] == ["2"]
    assert figures["train_samples"] == [0]
    assert figures["tune_top1_before"] == pytest.approx(100 * before)
    assert figures["tune_top1_after"] == figures["tune_recall_after"] == 100
    assert answers(repaired, tune).tolist() == known
    assert figures["offset"] == pytest.approx(5, abs=2)
    assert (repaired.inputs, repaired.outputs) == (damaged.inputs, damaged.outputs)
    name = "net.linear.bias" if has_softmax else "linear.bias"
    assert damaged.module.get_parameter(name)[2] == net.linear.bias[2]  # the one given stays as it was

    record = StageRecord(name="repair", options={}, seconds=1.0, metrics=figures)
    assert f"on the scores of 2, rare in the training samples; top-1 on 120 tune samples {100 * before:.2f}" in (
        stage_line(record)
    )


def test_nothing_is_repaired_where_no_class_is_rare(tmp_path: Path) -> None:
    context = Context(
        train=labelled(tmp_path / "a", list(range(CLASSES)) * 5), tune=labelled(tmp_path / "b", [0, 1, 2, 3], 1)
    )
    model = teacher()
    same, figures = RepairBias()(model, context)
    assert same is model
    line = stage_line(StageRecord(name="repair", options={}, seconds=1.0, metrics=figures))
    assert line == "nothing to repair: no class is rare in the training samples"


class NoBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, CLASSES, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(x.mean((2, 3)))
        return scores


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    train, tune = labelled(tmp_path / "a", [0, 1, 3] * 5, names=("a", "b", "c", "d")), labelled(tmp_path / "b", [2], 1)
    plain = data(tmp_path / "c", np.zeros((4, 3, 16, 16), np.float32))

    def attempt(model: Model, train: Dataset | None, tune: Dataset | None) -> None:
        RepairBias()(model, Context(train=train, tune=tune))

    with pytest.raises(ConfigError, match="--repair-bias needs labels in --train"):
        attempt(teacher(), plain, tune)
    for wrong in (None, plain):
        with pytest.raises(ConfigError, match="needs labelled samples to choose on; give --tune DATA with labels"):
            attempt(teacher(), train, wrong)
    with pytest.raises(StageError, match="the layer 'head' that makes the class scores has no bias; give it one, or"):
        attempt(traced(NoBias()), train, tune)
    with pytest.raises(ConfigError, match=r"none of the classes that --train lacks \(c\); give --tune DATA that has"):
        attempt(teacher(), train, labelled(tmp_path / "d", [0, 1], 1))


def test_repair_is_a_step_of_the_chain_and_restored(tmp_path: Path) -> None:
    ready = project(tmp_path)
    said = {
        "train": samples(tmp_path / "lacking.npz", 60, 7, high=3),
        "tune": samples(tmp_path / "tune.npz", 40, 8),
        "repair_bias": True,
    }
    chain = ready.chain(**said)
    names = [record.name for record in chain.records()]
    assert names == ["trace", "prune", "distill", "repair", "calibrate"]
    figures = chain.records()[3].metrics
    assert figures["classes"] == ["3"]
    assert figures["tune_top1_after"] >= figures["tune_top1_before"]  # type: ignore[operator]  # numbers
    assert [step.name for step in chain.float_steps()] == ["float", "prune", "distill", "repair"]
    again = ready.chain(**said)
    assert again.records() == chain.records()
    assert torch.equal(
        again.float_model().module.get_parameter("linear.bias"), chain.float_model().module.get_parameter("linear.bias")
    )
    without = ready.chain(**{**said, "repair_bias": False})
    assert without.float_steps()[-1].key == chain.float_steps()[-2].key  # the training is not made again


def test_what_is_missing_is_told_before_the_training(tmp_path: Path) -> None:
    ready = project(tmp_path)
    plain = samples(tmp_path / "plain.npz", 24, 7, labels=False)
    with pytest.raises(ConfigError, match="--repair-bias needs labels in --train"):
        ready.chain(repair_bias=True, train=plain).records()
    assert "distill" not in ready.progress.labels
    with pytest.raises(ConfigError, match="needs labelled samples to choose on; give --tune DATA with labels"):
        ready.chain(repair_bias=True, precision="float32", prune=None).records()
    tuned = ready.chain(repair_bias=True, precision="float32", tune=samples(tmp_path / "tune.npz", 40, 8))
    assert [record.name for record in tuned.records()] == ["trace", "prune", "distill", "repair"]


def test_samples_to_choose_on_may_not_be_trained_on(tmp_path: Path) -> None:
    ready = project(tmp_path)
    assert ready.options.train is not None
    with pytest.raises(ConfigError, match="64 samples are in both --train and --tune"):
        ready.chain(repair_bias=True, tune=ready.options.train)
