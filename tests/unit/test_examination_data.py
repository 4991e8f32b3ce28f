"""What sample data shows by itself: constant, outlying, repeated and mislaid samples, classes, numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from examination_case import arrays, normalised, pictures, recipe

from edgeport.dataset import Dataset, open_dataset
from edgeport.examination import Finding, examine
from edgeport.examination.coverage import class_coverage
from edgeport.examination.stability import last_growth, range_curve, too_few


def only(data: Dataset) -> Finding:
    (finding,) = examine(data).findings
    return finding


def test_no_finding_on_good_data(tmp_path: Path) -> None:
    raw, labels = pictures(64, 0)
    seen = examine(arrays(tmp_path / "x.npz", normalised(raw), labels))
    assert (seen.findings, seen.samples, seen.looked_at) == ((), 64, 64)
    assert seen.curve[-1] == (64, 1.0)


def test_all_zero_samples_are_one_finding(tmp_path: Path) -> None:
    finding = only(arrays(tmp_path / "x.npz", np.zeros((32, 3, 16, 16), np.float32)))
    assert finding.kind == "constant"
    assert finding.sentence.startswith("every sample is all zeros; check how they are read")


def test_constant_samples_are_numbered(tmp_path: Path) -> None:
    raw, _ = pictures(64, 1)
    raw[[3, 40]] = 0.5
    finding = only(arrays(tmp_path / "x.npz", normalised(raw)))
    assert (finding.kind, finding.evidence["samples"]) == ("constant", [3, 40])
    assert "2 of 64 samples are a single value (samples 3, 40); remove them" in finding.sentence


def test_one_sample_is_too_few(tmp_path: Path) -> None:
    raw, _ = pictures(1, 2)
    finding = only(arrays(tmp_path / "x.npz", normalised(raw)))
    assert finding.kind == "too_few"
    assert finding.sentence == "there is 1 sample; give 128 or more, or unseen inputs will be clipped"


def test_a_huge_outlier_is_numbered(tmp_path: Path) -> None:
    raw, _ = pictures(64, 3)
    values = normalised(raw)
    values[17] *= 100
    finding = only(arrays(tmp_path / "x.npz", values))
    assert (finding.kind, finding.evidence["samples"]) == ("outliers", [17])
    assert finding.evidence["factor"] == pytest.approx(100, rel=0.1)
    assert "samples 17" in finding.sentence
    assert "--calibration percentile" in finding.sentence


def test_a_mixture_of_two_scalings_is_a_scale_error(tmp_path: Path) -> None:
    raw, _ = pictures(64, 4)
    raw[::4] *= 255
    finding = only(arrays(tmp_path / "x.npz", raw))
    assert finding.kind == "scale"
    assert "25% of the samples are 255 times larger" in finding.sentence
    assert "prepare all samples the same way" in finding.sentence


def test_near_duplicates_are_paired_though_brightness_and_noise_differ(tmp_path: Path) -> None:
    raw, _ = pictures(64, 5)
    chance = np.random.default_rng(0)
    for copy, original in ((10, 2), (30, 7)):
        raw[copy] = np.clip(raw[original] * 0.9 + chance.normal(size=raw[original].shape) * 0.01, 0, 1)
    finding = only(arrays(tmp_path / "x.npz", normalised(raw)))
    assert (finding.kind, finding.evidence["pairs"]) == ("duplicates", [[2, 10], [7, 30]])
    assert "samples 10 = 2, 30 = 7" in finding.sentence


def test_channels_last_samples_are_told_to_be_transposed(tmp_path: Path) -> None:
    raw, _ = pictures(64, 6)
    finding = only(arrays(tmp_path / "x.npz", normalised(raw).transpose(0, 2, 3, 1)))
    assert finding.kind == "axis_order"
    assert finding.sentence.endswith("save x.transpose(0, 3, 1, 2)")


def test_reshaped_samples_are_told_to_be_transposed(tmp_path: Path) -> None:
    raw, _ = pictures(64, 6)
    finding = only(arrays(tmp_path / "x.npz", raw.transpose(0, 2, 3, 1).reshape(raw.shape)))
    assert finding.kind == "axis_order"
    assert "reshaped, not transposed" in finding.sentence


def test_mean_and_std_of_0_to_255_in_a_recipe_are_divided(tmp_path: Path) -> None:
    raw, labels = pictures(64, 7)
    keys = "mean = [123.675, 116.28, 103.53]\nstd = [58.395, 57.12, 57.375]"
    finding = only(recipe(tmp_path, raw, labels, keys))
    assert finding.kind == "scale"
    assert "divide by 255 and write mean = [0.485, 0.456, 0.406] and std = [0.229, 0.224, 0.225]" in finding.sentence


def test_evaluation_data_of_another_scale_is_found(tmp_path: Path) -> None:
    raw, labels = pictures(64, 8)
    seen = examine(
        arrays(tmp_path / "x.npz", raw, labels), evaluate=arrays(tmp_path / "e.npz", pictures(64, 9)[0] * 255)
    )
    (finding,) = seen.findings
    assert finding.kind == "scale"
    assert "prepare both the same way" in finding.sentence


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=(64, 640)).astype(np.float32),
        np.random.default_rng(0).normal(size=(64, 20, 20, 3)).astype(np.float32),  # of that shape, but no pictures
        np.random.default_rng(0).integers(0, 30000, (64, 128)),
        np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32),
        np.arange(64, dtype=np.float32),
    ],
    ids=["vectors", "noise", "tokens", "noise with channels first", "scalars"],
)
def test_data_that_is_no_pictures_is_left_alone(tmp_path: Path, values: np.ndarray) -> None:
    assert examine(arrays(tmp_path / "x.npz", values)).findings == ()


def test_a_missing_class_is_named() -> None:
    labels = np.repeat([0, 1, 3], 20)
    (finding,) = class_coverage(labels, 4, ("cat", "dog", "frog", "horse"))
    assert (finding.kind, finding.evidence["missing"]) == ("classes", [2])
    assert "1 of 4 classes have no sample (frog); draw the samples at random from all classes" in finding.sentence


def test_a_class_that_outweighs_the_others_is_named() -> None:
    labels = np.concatenate([np.zeros(81, np.int64), np.arange(1, 10).repeat(2)])  # 81 of 99
    (finding,) = class_coverage(labels, 10, ())
    assert "class 0 has 82% of the samples, an even share is 10.0%; draw about 9 samples of each" in finding.sentence


def test_a_random_draw_of_few_samples_covers_its_share_of_many_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 1000, 200)
    assert class_coverage(labels, 1000, ()) == []
    assert class_coverage(labels % 50, 1000, ())[0].kind == "classes"  # sorted: the first 50 classes only
    assert class_coverage(np.arange(40) % 10, 10, ()) == []
    assert class_coverage(np.array([7, 10**12]), 0, ()) == []  # numbers, not classes


def test_range_curve_by_hand() -> None:
    # highest of one of 1, 2, 4: 7/3; of two: (2 + 4 + 4) / 3; of all: 4. Lowest: 0 always.
    curve = range_curve(np.zeros((1, 3)), np.array([[4.0, 1.0, 2.0]]))
    assert [size for size, _ in curve] == [1, 2, 3]
    assert [share for _, share in curve] == pytest.approx([7 / 12, 10 / 12, 1.0])
    assert last_growth(((8, 0.8), (16, 1.0))) == pytest.approx(0.25)


def test_growing_ranges_ask_for_more_samples() -> None:
    (finding,) = too_few(64, ((32, 0.9), (64, 1.0)))
    assert finding.sentence == (
        "there are 64 samples; doubling their number still widened the ranges by 11%; give 256 or more, or unseen"
        " inputs will be clipped"
    )
    assert too_few(64, ((32, 0.96), (64, 1.0))) == []
    assert too_few(15, ())[0].kind == "too_few"


def test_nan_is_refused_before_anything_else(tmp_path: Path) -> None:
    from edgeport.errors import ConfigError

    raw, _ = pictures(16, 0)
    raw[3, 0, 0, 0] = np.nan
    np.savez(tmp_path / "x.npz", x=raw)
    with pytest.raises(ConfigError, match="sample 3 holds NaN or infinity"):
        examine(open_dataset(str(tmp_path / "x.npz")))
