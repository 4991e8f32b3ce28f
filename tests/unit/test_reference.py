"""The yardstick: what the float networks answer on the evaluation samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from chain_case import Project, Seen, project, samples

from edgeport.dataset import open_dataset
from edgeport.stages.chain import Chain
from edgeport.validation.reference import reference, reference_key, write_inputs


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Chain]:
    ready = project(tmp_path_factory.mktemp("reference"))
    chain = ready.chain()
    chain.records()
    return ready, chain


def by_hand(chain: Chain, path: str | None, *, original: bool) -> tuple[np.ndarray, np.ndarray]:
    with np.load(str(path)) as data, torch.no_grad():
        model = chain.original() if original else chain.float_model()
        return model.module(torch.from_numpy(data["x"])).numpy(), data["y"]


def test_outputs_are_the_lowered_networks_and_top1_the_one_that_came_in(built: tuple[Project, Chain]) -> None:
    ready, chain = built
    found = reference(ready.store, chain, chain.data.evaluate, Seen())
    outputs, labels = by_hand(chain, ready.options.evaluate, original=False)
    assert len(found.outputs) == 1
    np.testing.assert_allclose(found.outputs[0], outputs, atol=1e-5, rtol=1e-5)
    assert found.outputs[0].dtype == np.float32
    assert found.labels is not None
    np.testing.assert_array_equal(found.labels, labels)
    scores, _ = by_hand(chain, ready.options.evaluate, original=True)
    assert found.top1_float == pytest.approx(100 * np.mean(scores.argmax(1) == labels))
    assert not np.allclose(scores, outputs)  # the two networks differ: which is which was tested


def test_reference_is_kept(built: tuple[Project, Chain]) -> None:
    ready, chain = built
    first = reference(ready.store, chain, chain.data.evaluate, Seen())
    again = ready.chain()
    found = reference(ready.store, again, again.data.evaluate, ready.progress)
    assert ready.progress.labels == []
    np.testing.assert_array_equal(found.outputs[0], first.outputs[0])
    assert found.top1_float == first.top1_float


def test_all_samples_are_run_with_progress(built: tuple[Project, Chain], tmp_path: Path) -> None:
    ready, _ = built
    chain = ready.chain(prune=0.0, distill=0, evaluate=samples(tmp_path / "e.npz", 71, 8))  # not a multiple of a batch
    seen = Seen()
    found = reference(ready.store, chain, chain.data.evaluate, seen)
    assert found.outputs[0].shape == (71, 4)
    assert seen.steps == {"evaluate float": 71}  # nothing was cut: the network that came in is the lowered one
    outputs, labels = by_hand(chain, str(tmp_path / "e.npz"), original=True)
    assert found.top1_float == pytest.approx(100 * np.mean(outputs.argmax(1) == labels))


def test_without_labels_there_is_no_top1(built: tuple[Project, Chain], tmp_path: Path) -> None:
    ready, _ = built
    chain = ready.chain(evaluate=samples(tmp_path / "e.npz", 6, 8, labels=False))
    for _ in range(2):  # computed, then read
        found = reference(ready.store, chain, chain.data.evaluate, Seen())
        assert (found.labels, found.top1_float) == (None, None)
        assert found.outputs[0].shape == (6, 4)


def test_key_depends_on_both_networks_and_the_samples(built: tuple[Project, Chain], tmp_path: Path) -> None:
    ready, chain = built
    other = open_dataset(samples(tmp_path / "e.npz", 20, 8))
    found = [
        reference_key(chain, chain.data.evaluate),
        reference_key(chain, other),
        reference_key(ready.chain(prune=0.6), chain.data.evaluate),
        reference_key(ready.chain(prune=0.0, distill=0), chain.data.evaluate),
    ]
    assert len(set(found)) == 4
    assert reference_key(ready.chain(calibration="percentile"), chain.data.evaluate) == found[0]


def test_inputs_are_written_as_numpy_reads_them(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "x0": chance.normal(size=(70, 3, 5, 4)).astype(np.float32),
        "x1": chance.integers(0, 255, (70, 6)).astype(np.uint8),
        "x2": chance.integers(0, 9, 70),
        "x3": chance.integers(0, 2, (70, 2)).astype(bool),
    }
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub takes allow_pickle for a key
    paths = write_inputs(open_dataset(str(tmp_path / "data.npz")), tmp_path)
    assert [path.name for path in paths] == ["in0.npy", "in1.npy", "in2.npy", "in3.npy"]
    for path, wanted in zip(paths, arrays.values(), strict=True):
        found = np.load(path, allow_pickle=False, mmap_mode="r")
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
