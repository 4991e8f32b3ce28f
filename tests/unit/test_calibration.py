"""Calibration: a range is a lookup, and a file without pickle."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeport.quant.calibration import METHODS, Calibration, Choice, Method
from edgeport.quant.observer import Observer, Statistics


def collected(values: torch.Tensor) -> Statistics:
    observer = Observer()
    observer.update(values)
    return observer.statistics()


@pytest.fixture
def statistics() -> dict[str, Statistics]:
    wide = torch.cat([torch.linspace(-1, 1, 9_999), torch.tensor([100.0])]).reshape(10, 1000)
    return {"layer1.0.conv1/conv2d": collected(wide), "/x": collected(torch.tensor([[0.0, 1.0]]))}


def test_activation_without_a_choice_spans_what_was_seen(statistics: dict[str, Statistics]) -> None:
    calibration = Calibration(statistics=statistics, samples=10)
    assert calibration.range_of("layer1.0.conv1/conv2d") == (-1.0, 100.0)
    assert calibration.range_of("/x") == (0.0, 1.0)
    assert calibration.estimators() == {"minmax": 2}


def test_chosen_range_goes_before_what_was_seen(statistics: dict[str, Statistics]) -> None:
    choices = {"layer1.0.conv1/conv2d": Choice(estimator="mse", low=-1.0, high=4.0)}
    calibration = Calibration(statistics=statistics, samples=10, method="auto", choices=choices)
    assert calibration.range_of("layer1.0.conv1/conv2d") == (-1.0, 4.0)
    assert calibration.range_of("/x") == (0.0, 1.0)
    assert calibration.estimators() == {"mse": 1, "minmax": 1}


def test_activation_that_was_not_seen_has_no_range(statistics: dict[str, Statistics]) -> None:
    for method in METHODS:
        assert Calibration(statistics=statistics, samples=10, method=method).range_of("layer1.0/relu") is None


@pytest.mark.parametrize("method", METHODS)
def test_saved_calibration_comes_back_equal(tmp_path: Path, statistics: dict[str, Statistics], method: Method) -> None:
    choices = {
        "/x": Choice(estimator="percentile", low=0.0, high=0.1),
        "layer1.0.conv1/conv2d": Choice(estimator="entropy", low=-0.3, high=1.7),
    }
    kept = Calibration(statistics=statistics, samples=10, method=method, choices=choices)
    kept.save(tmp_path / "calibration.npz")
    again = Calibration.load(tmp_path / "calibration.npz")
    assert (again.samples, again.method, again.choices) == (10, method, choices)
    assert list(again.statistics) == list(statistics)
    for key, seen in statistics.items():
        other = again.statistics[key]
        assert (other.low, other.high, other.span, other.zeros) == (seen.low, seen.high, seen.span, seen.zeros)
        np.testing.assert_array_equal(other.counts, seen.counts)
        assert other.counts.dtype == np.int64
        assert again.range_of(key) == kept.range_of(key)


def test_file_holds_plain_arrays_only(tmp_path: Path, statistics: dict[str, Statistics]) -> None:
    path = tmp_path / "calibration.npz"
    Calibration(statistics=statistics, samples=10).save(path)
    with np.load(path, allow_pickle=False) as data:  # refuses pickled objects
        assert {data[name].dtype.kind for name in data.files} <= {"U", "f", "i"}
    with zipfile.ZipFile(path) as archive:
        assert not any(b"numpy.core" in archive.read(name) for name in archive.namelist())


def test_network_without_activations_comes_back(tmp_path: Path) -> None:
    Calibration(statistics={}, samples=0).save(tmp_path / "empty.npz")
    assert Calibration.load(tmp_path / "empty.npz") == Calibration(statistics={}, samples=0)


def test_same_calibration_gives_the_same_bytes(tmp_path: Path, statistics: dict[str, Statistics]) -> None:
    for name in ("a", "b"):
        Calibration(statistics=statistics, samples=10).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
