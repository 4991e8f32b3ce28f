"""What `--max-drop` allows on the tune samples, and what the report says of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeport.devices import host
from edgeport.errors import ConfigError
from edgeport.quant.scheme import Scheme
from edgeport.quant.selection import Ranking
from edgeport.stages.raise_precision import NO_TUNE, Control, DropControl, best_format
from edgeport.stages.tune_loss import Loss, Tune, allowed, scores_output
from edgeport.store import Store
from edgeport.types import StageRecord

FLOAT = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]  # answers 0 1 2 3 0
FILE = np.eye(4, dtype=np.float32)[[0, 2, 1, 3, 1]]  # answers 0 2 1 3 1
LABELS = np.array([0, 1, 1, 2, 0])  # float is right at samples 0, 1, 4; the file at 0 and 2


def tune(labels: np.ndarray | None = None, top1_float: float | None = None) -> Tune:
    return Tune(inputs=(Path("in0.npy"),), output=0, scores=FLOAT, labels=labels, top1_float=top1_float)


def test_lost_is_how_many_fewer_are_right() -> None:
    assert tune(LABELS).loss(FILE) == Loss(
        lost=1, changed=3, chance=3**0.5
    )  # samples 1 and 4 turn wrong, sample 2 right
    assert tune(LABELS).loss(FLOAT) == Loss(lost=0, changed=0, chance=0.0)
    better = np.eye(4, dtype=np.float32)[LABELS]
    assert tune(LABELS).loss(better) == Loss(lost=-2, changed=2, chance=2**0.5)


def test_without_labels_every_changed_answer_is_lost() -> None:
    assert tune().loss(FILE).lost == 3


def test_scores_that_are_not_finite_are_lost() -> None:
    broken = FLOAT.copy()
    broken[0, 3] = np.nan
    assert tune(LABELS).loss(broken).lost == 1


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


RIGHT = np.eye(2, dtype=np.float32)[np.zeros(100, dtype=int)]  # 100 samples of class 0, all named rightly


def answering(wrong: int, lucky: int = 0) -> np.ndarray:
    """Return scores that are wrong on so many samples that float has right; `lucky` more of what float has wrong."""
    scores = FLOAT_WITH_ERRORS.copy()
    scores[:wrong] = [0, 1]
    scores[-lucky or 100 :] = [1, 0]
    return scores


FLOAT_WITH_ERRORS = RIGHT.copy()
FLOAT_WITH_ERRORS[-20:] = [0, 1]


def chosen_by_control(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcomes: dict[tuple[str, ...], np.ndarray],
    standing_out: tuple[str, ...],
) -> Control:
    """Return what is chosen where files with these raised layers give these scores."""

    def write(scheme: Scheme) -> Any:
        name = "+".join(sorted(scheme.raised)) or "plain"
        return SimpleNamespace(key=name, artifact=SimpleNamespace(path=Path(name), size_bytes=1))

    def run(path: Path, *_: object, **__: object) -> Any:
        return SimpleNamespace(outputs=[outcomes[tuple(path.name.split("+")) if path.name != "plain" else ()]])

    monkeypatch.setattr(host, "run", run)
    monkeypatch.setattr(host, "bench", lambda paths, **_: [SimpleNamespace(p50_ms=1.0) for _ in paths])
    labels = np.zeros(100, dtype=np.int64)
    known = Tune(inputs=(Path("in0.npy"),), output=0, scores=FLOAT_WITH_ERRORS, labels=labels)
    ranking = Ranking(order=("a", "b"), standing_out=standing_out)
    control = DropControl(Store(tmp_path), max_drop=1.0, tune_key="t", tune=lambda: known, ranking=lambda: ranking)
    return control.hold(Scheme(), write, formats=("float32",), threads=1)[1]


def test_a_lucky_file_is_not_believed_where_a_layer_stands_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {(): answering(9, lucky=9), ("a",): answering(1), ("b",): answering(9), ("a", "b"): answering(1)}
    assert chosen_by_control(tmp_path / "out", monkeypatch, outcomes, ("a",)).raised == {"a": "float32"}
    held = chosen_by_control(tmp_path / "none", monkeypatch, outcomes, ())
    assert (held.raised, held.lost, held.changed) == ({}, 0, 18)
    assert "chance alone makes 4.2" in held.sentence


def test_a_file_that_loses_too_much_gets_layers_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {(): answering(6), ("a",): answering(3), ("a", "b"): answering(1), ("b",): answering(6)}
    found = chosen_by_control(tmp_path, monkeypatch, outcomes, ())
    assert (list(found.raised), found.lost_int8, found.lost) == (["a", "b"], 6, 1)
