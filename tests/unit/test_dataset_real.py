"""The shared CIFAR-10 and ImageNet samples: counts, labels, equal content in other containers, cost."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeport.dataset import check_overlap, open_dataset
from edgeport.errors import ConfigError


def test_every_shared_recipe_opens(shared_data: Path) -> None:
    counts = {path.stem: len(open_dataset(str(path))) for path in (shared_data / "recipes").glob("*.toml")}
    splits = {"train": 45000, "calibrate": 512, "tune": 2000, "report": 8000, "evaluate": 10000}
    expected = {f"{kind}-{split}": n for kind in ("cifar10", "cifar10-255") for split, n in splits.items()}
    assert counts == expected | {"imagenet-calibrate": 200, "imagenet-evaluate": 800}


def test_cifar_labels_are_balanced_and_named(shared_data: Path) -> None:
    dataset = open_dataset(str(shared_data / "recipes/cifar10-evaluate.toml"))
    labels = dataset.labels()
    assert labels is not None
    assert np.bincount(labels).tolist() == [1000] * 10
    assert (dataset.classes[3], dataset.shapes) == ("cat", ((3, 32, 32),))
    dataset.check_labels(10)
    with pytest.raises(ConfigError, match="has label 9, the network has 9 classes"):
        dataset.check_labels(9)


def test_recipe_values_are_pillows_pixels_normalised(shared_data: Path) -> None:
    with np.load(shared_data / "imagenet-sample/imagenet-calibrate.npz") as archive:
        file = archive["jpeg"][archive["offsets"][5] : archive["offsets"][6]].tobytes()
    pixels = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), np.float32)[16:240, 16:240]
    dataset = open_dataset(str(shared_data / "recipes/imagenet-calibrate.toml"))
    (batch,) = dataset.subset([5]).batches(1)
    np.testing.assert_allclose(batch.inputs[0][0], ((pixels - 127) / 128).transpose(2, 0, 1), atol=1e-6)


def test_lossless_copies_have_the_digests_of_the_jpeg_files(shared_data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(shared_data / "cifar10/cifar10-test.npz")).subset(slice(100, 150))
    (batch,) = dataset.batches(50)
    pixels = np.rint(batch.inputs[0] * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "images.npz", images=pixels)
    (tmp_path / "flat").mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"flat/{number:03}.{('png', 'webp')[number % 2]}", lossless=True)
    for copy in ("images.npz", "flat"):
        found = open_dataset(str(tmp_path / copy))
        assert found.sample_digests() == dataset.sample_digests()
        with pytest.raises(ConfigError, match=r"^50 samples are in both a and b \(first: sample 0 = sample 0\)"):
            check_overlap(found, dataset, names=("a", "b"))


def test_shared_splits_do_not_overlap(shared_data: Path) -> None:
    calibrate, tune = (
        open_dataset(str(shared_data / f"recipes/cifar10-{name}.toml")) for name in ("calibrate", "tune")
    )
    check_overlap(calibrate, tune, names=("--calibrate", "--evaluate"))


def test_ten_thousand_jpegs_are_decoded_once_and_soon(shared_data: Path) -> None:
    dataset = open_dataset(str(shared_data / "recipes/cifar10-evaluate.toml"))
    seconds = []
    for _ in range(2):
        start = time.process_time()
        assert sum(len(batch) for batch in dataset.batches(128)) == 10000
        seconds.append(time.process_time() - start)
    assert len(set(dataset.sample_digests())) == 10000
    assert seconds[0] < 6  # measured 1.3; four times that on a slower machine
    assert seconds[1] < seconds[0] / 5  # measured 1/20: nothing is decoded again
