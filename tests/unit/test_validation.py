"""Figures and judgements by hand-computed numbers."""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeport.devices.host import Timing
from edgeport.errors import StageError
from edgeport.profile import Limits, TargetProfile
from edgeport.types import Artifact, Metric, OpCost, Origin
from edgeport.validation import accuracy, energy, latency, memory, parity
from edgeport.validation.judge import judge, judge_all
from edgeport.validation.origin import host_isa, origin_on_host


def values(metrics: list[Metric]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


def test_top1_by_hand() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [0.0, 1.0]], np.float32)
    # right, wrong, a tie goes to class 0: right, right
    assert accuracy.top1_percent(scores, np.array([1, 1, 0, 1])) == 75.0


def test_top1_refuses_a_label_out_of_range() -> None:
    scores = np.zeros((3, 2), np.float32)
    with pytest.raises(StageError, match="label 2 of sample 1 is out of range: the network has 2 classes"):
        accuracy.top1_percent(scores, np.array([0, 2, 5]))
    with pytest.raises(StageError, match="label -1 of sample 0"):
        accuracy.top1_percent(scores, np.array([-1, 0, 0]))
    with pytest.raises(StageError, match="2 labels for 3 samples"):
        accuracy.top1_percent(scores, np.array([0, 1]))


def test_parity_by_hand() -> None:
    outputs = (np.array([[3, 4], [1, 0]], np.float32), np.array([[[1.0]], [[2.0]]], np.float32))
    expected = (np.array([[4, 3], [2, 0]], np.float32), np.array([[[3.0]], [[1.0]]], np.float32))
    # the first sample's top-1 moves; lowest cosine is (3*4 + 4*3) / 25 = 0.96
    found = values(parity.metrics(outputs, expected, origin="measured", suffix="@float32"))
    assert found == {"agreement@float32": 50.0, "cosine_min@float32": pytest.approx(0.96)}


def test_network_without_class_scores_has_no_agreement() -> None:
    images = (np.ones((4, 3, 2, 2), np.float32),)
    assert values(parity.metrics(images, images, origin="measured")) == {"cosine_min": pytest.approx(1.0)}


def test_lowest_cosine_is_found_in_any_output() -> None:
    same = np.ones((2, 3), np.float32)
    assert parity.cosine_min((same, same), (same, -same)) == pytest.approx(-1.0)


def test_nan_in_an_output_names_file_output_and_sample() -> None:
    good = np.zeros((5, 3), np.float32)
    bad = good.copy()
    bad[3, 1], bad[4, 2] = np.nan, np.inf
    with pytest.raises(StageError, match=r"m\.tflite gives NaN or infinity in output 1 for sample 3 \(2 of 5"):
        parity.check_outputs((good, bad), (good, good), name="m.tflite")


def test_outputs_of_other_shape_are_refused() -> None:
    with pytest.raises(StageError, match=r"m\.onnx gives outputs of shapes \[\(2, 3\)\], the network \[\(2, 4\)\]"):
        parity.check_outputs((np.zeros((2, 3)),), (np.zeros((2, 4)),), name="m.onnx")


def test_speedup_is_float_median_over_this_median() -> None:
    quick = Timing(p50_ms=2.0, p90_ms=3.0, min_ms=1.0, samples=100)
    slow = Timing(p50_ms=5.0, p90_ms=7.0, min_ms=4.0, samples=100)
    assert values(latency.metrics(quick, slow, origin="measured")) == {
        "latency_p50_ms": 2.0,
        "latency_p90_ms": 3.0,
        "latency_float_p50_ms": 5.0,
        "speedup": 2.5,
    }
    assert set(values(latency.metrics(quick, None, origin="measured"))) == {"latency_p50_ms", "latency_p90_ms"}


def _artifact(folder: Path, name: str, sizes: tuple[int, ...]) -> Artifact:
    files = tuple(folder / f"{name}.{index}" for index in range(len(sizes)))
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(bytes(size))
    return Artifact(path=files[0], backend="openvino", precision="int8", files=files)


def test_compression_counts_every_file_of_an_artifact(tmp_path: Path) -> None:
    small, big = _artifact(tmp_path, "int8", (10, 90)), _artifact(tmp_path, "float", (10, 290))
    metrics = memory.size_metrics(small, big)
    found = values(metrics)
    assert 4 < found.pop("size_compressed_bytes") < 50  # a hundred zeros in two files
    assert found == {"size_bytes": 100, "size_float_bytes": 300, "compression": 3.0}
    assert {metric.origin for metric in metrics} == {"measured"}
    assert set(values(memory.size_metrics(small, None))) == {"size_bytes", "size_compressed_bytes"}


def test_unknown_peak_memory_is_left_out() -> None:
    assert memory.peak_metrics(None, origin="measured") == []
    assert values(memory.peak_metrics(7, origin="measured", suffix="@float32")) == {"peak_rss_bytes@float32": 7}


def test_energy_proxy_sums_by_number_format() -> None:
    costs = (
        OpCost(name="a", kind="CONV_2D", dtype="int8", macs=100, weight_bytes=10, activation_bytes=5),
        OpCost(name="b", kind="CONV_2D", dtype="int8", macs=50, weight_bytes=20, activation_bytes=5),
        OpCost(name="c", kind="FULLY_CONNECTED", dtype="float32", macs=7, weight_bytes=28, activation_bytes=8),
        OpCost(name="d", kind="RESHAPE", dtype="uint8", activation_bytes=4),
    )
    metrics = energy.metrics(costs)
    assert values(metrics) == {"macs": 157, "macs@float32": 7, "macs@int8": 150, "bytes_moved": 80}
    assert {metric.origin for metric in metrics} == {"measured"}


def _profile(isa: Literal["aarch64", "x86_64", "any"]) -> TargetProfile:
    return TargetProfile(description="d", backend="tflite", isa=isa)


def test_host_figures_are_measured_only_where_the_isa_is_the_targets() -> None:
    if host_isa() not in ("x86_64", "aarch64"):
        pytest.skip(f"no target is for {platform.machine()}")
    assert origin_on_host(_profile("any")) == "measured"
    origins = {isa: origin_on_host(_profile(isa)) for isa in ("x86_64", "aarch64")}
    assert origins.pop(host_isa()) == "measured"
    assert set(origins.values()) == {"modelled"}


def metric(value: float, *, unit: str = "percent", origin: Origin = "measured", name: str = "agreement") -> Metric:
    return Metric(name=name, value=value, unit=unit, origin=origin)


@given(value=st.floats(allow_nan=False), limit=st.floats(allow_nan=False))
def test_a_limit_is_met_at_its_very_value_and_beyond(value: float, limit: float) -> None:
    assert judge(metric(value), at_least=limit).passed == (value >= limit)
    assert judge(metric(value), at_most=limit).passed == (value <= limit)
    assert judge(metric(limit), at_least=limit).passed
    assert judge(metric(limit), at_most=limit).passed


def test_nan_never_passes() -> None:
    assert judge(metric(math.nan), at_least=-math.inf).passed is False
    assert judge(metric(math.nan), at_most=math.inf).passed is False


def test_a_metric_without_limit_is_not_judged() -> None:
    assert judge(metric(1.0)) == metric(1.0)


def test_two_limits_at_once_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="one limit a metric"):
        judge(metric(1.0), at_most=1.0, at_least=1.0)


@pytest.mark.parametrize("unit", ["ms", "mJ"])
def test_hardware_figures_of_a_stand_in_are_not_judged(unit: str) -> None:
    assert judge(metric(5.0, unit=unit, origin="modelled"), at_most=1.0).passed is None
    assert judge(metric(5.0, unit=unit, origin="emulated"), at_most=1.0).limit is None
    assert judge(metric(5.0, unit=unit, origin="measured"), at_most=1.0).passed is False
    assert judge(metric(5.0, origin="modelled"), at_least=1.0).passed is True  # agreement does not depend on speed


def test_a_modelled_interval_on_one_side_decides() -> None:
    def judged(low: float, high: float) -> bool | None:
        m = Metric(name="energy_mj", value=5.0, unit="mJ", origin="modelled", interval=(low, high))
        return judge(m, at_most=8.0).passed

    assert judged(2.0, 7.0) is True
    assert judged(9.0, 12.0) is False
    assert judged(4.0, 9.0) is None
    assert judged(math.nan, 9.0) is False


def test_limits_of_a_target_judge_the_metrics_they_are_about() -> None:
    limits = Limits(
        max_top1_drop=1.0, min_agreement=95.0, min_cosine=0.9, min_float_agreement=99.5, min_float_cosine=None
    )
    metrics = [
        metric(0.75, name="top1_drop", unit="points"),
        metric(94.9, name="agreement"),
        metric(0.95, name="cosine_min", unit="cosine"),
        metric(99.5, name="agreement@float32"),
        metric(0.1, name="cosine_min@float32", unit="cosine"),
        metric(3.0, name="latency_p50_ms", unit="ms"),
    ]
    judged = {m.name: (m.limit, m.passed) for m in judge_all(metrics, limits)}
    assert judged == {
        "top1_drop": (1.0, True),
        "agreement": (95.0, False),
        "cosine_min": (0.9, True),
        "agreement@float32": (99.5, True),
        "cosine_min@float32": (None, None),
        "latency_p50_ms": (None, None),
    }


def test_max_drop_overrides_the_targets_limit() -> None:
    drop = [metric(0.75, name="top1_drop", unit="points")]
    assert judge_all(drop, Limits(), max_drop=0.5)[0].passed is False
    assert judge_all(drop, Limits(max_top1_drop=0.1), max_drop=0.0)[0].limit == 0.0
    assert judge_all(drop, Limits(max_top1_drop=None), max_drop=2.0)[0].passed is True
