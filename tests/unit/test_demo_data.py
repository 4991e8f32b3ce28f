"""The embedded default's data: complete, disjoint, in range, and readable without importing scikit-learn."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from edgeport.demo import data
from edgeport.errors import MissingPackageError

PARTS = get_args(data.Part)


def test_parts_hold_every_digit_of_scikit_learn_once() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    expected = sorted(
        (*image.astype(int).ravel(), label) for image, label in zip(theirs.images, theirs.target, strict=True)
    )
    ours = sorted(
        (*(image * 16).astype(int).ravel(), label)
        for part in PARTS
        for image, label in zip(*data.split(part), strict=True)
    )
    assert len(ours) == 1797
    assert ours == expected


@pytest.mark.parametrize(("one", "other"), list(combinations(PARTS, 2)))
def test_parts_share_no_image(one: data.Part, other: data.Part) -> None:
    def hashes(part: data.Part) -> set[bytes]:
        return {image.tobytes() for image in data.split(part)[0]}

    assert hashes(one).isdisjoint(hashes(other))


@pytest.mark.parametrize(("part", "count"), [("train", 1097), ("calibrate", 200), ("evaluate", 500)])
def test_part_has_its_documented_shape_and_range(part: data.Part, count: int) -> None:
    images, labels = data.split(part)
    assert images.shape == (count, 1, 8, 8)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    assert labels.shape == (count,)
    assert labels.dtype == np.int64
    assert set(labels.tolist()) == set(range(10))


@pytest.mark.parametrize("part", PARTS)
def test_batches_are_the_part_in_order(part: data.Part) -> None:
    batches = list(getattr(data, part)())
    images, labels = data.split(part)
    np.testing.assert_array_equal(np.concatenate([batch[0] for batch in batches]), images)
    np.testing.assert_array_equal(np.concatenate([batch[1] for batch in batches]), labels)


def test_split_returns_arrays_of_its_own() -> None:
    images, _ = data.split("calibrate")
    images[:] = -1
    assert data.split("calibrate")[0].min() == 0


def test_reading_imports_neither_scikit_learn_nor_torch() -> None:
    code = "import sys; from edgeport.demo import data; data.split('train'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "edgeport.demo.data" in done.stdout.split()
    assert {"sklearn", "torch"}.isdisjoint(done.stdout.split())


def test_missing_scikit_learn_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    data._digits.cache_clear()
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "sklearn").is_dir()])
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    with pytest.raises(MissingPackageError, match=r"pip install 'edgeport\[demo\]'$"):
        data.split("train")


def test_damaged_scikit_learn_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data._digits.cache_clear()
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    with pytest.raises(MissingPackageError, match="without its digits"):
        data.split("train")
