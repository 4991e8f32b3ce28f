"""Attention maps: which stages they are taken from, what they say, and what a student learns from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distill_case import CLASSES, images, perturbed, teacher, traced
from torch import nn

from edgeport.errors import ConfigError
from edgeport.stages.context import Context
from edgeport.stages.distill import Distill
from edgeport.training.features import attention_map, shared_sizes, stage_ends, with_attention
from edgeport.training.losses import ClassObjective, FeatureObjective
from edgeport.training.modes import tensors_of
from edgeport.training.teacher import Teacher, outputs_of
from edgeport.types import Model


def staged(width: int, seed: int) -> Model:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, width), (width, 2 * width)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return traced(nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * 16, CLASSES)))


def test_attention_is_where_activations_are_large_whatever_their_sign_and_scale() -> None:
    # One position has (3, -4), the other (0, 0): all attention at the first; ten times larger: the same map.
    features = torch.zeros(1, 2, 1, 2)
    features[0, :, 0, 0] = torch.tensor([3.0, -4.0])
    assert attention_map(features).tolist() == [[1.0, 0.0]]
    # Squares 9 and 16 in one channel: (9, 16) / sqrt(337), the mean over channels cancels out.
    plain = torch.tensor([[[[3.0, 4.0]], [[0.0, 0.0]]]])
    expected = torch.tensor([[9.0, 16.0]]) / 337**0.5
    torch.testing.assert_close(attention_map(plain), expected)
    torch.testing.assert_close(attention_map(10 * plain), expected)


def test_stages_end_at_the_last_activation_of_each_size_that_a_pooling_reads() -> None:
    network = staged(4, 0)
    names = {
        size: name.rstrip("_0123456789") for size, name in stage_ends(network.module, network.example_inputs).items()
    }
    assert names == {(16, 16): "relu", (8, 8): "relu", (4, 4): "max_pool2d"}


def test_networks_of_other_widths_share_sizes_and_their_maps_compare() -> None:
    narrow, wide = staged(4, 0), staged(8, 1)
    sizes = shared_sizes([narrow.module, wide.module], narrow.example_inputs)
    assert sizes == ((16, 16), (8, 8), (4, 4))
    inputs = [torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))]
    for network in (narrow, wide):
        watched = with_attention(network.module, network.example_inputs, sizes)
        found = outputs_of(watched, inputs, "float32")
        assert [tuple(value.shape) for value in found] == [(5, CLASSES), (5, 256), (5, 64), (5, 16)]
        assert torch.equal(found[0], network.module(*inputs))
        folded = Teacher(watched, network.example_inputs, "float32")(inputs)
        for one, other in zip(found, folded, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_objective_adds_the_mean_squared_distance_of_maps() -> None:
    on_outputs = ClassObjective(temperature=1.0, hard_labels=0.0)
    objective = FeatureObjective(on_outputs=on_outputs, maps=2, weight=3.0)
    logits, near, far = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    # the first maps agree, the second ones are 1 + 1 apart: 3 x (0 + 2) / 2
    assert objective([logits, near, near], [logits, near, far], None).item() == pytest.approx(3.0)


def test_a_student_learns_where_its_teacher_looks(tmp_path: Path) -> None:
    wide, narrow = staged(8, 1), staged(4, 0)
    context = Context(teachers=(wide,), train=images(tmp_path, 128))
    sizes = shared_sizes([wide.module, narrow.module], wide.example_inputs)
    inputs = [torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(3))]

    def maps(network: Model) -> list[torch.Tensor]:
        with torch.no_grad():
            return outputs_of(with_attention(network.module, network.example_inputs, sizes), inputs, "float32")[1:]

    def distance(student: Model) -> float:
        pairs = zip(maps(student), maps(wide), strict=True)
        return float(sum((one - other).square().sum(1).mean() for one, other in pairs))

    stage = Distill(epochs=3, batch_size=16, hard_labels=0.0, augment=False)
    plain, _ = stage(narrow, context)
    watched, metrics = replace(stage, features=20.0)(narrow, context)
    assert metrics["objective"] == "FeatureObjective"
    assert distance(watched) < 0.8 * distance(plain)
    assert tensors_of(watched.module).keys() == tensors_of(narrow.module).keys()
    assert watched.module(inputs[0]).shape == (32, CLASSES)


def test_what_cannot_learn_from_feature_maps_is_refused(tmp_path: Path) -> None:
    flat = traced(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES)))
    with pytest.raises(ConfigError, match="no feature maps of one size"):
        Distill(epochs=1, features=1.0)(flat, Context(teachers=(flat,), train=images(tmp_path)))
    with pytest.raises(ConfigError, match="features is -1"):
        Distill(epochs=1, features=-1.0)(teacher(), Context(teachers=(perturbed(teacher()),), train=images(tmp_path)))
