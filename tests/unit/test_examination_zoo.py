"""Each mistake committed on purpose on trained networks, and no alarm on their right recipes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from examination_case import arrays

from edgeport.dataset import Dataset, open_dataset
from edgeport.examination import BUILD, examine
from edgeport.examination.scaling import usual_scalings
from edgeport.graph.network import load_network
from edgeport.stages.trace import Trace
from edgeport.types import Model

NETWORKS = {
    "resnet20_jpeg": "cifar10-calibrate",
    "resnet8_jpeg": "cifar10-255-calibrate",
    "efficientnet_lite0": "imagenet-calibrate",
}
# what is done to right inputs, and the kinds that must be found
MISTAKES = {
    "swapped": ("channel_order",),
    "reshaped": ("axis_order",),
    "divided by 255": ("scale",),
    "times 255": ("scale",),
}
names = pytest.mark.parametrize("name", NETWORKS)


@cache
def opened(folder: Path, name: str) -> tuple[Dataset, Model]:
    """Return 64 samples as their recipe gives them, and the traced network."""
    samples = open_dataset(str(folder / "recipes" / f"{NETWORKS[name]}.toml")).subset(slice(0, 64))
    network = load_network(f"{folder / 'zoo.py'}:{name}", None, seed=0)
    first = next(samples.batches(1)).inputs[0]
    return samples, Trace()(network, (torch.from_numpy(first),))[0]


@names
def test_right_recipe_gives_no_finding(shared_data: Path, name: str) -> None:
    samples, network = opened(shared_data, name)
    assert examine(samples, network, effort=BUILD).findings == ()


@names
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_found(shared_data: Path, tmp_path: Path, name: str, mistake: str) -> None:
    samples, network = opened(shared_data, name)
    batch = next(samples.batches(64))
    x = batch.inputs[0]
    wrong = {
        "swapped": x[:, ::-1],
        "reshaped": x.transpose(0, 2, 3, 1).reshape(x.shape),
        "divided by 255": x / 255,
        "times 255": x * 255,
    }[mistake]
    seen = examine(arrays(tmp_path / "x.npz", np.asarray(wrong, np.float32), batch.labels), network, effort=BUILD)
    assert tuple(finding.kind for finding in seen.findings) == MISTAKES[mistake]


@pytest.mark.parametrize(
    ("name", "scaling", "expected"),
    [
        ("resnet20_jpeg", "0..1", ("normalisation", "mean = [0.485, 0.456, 0.406]")),
        ("resnet20_jpeg", "-1..1", ("normalisation", "std = [0.229, 0.224, 0.225]")),
        ("resnet20_jpeg", "0..255", ("scale", "mean = [0.485, 0.456, 0.406]")),
        ("resnet8_jpeg", "0..1", ("scale", "std = [0.003921569, 0.003921569, 0.003921569]")),
        ("resnet8_jpeg", "ImageNet's mean and std", ("scale", "mean = [0, 0, 0]")),
        ("efficientnet_lite0", "ImageNet's mean and std", ("normalisation", "mean = [0.5, 0.5, 0.5]")),
        ("efficientnet_lite0", "0..1", ("normalisation", "std = [0.5, 0.5, 0.5]")),
    ],
)
def test_wrong_recipe_is_found_with_the_keys_to_write(
    shared_data: Path, tmp_path: Path, name: str, scaling: str, expected: tuple[str, str]
) -> None:
    _, network = opened(shared_data, name)
    given = next(known for known in usual_scalings(3) if known.name == scaling)
    source, split = ("imagenet-sample/imagenet-calibrate.npz", "0:64")
    if name.startswith("resnet"):
        source, split = ("cifar10/cifar10-train.npz", "45000:45064")
    keys = f"mean = {list(given.mean)}\nstd = {list(given.std)}\n"
    crop = "crop = 224\n" if name == "efficientnet_lite0" else ""
    (tmp_path / "wrong.toml").write_text(f'source = "{shared_data / source}"\nsplit = "{split}"\n{crop}{keys}')
    (finding,) = examine(open_dataset(str(tmp_path / "wrong.toml")), network, effort=BUILD).findings
    kind, fix = expected
    assert finding.kind == kind
    assert fix in finding.sentence
    assert f"scaled as {scaling}" in finding.sentence


def test_an_autoencoder_of_vectors_is_left_alone(shared_data: Path, tmp_path: Path) -> None:
    network = load_network(f"{shared_data / 'zoo.py'}:anomaly_autoencoder", None, seed=0)
    values = np.random.default_rng(0).normal(size=(64, 640)).astype(np.float32)
    traced = Trace()(network, (torch.from_numpy(values[:1]),))[0]
    assert examine(arrays(tmp_path / "x.npz", values), traced, effort=BUILD).findings == ()
