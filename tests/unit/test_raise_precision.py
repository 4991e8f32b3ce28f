"""What `--max-drop` allows on the tune samples, and what the report says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import ConfigError
from edgeport.stages.raise_precision import NO_TUNE, Control, Tune, allowed, best_format, scores_output
from edgeport.types import StageRecord

FLOAT = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]  # answers 0 1 2 3 0
FILE = np.eye(4, dtype=np.float32)[[0, 2, 1, 3, 1]]  # answers 0 2 1 3 1
LABELS = np.array([0, 1, 1, 2, 0])  # float is right at samples 0, 1, 4; the file at 0 and 2


def tune(labels: np.ndarray | None = None, top1_float: float | None = None) -> Tune:
    return Tune(inputs=(Path("in0.npy"),), output=0, scores=FLOAT, labels=labels, top1_float=top1_float)


def test_lost_are_right_answers_that_turn_wrong_whatever_is_gained() -> None:
    assert tune(LABELS).lost(FILE) == 2  # samples 1 and 4; sample 2 is gained
    assert tune(LABELS).lost(FLOAT) == 0


def test_without_labels_every_changed_answer_is_lost() -> None:
    assert tune().lost(FILE) == 3


def test_scores_that_are_not_finite_are_lost() -> None:
    broken = FLOAT.copy()
    broken[0, 3] = np.nan
    assert tune(LABELS).lost(broken) == 1


def test_what_pruning_lost_is_taken_off_the_allowance() -> None:
    assert tune(LABELS, top1_float=100.0).lost_before() == 2  # 5 right before, 3 after
    assert tune(LABELS, top1_float=40.0).lost_before() == 0  # a network that became better has nothing to make up for
    assert tune(None).lost_before() == 0


@pytest.mark.parametrize(
    ("samples", "points", "count"),
    [(1000, 0.1, 1), (100, 0.1, 0), (999, 0.1, 0), (256, 1.0, 2), (1000, 0.3, 3), (50, 0.0, 0), (200, 100.0, 200)],
)
def test_allowance_is_rounded_down_to_whole_samples(samples: int, points: float, count: int) -> None:
    assert allowed(samples, points) == count


def trace(*shapes: tuple[int, ...]) -> StageRecord:
    outputs = [[f"output_{index}", list(shape), "float32"] for index, shape in enumerate(shapes)]
    return StageRecord(name="trace", options={}, seconds=0.0, metrics={"outputs": outputs})


def test_first_output_with_class_scores_is_judged() -> None:
    assert scores_output(trace((2, 6, 6), (3,)), 0.1) == 1
    assert scores_output(trace((2, 6, 6)), None) is None


def test_a_limit_on_a_network_without_class_scores_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--max-drop 0\.5 .* the network has none \(outputs a sample: 2x6x6, 1\)"):
        scores_output(trace((2, 6, 6), (1,)), 0.5)


def test_equally_fast_formats_are_told_apart_by_size() -> None:
    assert best_format({"float32": 1.00, "int16": 2.0}, {"float32": 900, "int16": 500}) == "float32"
    assert best_format({"float32": 1.02, "int16": 1.0}, {"float32": 900, "int16": 500}) == "int16"
    assert best_format({"float32": 1.00, "int16": 1.02}, {"float32": 900, "int16": 500}) == "int16"
    assert best_format({"float32": 1.00, "int16": 1.00}, {"float32": 500, "int16": 500}) == "float32"


def control(**more: object) -> Control:
    return Control(**{"limit_points": 0.1, "samples": 200, "has_labels": True, **more})  # type: ignore[arg-type]  # as the struct says


def test_sentence_names_layers_cost_and_resolution() -> None:
    found = control(
        lost_int8=7, raised={"a/conv2d": "float32", "b/conv2d": "float32"}, latency_ratio=1.04, added_bytes=4800
    )
    assert found.sentence == (
        "2 layers raised to float32 (a/conv2d, b/conv2d): 7 -> 0 of 200 tune samples lost (0 allowed, one is 0.5"
        " points); 1.04x the latency of plain int8 on this machine, +4.8 kB"
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (control(), "--max-drop 0.1 is held without raising a layer: 0 of 200 tune samples lost"),
        (control(has_labels=False), "answered otherwise (no labels: an upper bound of the loss)"),
        (control(lost=3, lost_int8=3), "not held with all layers raised"),
        (control(lost_before=4, lost_allowed=-4), "cannot be held: of 200 tune samples the float network has lost 4"),
        (Control(limit_points=0.1), NO_TUNE),
    ],
)
def test_sentence_says_why_no_layer_was_raised(found: Control, words: str) -> None:
    assert words in found.sentence
