"""A build of some of the network's classes: network, teachers, data and what is stored."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from chain_case import Project, project, samples
from torch import nn

from edgeport.errors import ConfigError, StageError
from edgeport.graph.network import Network
from edgeport.pruning.structure import Structure, load_pruned
from edgeport.stages.chain import Chain
from edgeport.stages.data import open_data, open_place, remember_place
from edgeport.stages.persistence import pack_stages

KEPT = (3, 1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Chain]:
    """Run a chain with two of four classes once."""
    ready = project(tmp_path_factory.mktemp("built"))
    chain = ready.chain(classes="3,1")
    chain.records()
    return ready, chain


def pixels() -> torch.Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_network_that_came_in_is_the_cut_one(built: tuple[Project, Chain]) -> None:
    ready, chain = built
    whole = ready.chain().original()
    cut = chain.original()
    assert cut.outputs[0].shape == (2,)
    torch.testing.assert_close(cut.module(pixels()), whole.module(pixels())[:, list(KEPT)])
    assert (chain.float_model().outputs, chain.model().outputs) == (cut.outputs, cut.outputs)
    trace, _, distill, _ = chain.records()
    assert trace.metrics["classes"] == {"of": 4, "kept": [3, 1], "names": []}
    assert trace.metrics["outputs"] == [["output", [2], "float32"]]
    assert distill.metrics["objective"] == "ClassObjective"


def test_every_data_set_holds_the_kept_classes_only(built: tuple[Project, Chain]) -> None:
    ready, chain = built
    for data, file in ((chain.data.evaluate, ready.options.evaluate), (chain.data.train, ready.options.train)):
        with np.load(str(file)) as stored:
            expected = [KEPT.index(label) for label in stored["y"].tolist() if label in KEPT]
        assert data is not None
        labels = data.labels()
        assert labels is not None
        assert labels.tolist() == expected
    assert chain.data.calibrate is not None
    assert chain.data.tune is not None


def test_rebuild_restores_the_cut_network(built: tuple[Project, Chain]) -> None:
    ready, first = built
    second = ready.chain(classes="3,1")
    assert second.records() == first.records()
    assert torch.equal(second.model().module(pixels()), first.model().module(pixels()))
    assert "distill" not in ready.progress.labels


def test_keys_tell_choices_apart(built: tuple[Project, Chain]) -> None:
    ready, chain = built
    others = [ready.chain(), ready.chain(classes="1,3"), ready.chain(classes="3,2")]
    assert len({chain.trace_key, *(other.trace_key for other in others)}) == 4
    assert len({chain.key, *(other.key for other in others)}) == 4


@pytest.mark.parametrize("prune", [0.4, 0.0])
def test_load_pruned_gives_the_network_with_a_cut_head(
    built: tuple[Project, Chain], prune: float, tmp_path: Path
) -> None:
    ready, _ = built
    chain = ready.chain(classes="3,1", prune=prune)
    chain.records()
    pack_stages(chain.weight_folders(), tmp_path)
    loaded = load_pruned(_factory(ready), tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(pixels()), chain.float_model().module(pixels()))
    assert loaded(pixels()).shape == (6, 2)


def _factory(ready: Project, classes: int = 4) -> nn.Module:
    space: dict[str, object] = {}
    source = (ready.folder / "chain_net.py").read_text()
    exec(source.replace("16, 4)", f"16, {classes})"), space)
    net = space["net"]
    assert callable(net)
    made = net()
    assert isinstance(made, nn.Module)
    return made


def test_structure_of_another_head_is_refused(built: tuple[Project, Chain], tmp_path: Path) -> None:
    ready, chain = built
    folder = chain.weight_folders()[0]
    for part in ("structure.json", "model.safetensors"):
        (tmp_path / part).write_bytes((folder / part).read_bytes())
    with pytest.raises(ConfigError, match="at 'linear': it gave 4 class scores, but the network has 5 from 'linear'"):
        load_pruned(_factory(ready, 5), tmp_path)
    with pytest.raises(ConfigError, match=r"do not match: structure\.json: the class scores come from"):
        load_pruned(nn.Sequential(_factory(ready), nn.ReLU()), tmp_path)
    structure = Structure.load(tmp_path)
    assert structure.head is not None
    msgspec.structs.replace(structure, head=msgspec.structs.replace(structure.head, kept=(1, 4))).save(tmp_path)
    with pytest.raises(ConfigError, match="head: kept must be classes below 4"):
        load_pruned(_factory(ready), tmp_path)


def test_choice_out_of_the_networks_range_is_told(tmp_path: Path) -> None:
    ready = project(tmp_path)
    with pytest.raises(ConfigError, match=r"--classes 7: the network has 4 classes \(0\.\.3\)"):
        ready.chain(classes="1,7").records()
    with pytest.raises(ConfigError, match=r"a sample has label 4, the network has 4 classes"):
        ready.chain(classes="1,2", evaluate=samples(tmp_path / "wrong.npz", 40, 3, high=5)).records()
    with pytest.raises(ConfigError, match=r"--evaluate: no sample of 'low\.npz' is of the classes 2, 3"):
        ready.chain(classes="2,3", evaluate=samples(tmp_path / "low.npz", 20, 3, high=2))


def test_teachers_are_cut_too_and_need_the_same_classes(tmp_path: Path) -> None:
    ready = project(tmp_path)
    plan = ready.plan(classes="3,1", distill=1, teacher="other.py:net")

    def chain(classes: int) -> Chain:
        made = _factory(ready, classes).eval()
        teacher = Network(name="other", module=made, example_inputs=None, fingerprint=f"of {classes}")
        network = Network(name="net", module=_factory(ready).eval(), example_inputs=None, fingerprint="net")
        return Chain(plan, network, open_data(plan, ready.store), ready.store, ready.progress, teachers=[teacher])

    chain(4).records()
    with pytest.raises(StageError, match="--teacher other has 6 classes, the network 4; --classes needs"):
        chain(6).records()


def test_data_without_labels_are_told_of(tmp_path: Path) -> None:
    ready = project(tmp_path)
    plain = samples(tmp_path / "plain.npz", 30, 7, labels=False)
    data = open_data(ready.plan(classes="3,1", train=plain), ready.store)
    assert data.train is not None
    assert len(data.train) == 30
    assert data.notes == ("--train has no labels: all of its samples are used, whatever class they are of",)


def test_place_of_the_evaluation_samples_keeps_the_choice(tmp_path: Path) -> None:
    ready = project(tmp_path)
    ready.store.prepare()
    for evaluate in (ready.options.evaluate, None):
        plan = msgspec.structs.replace(ready.plan(classes="3,1"), evaluate=evaluate)
        data = open_data(plan, ready.store)
        remember_place(plan, data, ready.store)
        found = open_place(ready.store, data.evaluate.digest)
        assert found is not None
        assert found.digest == data.evaluate.digest
