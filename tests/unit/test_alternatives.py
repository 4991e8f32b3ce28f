"""What is tried where int8 is no faster, and by what rule a try is kept."""

from __future__ import annotations

import pytest

from edgeport.stages.alternatives import Measured, alternatives


def fields(backend: str, times: dict[str, tuple[float, float]]) -> list[dict[str, object]]:
    return [edit for _, edit in alternatives(backend, times)]


def test_layers_that_are_slower_in_int8_are_tried_in_float() -> None:
    times = {"stem/conv2d": (0.5, 2.0), "head/linear": (0.3, 0.2), "near/linear": (0.2, 0.18)}
    (sentence, edit), *_ = alternatives("onnxruntime", times)
    assert edit == {"raised": {"head/linear": "float32"}}  # 11 % slower is noise
    assert sentence == "float32 for what is slower in int8 (head/linear)"


def test_layers_that_hardly_count_are_left_alone() -> None:
    times = {"stem/conv2d": (1.0, 2.0), "head/linear": (0.03, 0.02)}  # 0.01 of 1.03 ms could be saved
    assert fields("tflite", times) == [{"per_channel": False}]


def test_no_float_file_in_disguise_is_tried() -> None:
    assert fields("onnxruntime", {"head/linear": (0.3, 0.2)}) == [{"activation": "int8"}, {"per_channel": False}]


def test_every_runtime_is_offered_what_it_has() -> None:
    assert fields("openvino", {}) == [{"activation": "int8"}, {"per_channel": False}]
    assert fields("tflite", {}) == [{"per_channel": False}]  # its activations are always int8


def measured(p50: float, low: float, *, agreement: float | None = 99.0, cosine: float = 0.99) -> Measured:
    return Measured(p50_ms=p50, min_ms=low, agreement=agreement, cosine_min=cosine)


@pytest.mark.parametrize(
    ("p50", "low", "is_faster"), [(0.9, 0.9, True), (0.9, 1.0, False), (1.0, 0.9, False), (0.95, 0.95, False)]
)
def test_faster_means_in_the_median_and_at_its_best(p50: float, low: float, is_faster: bool) -> None:
    assert measured(p50, low).is_faster_than(measured(1.0, 1.0), 0.93) is is_faster


def test_a_lost_agreement_is_never_worth_it() -> None:
    before = measured(1.0, 1.0)
    assert measured(1.0, 1.0, cosine=0.9885).agrees_as_well_as(before)  # 0.0015 lower: rounding
    assert not measured(1.0, 1.0, agreement=98.5).agrees_as_well_as(before)
    assert not measured(1.0, 1.0, cosine=0.98).agrees_as_well_as(before)
    assert not measured(1.0, 1.0, agreement=None, cosine=0.9).agrees_as_well_as(measured(1.0, 1.0, agreement=None))
