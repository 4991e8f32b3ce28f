"""What counts as a flip, how many samples are emulated, and what a build says without the emulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import StageError
from edgeport.profile import Limits, load
from edgeport.validation.isa import (
    Comparison,
    Proof,
    compare,
    evenly_spaced,
    metrics,
    needs_proof,
    sample_count,
    sentence,
)

NOTHING = Comparison(flips=0, logit_difference=0.0)
GOOD = Proof(isa="haswell", samples=32, emulated=NOTHING, native=NOTHING, against_native=NOTHING, layers=())


def test_only_targets_that_may_saturate_need_the_proof() -> None:
    wanted = {
        name: needs_proof(load(name))
        for name in ("arm64", "cpu", "intel", "intel-avx2", "intel-vnni", "raspberry-pi-4")
    }
    assert wanted == {
        "arm64": False,
        "cpu": True,
        "intel": True,
        "intel-avx2": True,
        "intel-vnni": False,
        "raspberry-pi-4": False,
    }


def test_flips_and_difference_by_hand() -> None:
    ours = (np.array([[1, 2], [3, 1], [0, 0]], np.float32),)
    theirs = (np.array([[1, 2.5], [1, 3], [0, 0]], np.float32),)
    assert compare(ours, theirs, name="m") == Comparison(flips=1, logit_difference=2.0)
    images = (np.ones((2, 3, 4, 4), np.float32),)
    assert compare(images, images, name="m") == Comparison(flips=None, logit_difference=0.0)


def test_outputs_that_cannot_be_compared_are_refused() -> None:
    good, bad = np.zeros((2, 3), np.float32), np.full((2, 3), np.nan, np.float32)
    with pytest.raises(StageError, match=r"m\.onnx gives NaN or infinity"):
        compare((bad,), (good,), name="m.onnx")
    with pytest.raises(StageError, match=r"outputs of shapes \[\(2, 3\)\] and of \[\(1, 3\)\]"):
        compare((good,), (good[:1],), name="m.onnx")


def test_larger_networks_are_emulated_on_fewer_samples() -> None:
    # ResNet-20, ResNet-56, EfficientNet-Lite0; 6e9 / 126e6 = 47.6
    assert [sample_count(macs) for macs in (0, 41_000_000, 126_000_000, 385_000_000)] == [64, 64, 47, 16]


def test_any_difference_fails_unless_the_target_allows_it() -> None:
    bad = replace(GOOD, emulated=Comparison(flips=2, logit_difference=0.5), layers=("a", "b", "c", "d", "e"))
    figures = {metric.name: metric for metric in metrics(bad, Limits())}
    assert [(name, figure.value, figure.passed) for name, figure in figures.items()] == [
        ("flips@haswell", 2, False),
        ("logit_difference_max@haswell", 0.5, False),
        ("samples@haswell", 32, None),
    ]
    assert {figure.origin for figure in figures.values()} == {"emulated"}
    allowed = metrics(bad, Limits(max_flips=2, max_logit_difference=None))
    assert [figure.passed for figure in allowed] == [True, None, None]
    assert "products of a, b, c, d and 1 more leave 16 bits" in sentence(bad)


def test_bit_identical_file_passes_in_silence() -> None:
    assert [figure.passed for figure in metrics(GOOD, Limits())] == [True, True, None]
    assert sentence(GOOD) == ""


def test_float_rounding_is_told_and_is_no_failure() -> None:
    rounded = replace(GOOD, against_native=Comparison(flips=1, logit_difference=0.1))
    assert [figure.passed for figure in metrics(rounded, Limits())] == [True, True, None]
    assert sentence(rounded).startswith("gives 1 of 32 samples another top-1 on haswell than on this machine; its int")
    saturated_here = replace(rounded, native=Comparison(flips=1, logit_difference=0.1))
    assert sentence(saturated_here) == ""


def test_network_without_class_scores_is_judged_by_its_values() -> None:
    values = replace(GOOD, emulated=Comparison(flips=None, logit_difference=1.0))
    assert [(figure.name, figure.passed) for figure in metrics(values, Limits())] == [
        ("logit_difference_max@haswell", False),
        ("samples@haswell", None),
    ]


def test_samples_are_spread_over_all_of_the_data(tmp_path: Path) -> None:
    np.save(tmp_path / "in0.npy", np.arange(10, dtype=np.float32)[:, None])
    (few,) = evenly_spaced([tmp_path / "in0.npy"], 4, tmp_path)
    assert np.load(few).ravel().tolist() == [0, 3, 6, 9]
    (everything,) = evenly_spaced([tmp_path / "in0.npy"], 99, tmp_path)
    assert len(np.load(everything)) == 10
