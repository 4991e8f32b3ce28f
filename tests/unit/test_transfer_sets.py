"""Transfer sets as users have them: unlabelled, of another domain, a few images a class, smaller than a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from chain_case import Project, project, samples
from distill_case import CLASSES, data, images, perturbed, teacher, traced
from torch import nn

from edgeport.dataset import Dataset
from edgeport.errors import ConfigError
from edgeport.stages.context import Context
from edgeport.stages.distill import Distill
from edgeport.training.losses import softened_divergence
from edgeport.training.modes import tensors_of
from edgeport.types import Model

SHORT = Distill(epochs=1, batch_size=8)


def noise(count: int = 64, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 16, 16)).astype(np.float32)


def textures(folder: Path, count: int) -> Dataset:
    """Write unlabelled pictures of another domain: noise smoothed over 4 x 4 pixels, three times as bright."""
    coarse = np.random.default_rng(3).normal(size=(count, 3, 4, 4)).astype(np.float32) * 3
    return data(folder, coarse.repeat(4, 2).repeat(4, 3))


@pytest.mark.parametrize(
    ("elsewhere", "expected"),
    [(0, "ValueObjective"), (2, "ValueObjective"), (CLASSES, "ClassObjective"), (CLASSES + 1, "ValueObjective")],
)
def test_labels_of_other_data_for_as_many_classes_tell_that_scores_are_of_classes(
    tmp_path: Path, elsewhere: int, expected: str
) -> None:
    context = Context(teachers=(teacher(),), train=data(tmp_path, noise(16)), classes_elsewhere=elsewhere)
    assert SHORT(perturbed(teacher()), context)[1]["objective"] == expected


class Wide(nn.Module):
    """1000 scores of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.linear(x)
        return scores


@pytest.mark.parametrize(("elsewhere", "expected"), [(2, "ValueObjective"), (998, "ClassObjective")])
def test_labels_need_not_show_the_last_of_many_classes(tmp_path: Path, elsewhere: int, expected: str) -> None:
    train = data(tmp_path, np.ones((16, 1), np.float32))
    model = traced(Wide(), [(1,)])
    context = Context(teachers=(model,), train=train, classes_elsewhere=elsewhere)
    assert SHORT(model, context)[1]["objective"] == expected


def objective_of(ready: Project, **said: object) -> object:
    return ready.chain(prune=0.0, precision="float32", **said).records()[-1].metrics["objective"]


def test_build_with_unlabelled_images_learns_classes_where_its_other_data_tell_them(tmp_path: Path) -> None:
    ready = project(tmp_path)
    plain = samples(tmp_path / "plain.npz", 24, 7, labels=False)
    unlabelled = samples(tmp_path / "unlabelled.npz", 24, 8, labels=False)
    assert objective_of(ready, train=plain) == "ClassObjective"
    assert objective_of(ready, train=plain, evaluate=unlabelled) == "ValueObjective"
    told = ready.chain(train=plain, evaluate=unlabelled)  # the calibration samples have labels
    assert told.data.classes_elsewhere == 4
    assert ready.chain(train=plain, evaluate=unlabelled).key == told.key
    binary = samples(tmp_path / "binary.npz", 24, 9, high=2)  # good or bad, not the four values the network gives
    assert objective_of(ready, train=plain, evaluate=binary) == "ValueObjective"


def test_key_of_training_tells_what_the_other_data_speak_of(tmp_path: Path) -> None:
    ready = project(tmp_path)
    plain = samples(tmp_path / "plain.npz", 24, 7, labels=False)
    other = samples(tmp_path / "other.npz", 24, 8)
    unlabelled = samples(tmp_path / "unlabelled.npz", 24, 8, labels=False)

    def key(**said: object) -> str:
        return ready.chain(prune=0.0, precision="float32", **said).float_key

    assert key(train=plain) == key(train=plain, evaluate=other) != key(train=plain, evaluate=unlabelled)
    assert key() == key(evaluate=unlabelled)  # the training samples have labels themselves


def divergence(student: Model) -> float:
    pixels = torch.from_numpy(noise())
    with torch.no_grad():
        return softened_divergence(student.module(pixels), teacher().module(pixels), 1.0).item()


def is_finite(model: Model) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in tensors_of(model.module).values())


def test_five_images_a_class_are_enough_to_learn_from(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(CLASSES), 5)
    train = data(tmp_path, noise(len(labels)), labels=labels)
    student = perturbed(teacher())
    stage = Distill(epochs=20, batch_size=8)
    trained, figures = stage(student, Context(teachers=(teacher(),), train=train))
    assert (figures["samples"], figures["objective"]) == (20, "ClassObjective")
    assert divergence(trained) < divergence(student) / 2


def test_unlabelled_images_of_another_domain_are_learned_from(tmp_path: Path) -> None:
    student = perturbed(teacher())
    context = Context(teachers=(teacher(),), train=textures(tmp_path, 128), classes_elsewhere=CLASSES)
    trained, figures = Distill(epochs=4, batch_size=16)(student, context)
    losses = figures["loss_per_epoch"]
    assert isinstance(losses, list)
    assert losses[-1] < losses[0] / 2
    assert is_finite(trained)


@pytest.mark.parametrize("count", [2, 20, 127])
def test_training_set_smaller_than_a_batch_is_one_batch(tmp_path: Path, count: int) -> None:
    trained, figures = Distill(epochs=2)(
        perturbed(teacher()), Context(teachers=(teacher(),), train=images(tmp_path, count))
    )
    assert figures["samples"] == count
    assert is_finite(trained)
    with pytest.raises(ConfigError, match="--train: 1 sample; training needs at least 2"):
        SHORT(teacher(), Context(teachers=(teacher(),), train=images(tmp_path / "one", 1)))
