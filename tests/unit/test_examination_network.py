"""Mistakes of preprocessing, each committed on purpose, and what the network makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from examination_case import SIDE, Net, arrays, model, normalised, pictures, recipe, trained
from torch import nn

from edgeport.examination import BUILD, DOCTOR, Effort, Finding, examine
from edgeport.examination.preprocessing import _is_convicted
from edgeport.types import Model

PREPROCESSING = ("scale", "normalisation", "channel_order", "axis_order")
IMAGENET = "mean = [0.485, 0.456, 0.406] and std = [0.229, 0.224, 0.225]"
efforts = pytest.mark.parametrize("effort", [BUILD, DOCTOR], ids=["build", "doctor"])
labelled = pytest.mark.parametrize("has_labels", [True, False], ids=["labels", "no-labels"])


@pytest.fixture(scope="module")
def network() -> Model:
    return model(trained())


def found(data: np.ndarray, labels: np.ndarray | None, path: Path, network: Model, effort: Effort) -> list[Finding]:
    return list(examine(arrays(path / "x.npz", data, labels), network, effort=effort).findings)


@efforts
@labelled
def test_no_finding_on_data_as_the_network_was_trained_on(
    tmp_path: Path, network: Model, effort: Effort, has_labels: bool
) -> None:
    for seed in range(3):
        raw, labels = pictures(64, seed)
        assert found(normalised(raw), labels if has_labels else None, tmp_path, network, effort) == []


@efforts
def test_pixels_in_0_to_255_are_found_and_the_sentence_says_how_to_scale(
    tmp_path: Path, network: Model, effort: Effort
) -> None:
    raw, _ = pictures(64, 1)
    (finding,) = found(raw * 255, None, tmp_path, network, effort)
    assert finding.kind == "scale"
    assert finding.sentence == (
        "the samples are scaled as 0..255, the network was trained on ImageNet's mean and std; save x as"
        f" (x / 255 - mean) / std with {IMAGENET}, a number a channel"
    )
    assert finding.evidence["samples"] == 64


@efforts
@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ("", "normalisation"),
        ("mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]", "normalisation"),
        ("mean = [0, 0, 0]\nstd = [0.00392157, 0.00392157, 0.00392157]", "scale"),
        ("mean = [123.7, 116.3, 103.5]\nstd = [58.4, 57.1, 57.4]", "scale"),
    ],
    ids=["none", "half", "0..255", "mean and std of 0..255"],
)
def test_wrong_mean_and_std_of_a_recipe_are_found_with_the_keys_to_write(
    tmp_path: Path, network: Model, effort: Effort, keys: str, kind: str
) -> None:
    raw, labels = pictures(64, 2)
    (finding,) = examine(recipe(tmp_path, raw, labels, keys), network, effort=effort).findings
    assert finding.kind == kind
    assert f"{IMAGENET} in the recipe" in finding.sentence or f"source = this data, {IMAGENET}" in finding.sentence


@efforts
@labelled
def test_swapped_channels_are_found_before_and_after_normalising(
    tmp_path: Path, network: Model, effort: Effort, has_labels: bool
) -> None:
    raw, labels = pictures(64, 3)
    for swapped in (normalised(raw[:, ::-1]), normalised(raw)[:, ::-1]):
        (finding,) = found(swapped, labels if has_labels else None, tmp_path, network, effort)
        assert finding.kind == "channel_order"
        assert finding.sentence.endswith("save x[:, ::-1]")


def test_swapped_channels_of_stored_pictures_are_found_with_a_fix_for_pictures(tmp_path: Path, network: Model) -> None:
    raw, labels = pictures(64, 3)
    keys = "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]"
    (finding,) = examine(recipe(tmp_path, raw[:, ::-1], labels, keys), network, effort=BUILD).findings
    assert finding.kind == "channel_order"
    assert "x = x.flip(1)" in finding.sentence
    assert "images[..., ::-1]" in finding.sentence


def test_two_mistakes_at_once_are_both_found(tmp_path: Path, network: Model) -> None:
    raw, labels = pictures(64, 4)
    kinds = [finding.kind for finding in found(raw[:, ::-1] * 255, labels, tmp_path, network, BUILD)]
    assert kinds == ["scale", "channel_order"]


@efforts
def test_reshaped_channels_last_pictures_are_found(tmp_path: Path, network: Model, effort: Effort) -> None:
    raw, _ = pictures(64, 5)
    reshaped = normalised(raw).transpose(0, 2, 3, 1).reshape(64, 3, SIDE, SIDE)
    (finding,) = found(reshaped, None, tmp_path, network, effort)
    assert finding.kind == "axis_order"
    assert "x.transpose(0, 3, 1, 2)" in finding.sentence


def test_wrong_scaling_is_found_by_labels_where_there_are_no_batch_norms(tmp_path: Path) -> None:
    network = model(trained(has_norms=False))
    raw, labels = pictures(64, 6)
    seen = examine(arrays(tmp_path / "x.npz", normalised(raw), labels), network)
    assert seen.findings == ()
    assert seen.notes == (
        "the network has no trained batch norm: the scaling of the data was tested by the labels only",
    )
    kinds = {finding.kind for finding in found(raw / 255, labels, tmp_path, network, DOCTOR)}
    assert "scale" in kinds
    unlabelled = examine(arrays(tmp_path / "u.npz", normalised(raw)), network, effort=BUILD)
    assert unlabelled.notes[0].endswith("tested not at all")


def test_an_untrained_network_accuses_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    raw, labels = pictures(32, 7)
    assert found(raw * 255, labels, tmp_path, model(Net().eval()), BUILD) == []


def test_the_right_picture_input_of_several_is_examined(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = trained()

        def forward(self, flag: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.net(x) + flag.mean()
            return scores

    raw, labels = pictures(64, 8)
    network = model(Two().eval(), torch.zeros(1, 1), torch.zeros(1, 3, SIDE, SIDE))
    for name, values, kinds in (("good", normalised(raw), []), ("bad", raw * 255, ["scale"])):
        np.savez(tmp_path / f"{name}.npz", x0=np.ones((64, 1), np.float32), x1=values, y=labels)
        from edgeport.dataset import open_dataset

        seen = examine(open_dataset(str(tmp_path / f"{name}.npz")), network, effort=BUILD)
        assert [finding.kind for finding in seen.findings] == kinds


def test_a_dead_layer_is_named(tmp_path: Path) -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.low = trained(), nn.Conv2d(3, 4, 1)
            nn.init.zeros_(self.low.weight)
            nn.init.constant_(self.low.bias, -1.0)  # type: ignore[arg-type]  # a bias is there

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.net(x) + torch.relu(self.low(x)).mean((2, 3))
            return scores

    raw, labels = pictures(32, 9)
    findings = found(normalised(raw), labels, tmp_path, model(Dead().eval()), DOCTOR)
    dead = [finding for finding in findings if finding.kind == "dead_layers"]
    assert len(dead) == 1
    assert "are zero for all 32 samples" in dead[0].sentence


@pytest.mark.parametrize(
    ("support", "ratio", "is_suspect", "is_convicted"),
    [
        ((2.0, False), 0.6, True, True),  # both witnesses agree
        ((0.2, True), 0.5, True, False),  # blue pictures: the batch norms accuse alone
        ((3.0, True), 0.9, False, False),
        ((4.0, True), 0.9, False, True),  # the labels are beyond doubt, the batch norms do not object
        ((4.0, True), 1.5, False, False),  # they object
        ((4.0, False), 0.9, False, False),  # entropy alone is not enough
        (None, 0.7, True, False),
        (None, 0.5, True, True),
        ((4.0, True), None, False, True),
        ((4.0, False), None, False, False),
    ],
)
def test_channel_order_needs_two_witnesses_or_one_beyond_doubt(
    support: tuple[float, bool] | None, ratio: float | None, is_suspect: bool, is_convicted: bool
) -> None:
    assert _is_convicted(support, ratio, is_suspect=is_suspect) is is_convicted
