"""The sample data of a build: what is split, what may not overlap."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from chain_case import Project, project, samples

from edgeport.dataset import Dataset
from edgeport.errors import ConfigError
from edgeport.stages.data import Data, open_data


@pytest.fixture
def ready(tmp_path: Path) -> Project:
    return project(tmp_path)


def opened(ready: Project, **said: object) -> Data:
    return open_data(ready.plan(**said), ready.store)


def rows(data: Dataset | None) -> np.ndarray:
    assert data is not None
    return np.concatenate([batch.inputs[0] for batch in data.batches(7)])


def stored(path: str | None) -> np.ndarray:
    with np.load(str(path)) as data:
        found: np.ndarray = data["x"]
        return found


def test_each_use_has_its_own_data(ready: Project) -> None:
    data, everything = opened(ready), stored(ready.options.calibrate)
    np.testing.assert_array_equal(rows(data.calibrate), np.delete(everything, [4, 9, 14, 19], axis=0))
    np.testing.assert_array_equal(rows(data.tune), everything[[4, 9, 14, 19]])
    np.testing.assert_array_equal(rows(data.evaluate), stored(ready.options.evaluate))
    np.testing.assert_array_equal(rows(data.train), stored(ready.options.train))
    assert {use: (facts["name"], facts["samples"]) for use, facts in data.digests().items()} == {
        "calibrate": ("calibrate.npz", 20),
        "evaluate": ("evaluate.npz", 20),
        "train": ("train.npz", 64),
        "tune": ("calibrate.npz", 4),
    }
    assert len({facts["digest"] for facts in data.digests().values()}) == 4


def without_evaluate(ready: Project, **said: object) -> Data:
    return open_data(msgspec.structs.replace(ready.plan(**said), evaluate=None), ready.store)


def test_without_evaluation_data_every_fifth_calibration_sample_is_held_out(ready: Project) -> None:
    data, everything = without_evaluate(ready), stored(ready.options.calibrate)
    np.testing.assert_array_equal(rows(data.evaluate), everything[[4, 9, 14, 19]])
    np.testing.assert_array_equal(rows(data.tune), everything[[5, 11, 17, 23]])  # every fifth of the 20 that are left
    np.testing.assert_array_equal(rows(data.calibrate), np.delete(everything, [4, 5, 9, 11, 14, 17, 19, 23], axis=0))
    assert len({facts["digest"] for facts in data.digests().values()}) == 4


@pytest.mark.parametrize(("count", "tuned"), [(1, 0), (9, 0), (10, 2), (14, 2), (15, 3)])
def test_a_fifth_is_kept_for_tuning_unless_there_are_few(ready: Project, count: int, tuned: int) -> None:
    data = opened(ready, calibrate=samples(ready.folder / "few.npz", count, 5))
    assert len(rows(data.calibrate)) == count - tuned
    assert (data.tune is None) == (tuned == 0)
    assert tuned == 0 or len(rows(data.tune)) == tuned


def test_tuning_may_have_data_of_its_own(ready: Project) -> None:
    path = samples(ready.folder / "tune.npz", 30, 6)
    data = opened(ready, tune=path)
    np.testing.assert_array_equal(rows(data.tune), stored(path))
    np.testing.assert_array_equal(rows(data.calibrate), stored(ready.options.calibrate))  # then none is held out
    with pytest.raises(ConfigError, match=r"nothing\.npz"):
        opened(ready, tune="nothing.npz")


def test_tuning_data_of_another_form_is_told(ready: Project) -> None:
    path = ready.folder / "small.npz"
    np.savez(path, x=np.ones((12, 3, 4, 4), np.float32))
    expected = "--calibrate has samples of 3x8x8 float32, --tune of 3x4x4 float32"
    with pytest.raises(ConfigError, match=expected):
        opened(ready, tune=str(path))


@pytest.mark.parametrize(("count", "held"), [(5, 1), (9, 1), (10, 2)])
def test_few_samples_can_be_split_too(ready: Project, count: int, held: int) -> None:
    data = without_evaluate(ready, calibrate=samples(ready.folder / "few.npz", count, 5))
    assert (len(rows(data.evaluate)), len(rows(data.calibrate))) == (held, count - held)
    assert data.tune is None


def test_too_few_samples_to_split_are_told(ready: Project) -> None:
    with pytest.raises(ConfigError, match=r"'few\.npz' has 4 samples; give --evaluate DATA, or 5 or more to split"):
        without_evaluate(ready, calibrate=samples(ready.folder / "few.npz", 4, 5))


def test_float_build_calibrates_nothing_but_still_holds_out(ready: Project) -> None:
    data = opened(ready, precision="float32", prune=None)
    assert (data.calibrate, data.tune) == (None, None)
    assert len(rows(data.evaluate)) == 20
    assert "calibrate" not in data.digests()
    assert len(rows(without_evaluate(ready, precision="float32", prune=None).evaluate)) == 4


def test_training_data_is_opened_only_where_it_is_used(ready: Project) -> None:
    assert opened(ready, distill=0, prune=None, train="nothing.npz").train is None
    with pytest.raises(ConfigError, match=r"nothing\.npz"):
        opened(ready, train="nothing.npz")


@pytest.mark.parametrize(
    "how", [{"prune": "0.5"}, {"prune": "fine:0.5"}, {"prune": "layer:1"}, {"prune": None, "macs": 0.5}]
)
def test_a_float_build_that_prunes_uses_its_samples(ready: Project, how: dict[str, object]) -> None:
    data = opened(ready, precision="float32", distill=0, train=samples(ready.folder / "train.npz", 8, 9), **how)
    plain = opened(ready, precision="float32", prune=None, distill=0)

    assert data.train is not None
    assert data.calibrate is not None
    assert data.tune is not None
    assert (plain.train, plain.calibrate, plain.tune) == (None, None, None)


def test_data_that_is_not_there_is_told(ready: Project) -> None:
    for use in ("calibrate", "evaluate"):
        with pytest.raises(ConfigError, match=r"nothing\.npz"):
            opened(ready, **{use: "nothing.npz"})


def shared(ready: Project, name: str, other: str | None, places: list[int]) -> str:
    """Write evaluation samples, some of which are those of another file."""
    mixed = stored(ready.options.evaluate).copy()
    mixed[: len(places)] = stored(other)[places]
    path = ready.folder / name
    np.savez(path, x=mixed)
    return str(path)


def test_evaluation_sample_that_is_calibrated_or_trained_on_is_told(ready: Project) -> None:
    path = shared(ready, "mixed.npz", ready.options.calibrate, [3, 5])
    expected = r"2 samples are in both --calibrate and --evaluate \(first: sample 3 = sample 0\)"
    tune = samples(ready.folder / "tune.npz", 12, 6)
    for _ in range(2):  # the check's result is kept only when nothing is wrong
        with pytest.raises(ConfigError, match=expected):
            opened(ready, evaluate=path, tune=tune)
    path = shared(ready, "trained.npz", ready.options.train, [63])
    with pytest.raises(ConfigError, match="1 sample is in both --train and --evaluate"):
        opened(ready, evaluate=path)
    assert opened(ready, evaluate=path, distill=0, prune=None).train is None  # then it is not used


def test_tuning_sample_that_is_calibrated_or_evaluated_on_is_told(ready: Project) -> None:
    tune = ready.folder / "tune.npz"
    for use, other in (("calibrate", ready.options.calibrate), ("evaluate", ready.options.evaluate)):
        mixed = stored(samples(tune, 12, 6)).copy()
        mixed[2] = stored(other)[5]
        np.savez(tune, x=mixed)
        order = ("--calibrate and --tune", "sample 5 = sample 2")
        if use == "evaluate":
            order = ("--tune and --evaluate", "sample 2 = sample 5")
        with pytest.raises(ConfigError, match=rf"1 sample is in both {order[0]} \(first: {order[1]}\)"):
            opened(ready, tune=str(tune))


def test_held_out_tuning_sample_that_is_evaluated_on_is_told_by_its_number(ready: Project) -> None:
    path = shared(ready, "mixed.npz", ready.options.calibrate, [9])  # the second of those held out
    with pytest.raises(ConfigError, match=r"1 sample is in both --calibrate and --evaluate \(first: sample 9"):
        opened(ready, evaluate=path)


def test_overlap_is_looked_for_once(ready: Project) -> None:
    opened(ready)
    entries = {path: path.stat().st_ino for path in (ready.store.root / "entries").glob("*/*")}
    assert len(entries) == 3  # calibrate, train and tune, each against evaluate
    opened(ready)
    assert {path: path.stat().st_ino for path in (ready.store.root / "entries").glob("*/*")} == entries
