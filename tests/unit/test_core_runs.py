"""Which samples cores run, how two runs differ, and what is judged. The core here is this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeport.profile import Limits
from edgeport.types import OpCost
from edgeport.validation.cores import CoreRun, interval, metrics, sample_count, spread, write_rows

RUN = CoreRun(
    core="cortex-a53",
    runtime="ai-edge-litert",
    runtime_version="2.3.0",
    samples=200,
    identical=200,
    difference=0.0,
    flips=0,
    agreement=99.0,
    cosine_min=0.99,
    top1=87.5,
    top1_here=87.5,
    seconds=20.0,
)
OLD = replace(RUN, runtime="tflite-runtime", runtime_version="2.14.0", identical=0, difference=0.25, agreement=94.0)


def test_larger_networks_run_fewer_samples() -> None:
    def count(macs: int, dtype: str = "int8") -> int:
        return sample_count([OpCost(name="a", kind="CONV_2D", dtype=dtype, macs=macs)])

    # ResNet-20, ResNet-56, EfficientNet-Lite0: 8.2e9 / 126e6 = 65.1, 8.2e9 / 385e6 = 21.3
    assert [count(macs) for macs in (0, 41_000_000, 126_000_000, 385_000_000, 10**10)] == [200, 200, 65, 21, 16]
    assert count(41_000_000, "float32") == 50  # 8.2e9 / (4 * 41e6)


def test_samples_are_spread_evenly() -> None:
    assert spread(4, 10, None).tolist() == [0, 3, 6, 9]
    assert spread(9, 4, None).tolist() == [0, 1, 2, 3]


def test_every_class_has_its_share_of_the_samples() -> None:
    labels = np.tile([0, 1, 2, 3], 25)  # every fourth: evenly spaced rows could all be of one class
    assert set(labels[np.linspace(0, 96, 4).round().astype(int)]) == {0}
    rows = spread(20, 100, labels)
    assert np.bincount(labels[rows]).tolist() == [5, 5, 5, 5]
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_rows_are_written_in_their_order(tmp_path: Path) -> None:
    np.save(tmp_path / "in0.npy", np.arange(5, dtype=np.float32)[:, None])
    (tmp_path / "few").mkdir()
    (few,) = write_rows([tmp_path / "in0.npy"], np.array([1, 4]), tmp_path / "few")
    assert np.load(few).ravel().tolist() == [1, 4]


def test_interval_by_hand() -> None:
    # p = 0.5, n = 100: centre 0.5, half width 1.96 * sqrt(0.0025 + 0.000096) / (1 + 0.0384) = 0.0962
    assert interval(50.0, 100) == pytest.approx((40.38, 59.62), abs=0.01)
    assert interval(100.0, 50)[1] == 100.0
    assert interval(0.0, 50)[0] == 0.0


def test_figures_of_a_core_and_of_a_runtime() -> None:
    other = replace(RUN, core="cortex-a76", identical=199, difference=0.1)
    found = {metric.name: metric for metric in metrics([RUN, OLD, other, replace(OLD, agreement=97.0)], Limits())}
    assert {name: (figure.value, figure.passed) for name, figure in found.items()} == {
        "agreement@cortex-a53": (99.0, True),
        "top1@cortex-a53": (87.5, None),
        "logit_difference_max@cortex-a53": (0.0, None),
        "identical@cortex-a53": (200, None),
        "samples@cortex-a53": (200, None),
        "agreement@cortex-a76": (99.0, True),
        "top1@cortex-a76": (87.5, None),
        "logit_difference_max@cortex-a76": (0.1, None),
        "identical@cortex-a76": (199, None),
        "samples@cortex-a76": (200, None),
        "agreement@tflite-runtime": (94.0, False),  # the worst of its cores, below 95
        "top1@tflite-runtime": (87.5, None),
        "logit_difference_max@tflite-runtime": (0.25, None),
        "identical@tflite-runtime": (0, None),
        "samples@tflite-runtime": (200, None),
    }
    assert {figure.origin for figure in found.values()} == {"emulated"}


@pytest.mark.parametrize(
    ("samples", "agreement", "passed"),
    [(100, 94.0, False), (20, 90.0, None), (20, 50.0, False), (20, 100.0, None), (99, 100.0, True)],
)
def test_few_samples_are_judged_only_where_chance_cannot_decide(
    samples: int, agreement: float, passed: bool | None
) -> None:
    found = metrics([replace(RUN, samples=samples, agreement=agreement)], Limits())
    assert next(figure.passed for figure in found if figure.name == "agreement@cortex-a53") is passed


def test_network_without_class_scores_has_its_differences() -> None:
    found = metrics([replace(RUN, agreement=None, flips=None, top1=None)], Limits())
    assert [figure.name.partition("@")[0] for figure in found] == ["logit_difference_max", "identical", "samples"]


def test_nothing_is_judged_without_a_limit() -> None:
    assert {figure.passed for figure in metrics([OLD], Limits(min_agreement=None))} == {None}
