"""Files with integer inputs and outputs that others made: MLPerf Tiny's references (github.com/mlcommons/tiny)."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from edgeport.devices import host
from edgeport.devices.agent import agreement_percent, cosines

IMAGES = 100


@pytest.fixture(scope="module")
def references(shared_data: Path) -> Path:
    """Return the folder of MLPerf Tiny's reference files."""
    pytest.importorskip("ai_edge_litert")
    folder = shared_data / "mlperf-tiny" / "reference"
    if not folder.is_dir():
        pytest.skip("the shared data has no mlperf-tiny/reference")
    return folder


@pytest.fixture(scope="module")
def images(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Return 100 CIFAR-10 test images as an .npy, (N, 3, 32, 32) float32 in 0..255, and their labels."""
    from PIL import Image

    with np.load(shared_data / "cifar10" / "cifar10-test.npz") as archive:
        starts, jpeg, labels = archive["offsets"][: IMAGES + 1], archive["jpeg"], archive["labels"][:IMAGES]
        files = [jpeg[start:end].tobytes() for start, end in itertools.pairwise(starts)]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    path = tmp_path_factory.mktemp("images") / "x.npy"
    np.save(path, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32))
    return path, labels


def test_int8_image_classifier_agrees_with_its_float_file(
    references: Path, images: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, labels = images
    found = {}
    for name, source, target in (
        ("pretrainedResnet_quant", "input_1_int8", "Identity_int8"),
        ("pretrainedResnet", "input_1", "Identity"),
    ):
        layout = tmp_path / f"{name}.json"
        layout.write_text(
            json.dumps({"inputs": [{"tensor": source, "channels_last": True}], "outputs": [{"tensor": target}]})
        )
        found[name] = host.run(references / f"{name}.tflite", [path], io=layout).outputs[0]
    quantized, real = found["pretrainedResnet_quant"], found["pretrainedResnet"]
    assert quantized.dtype == np.float32
    # softmax in steps of 1/256 (the file's output scale): every row sums to 1 within half a step a class
    np.testing.assert_allclose(quantized.sum(axis=1), 1.0, atol=10 / 512)
    assert np.array_equal(quantized * 256, np.rint(quantized * 256))
    assert agreement_percent(quantized, real) >= 95.0
    assert np.mean(real.argmax(axis=1) == labels) >= 0.6  # JPEG copies cost accuracy; a wrong layout gives about 0.1


def test_int8_autoencoder_follows_its_float_file(references: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    # MLPerf Tiny's spectrogram features lie around -25..25 dB; the file's input steps are 0.39
    np.save(tmp_path / "x.npy", random.uniform(-25, 25, (20, 640)).astype(np.float32))
    quantized = host.run(references / "ad01_int8.tflite", [tmp_path / "x.npy"]).outputs[0]
    real = host.run(references / "ad01_fp32.tflite", [tmp_path / "x.npy"]).outputs[0]
    assert quantized.shape == real.shape == (20, 640)
    assert cosines(quantized, real).min() > 0.98
