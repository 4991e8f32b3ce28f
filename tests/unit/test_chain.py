"""The chain of stages: keys, what is run, and what comes back from the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from chain_case import Project, project, samples

from edgeport.errors import ConfigError, StageError
from edgeport.quant.calibration import Calibration
from edgeport.stages.chain import Chain
from edgeport.stages.persistence import check_stage, read_record, tensor_versions
from edgeport.types import Model


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Chain]:
    """Run a chain once."""
    ready = project(tmp_path_factory.mktemp("built"))
    chain = ready.chain()
    chain.records()
    return ready, chain


def same(first: Model, second: Model) -> None:
    """Check that two models are equal: weights, what they compute, calibration."""
    left, right = first.module.state_dict(), second.module.state_dict()
    assert list(left) == list(right)
    assert all(torch.equal(left[name], right[name]) for name in left)
    sample = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first.module(sample), second.module(sample))
    assert (first.inputs, first.outputs) == (second.inputs, second.outputs)
    assert (first.calibration is None) == (second.calibration is None)
    if first.calibration and second.calibration:
        equal_calibrations(first.calibration, second.calibration)


def equal_calibrations(first: Calibration, second: Calibration) -> None:
    assert (first.samples, first.method, first.choices) == (second.samples, second.method, second.choices)
    assert list(first.statistics) == list(second.statistics)
    for key, seen in first.statistics.items():
        other = second.statistics[key]
        assert (seen.low, seen.high, seen.span) == (other.low, other.high, other.span)
        np.testing.assert_array_equal(seen.counts, other.counts)


def test_records_say_what_each_stage_did(built: tuple[Project, Chain]) -> None:
    _, chain = built
    trace, prune, distill, calibrate = chain.records()
    assert [record.name for record in (trace, prune, distill, calibrate)] == ["trace", "prune", "distill", "calibrate"]
    # conv1 432, conv2 2304, norms 32 each, linear 64 + 4
    assert trace.metrics["parameters"] == prune.metrics["parameters_before"] == 432 + 2304 + 2 * 32 + 68
    # 16 channels less 40 % is 9.6, as a multiple of 8: 8 in both layers: 216 + 576 + 2 * 16 + 32 + 4
    assert prune.metrics["parameters_after"] == 216 + 576 + 2 * 16 + 36
    assert prune.options == {
        "ratio": 0.4,
        "blocks": 0,
        "channel_multiple": 8,
        "importance": "l1",
        "allocation": "uniform",
        "budgets": [],
        "rounds_left": 1,
        "bytes_a_weight": 1,
    }
    assert (distill.metrics["epochs"], distill.metrics["samples"]) == (1, 64)
    assert calibrate.metrics["samples"] == 20  # of 24, four are kept for tuning
    assert calibrate.options == {"method": "auto"}
    assert all(record.seconds >= 0 for record in chain.records())


def test_models_along_the_chain(built: tuple[Project, Chain]) -> None:
    _, chain = built
    teacher, floating, last = chain.original(), chain.float_model(), chain.model()
    assert teacher.module.get_parameter("conv1.weight").shape == (16, 3, 3, 3)
    assert floating.module.get_parameter("conv1.weight").shape == (8, 3, 3, 3)
    assert (teacher.calibration, floating.calibration) == (None, None)
    assert last.calibration is not None
    assert last.module is floating.module  # calibration only watches
    assert teacher.inputs == last.inputs
    assert teacher.outputs == last.outputs
    assert chain.is_changed


def test_second_run_restores_equal_models_without_running_a_stage(built: tuple[Project, Chain]) -> None:
    ready, first = built
    entries = {path: path.stat().st_ino for path in (ready.store.root / "entries").glob("*/*")}
    second = ready.chain()
    assert second.records() == first.records()  # seconds too: read, not measured again
    assert ready.progress.labels == []  # no stage ran, and the network was not traced
    same(first.original(), second.original())
    same(first.float_model(), second.float_model())
    same(first.model(), second.model())
    assert ready.progress.labels == []
    assert {path: path.stat().st_ino for path in (ready.store.root / "entries").glob("*/*")} == entries
    assert second.key == first.key


def test_last_model_can_be_asked_for_first(built: tuple[Project, Chain]) -> None:
    ready, first = built
    same(ready.chain().model(), first.model())


@pytest.mark.parametrize("lost", ["prune", "distill", "calibrate"])
def test_lost_entry_is_made_again_and_equal(built: tuple[Project, Chain], lost: str, tmp_path: Path) -> None:
    ready, first = built
    place = [record.name for record in first.records()].index(lost)
    folder = first.weight_folders()[place]
    kept = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "record.json"}
    others = {other: other.stat().st_ino for other in first.weight_folders() if other != folder}
    folder.rename(tmp_path / "lost")
    again = ready.chain()
    again.records()
    assert set(ready.progress.labels) <= {lost}  # nothing else ran (pruning shows no progress)
    assert {other: other.stat().st_ino for other in again.weight_folders() if other != folder} == others
    made = again.weight_folders()[place]
    assert made == folder
    assert {file.name: file.read_bytes() for file in made.iterdir() if file.name != "record.json"} == kept


def keys(chain: Chain) -> list[str]:
    """Return the keys of trace and of every stage."""
    return [chain.trace_key, *(step.key for step in chain._steps)]


def first_difference(ready: Project, **said: object) -> int:
    """Return the first place where the keys differ; after it all must."""
    before, after = keys(ready.chain()), keys(ready.chain(**said))
    assert len(before) == len(after)
    differ = [one != other for one, other in zip(before, after, strict=True)]
    place = differ.index(True) if True in differ else len(differ)
    assert all(differ[place:])
    return place


TRACE, PRUNE, DISTILL, CALIBRATE, NONE = range(5)


def test_keys_change_from_the_stage_that_an_option_belongs_to(built: tuple[Project, Chain], tmp_path: Path) -> None:
    ready, _ = built
    assert first_difference(ready) == NONE
    assert first_difference(ready, calibration="percentile") == CALIBRATE
    assert first_difference(ready, distill=2) == DISTILL
    assert first_difference(ready, prune=0.6) == PRUNE
    assert first_difference(ready, importance="l2") == PRUNE
    assert first_difference(ready, train=samples(tmp_path / "train.npz", 64, 7)) == PRUNE  # recalibrates its norms
    assert first_difference(ready, seed=1) == TRACE  # random weights are another network
    assert first_difference(ready, output="elsewhere") == NONE
    assert first_difference(ready, max_drop=3.0) == NONE
    assert first_difference(ready, evaluate=samples(tmp_path / "evaluate.npz", 20, 9)) == NONE


def test_key_changes_with_the_network(built: tuple[Project, Chain]) -> None:
    ready, _ = built
    before = keys(ready.chain())
    source = ready.folder / "chain_net.py"
    text = source.read_text()
    source.write_text(text.replace("stride=2", "stride=1"))
    changed = keys(ready.chain())
    source.write_text(text)
    assert not set(before) & set(changed)
    assert keys(ready.chain()) == before


def test_stage_that_is_off_is_not_in_the_chain(tmp_path: Path) -> None:
    ready = project(tmp_path)
    plain = ready.chain(prune=0.0, distill=0, precision="float32")
    assert [record.name for record in plain.records()] == ["trace"]
    assert not plain.is_changed
    assert plain.key == plain.float_key == plain.trace_key
    assert plain.model() is plain.original()
    quantized = ready.chain(prune=0.0, distill=0, calibration="minmax")
    assert [record.name for record in quantized.records()] == ["trace", "calibrate"]
    assert not quantized.is_changed
    assert quantized.float_key == quantized.trace_key != quantized.key
    assert quantized.float_model() is quantized.original()
    # The input, two convolutions with their ReLU, the mean (pooled and flat), the scores.
    seen = quantized.model().calibration
    assert seen is not None
    assert list(seen.statistics) == ["/x", "/relu", "/relu_1", "/adaptive_avg_pool2d", "/flatten", "linear/linear"]
    with np.load(str(ready.options.calibrate)) as data:
        kept = np.delete(data["x"], [4, 9, 14, 19], axis=0)  # every fifth is kept for tuning
        assert seen.range_of("/x") == (kept.min(), kept.max())
        scores = quantized.original().module(torch.from_numpy(kept))
        assert seen.range_of("linear/linear") == pytest.approx((scores.min().item(), scores.max().item()), abs=1e-5)


def test_teacher_is_not_changed_by_the_stages(built: tuple[Project, Chain]) -> None:
    ready, chain = built
    fresh = ready.chain(prune=0.0, distill=0, precision="float32")
    same(chain.original(), fresh.original())


def test_finished_stage_leaves_no_checkpoints(built: tuple[Project, Chain]) -> None:
    ready, _ = built
    assert list((ready.store.root / "scratch").glob("*")) == []
    assert list((ready.store.root / "tmp").glob("*")) == []


def test_stored_weights_are_those_of_the_model(built: tuple[Project, Chain]) -> None:
    from safetensors.torch import load_file

    _, chain = built
    trace, prune, distill, calibrate = chain.weight_folders()
    for folder, model in ((trace, chain.original()), (distill, chain.float_model())):
        stored, state = load_file(folder / "model.safetensors"), model.module.state_dict()
        assert set(stored) == set(state)
        assert all(torch.equal(stored[name], value) for name, value in state.items())
    assert (prune / "structure.json").is_file()
    assert sorted(file.name for file in calibrate.iterdir()) == ["calibration.npz", "record.json"]
    assert read_record(calibrate).name == "calibrate"


def test_label_beyond_the_networks_classes_is_told(tmp_path: Path) -> None:
    ready = project(tmp_path)
    with pytest.raises(ConfigError, match="the network has 4 classes"):
        ready.chain(evaluate=samples(tmp_path / "wrong.npz", 9, 3, low=4, high=5)).records()
    with pytest.raises(ConfigError, match="the network has 4 classes"):
        ready.chain(train=samples(tmp_path / "wrong.npz", 9, 3, low=4, high=5)).records()


def test_stage_must_keep_its_promises(built: tuple[Project, Chain]) -> None:
    _, chain = built
    before = chain.original()
    versions = tensor_versions(before)
    check_stage("prune", before, versions, before)
    with pytest.raises(StageError, match="prune: changed the network's interface"):
        check_stage("prune", before, versions, before.with_(outputs=()))
    broken = chain.float_model().module
    weight = broken.get_parameter("linear.bias")
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0] = float("nan")
    with pytest.raises(StageError, match=r"weight 'linear\.bias' holds NaN"):
        check_stage("prune", before, versions, chain.float_model())
    with torch.no_grad():
        weight.copy_(kept)
        before.module.get_parameter("conv1.weight").mul_(1.0)
    with pytest.raises(StageError, match="prune: changed the network it was given"):
        check_stage("prune", before, versions, before)
