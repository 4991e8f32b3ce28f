"""The prune stage with budgets, allocations and importance that looks at samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from pruning_networks import PICTURE, PaddedResNet, randomised
from test_prune import model_of, samples
from torch import nn

from edgeport.errors import ConfigError, StageError
from edgeport.pruning.budget import Budget
from edgeport.pruning.groups import find_groups
from edgeport.pruning.importance import NAMES
from edgeport.pruning.macs import count_macs
from edgeport.pruning.search import one_more
from edgeport.pruning.structure import Structure, apply_structure
from edgeport.pruning.surgery import prune_channels
from edgeport.stages.context import Context
from edgeport.stages.prune import Prune
from edgeport.stages.prune_widths import ALLOCATIONS, Allocation
from edgeport.types import Model

HALF = Budget(kind="macs", share=0.5)


@pytest.fixture(scope="module")
def resnet() -> Model:
    return model_of(randomised(PaddedResNet(width=16), 0), PICTURE)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("data")
    return Context(calibrate=samples(folder, 64), tune=samples(folder, 48, seed=1))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("share", [0.4, 0.5, 0.8])
def test_multiply_adds_are_within_the_budget_and_no_group_fits_more(
    resnet: Model, context: Context, allocation: Allocation, share: float
) -> None:
    result, metrics = Prune(ratio=0, budgets=(Budget(kind="macs", share=share),), allocation=allocation)(
        resnet, context
    )

    before, after = metrics["macs_before"], metrics["macs_after"]
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert after <= share * before
    found = find_groups(resnet.module, resnet.example_inputs)
    structure = msgspec.convert(metrics["structure"], Structure)
    kept = {name: len(group.kept) for name, group in structure.groups.items()}
    for name in kept:
        count = one_more(found.groups, kept, name, 8)
        if count is not None:
            wider = {group: tuple(range(number)) for group, number in (kept | {name: count}).items()}
            assert count_macs(prune_channels(resnet.module, found, wider), resnet.example_inputs) > share * before
    for name, value in result.module.named_parameters():
        if value.dim() == 4 and name.endswith("weight"):
            assert value.shape[0] % 8 == 0


@pytest.mark.parametrize("size", [Budget(kind="size", share=0.5), Budget(kind="size", size_bytes=50_000)])
def test_weights_are_within_the_bytes(resnet: Model, context: Context, size: Budget) -> None:
    _, metrics = Prune(ratio=0, budgets=(size,), allocation="global")(resnet, context)

    before, after = metrics["weight_bytes_before"], metrics["weight_bytes_after"]
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert after <= size.limit(before)
    _, wider = Prune(ratio=0, budgets=(size,), allocation="global", bytes_a_weight=4)(resnet, context)
    if size.share:
        assert wider["weight_bytes_before"] > 3 * before  # type: ignore[operator]  # numbers
    else:
        assert wider["parameters_after"] < metrics["parameters_after"]  # type: ignore[operator]  # numbers


def test_sensitivity_of_a_ratio_costs_what_uniform_costs(resnet: Model, context: Context) -> None:
    _, uniform = Prune(ratio=0.3)(resnet, context)
    _, sensitive = Prune(ratio=0.3, allocation="sensitivity")(resnet, context)

    assert 0 < sensitive["macs_after"] <= uniform["macs_after"]  # type: ignore[operator]  # numbers
    assert sensitive["groups"] != uniform["groups"]


def test_channels_that_do_nothing_go_first_by_sensitivity(context: Context) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 4, 1)
    ).eval()
    with torch.no_grad():
        network[2].weight[:24], network[2].bias[:24] = 0.0, 0.0  # type: ignore[operator]  # a convolution
    _, metrics = Prune(ratio=0, budgets=(Budget(kind="macs", share=0.4),), allocation="sensitivity")(
        model_of(network, PICTURE), context
    )

    kept = {group["layers"][0]: group["kept"] for group in metrics["groups"]}  # type: ignore[attr-defined]  # a list
    assert kept == {"0": 32, "2": 8}  # 0.34 of the multiply-adds; 24 of the 32 filters say nothing


def test_budget_that_cannot_be_met_says_the_least(resnet: Model, context: Context) -> None:
    with pytest.raises(
        StageError,
        match=r"--macs 0\.01 cannot be met: the least with global allocation and channel multiple 8 is 0\.\d+ of the",
    ):
        Prune(ratio=0, budgets=(Budget(kind="macs", share=0.01),), allocation="global")(resnet, context)


def test_budget_that_is_met_already_cuts_nothing_and_says_so(resnet: Model, context: Context) -> None:
    result, metrics = Prune(ratio=0, budgets=(Budget(kind="size", size_bytes=10**9),))(resnet, context)

    assert metrics["macs_after"] == metrics["macs_before"]
    assert "left whole: all layers because --size 1000000000B is met without a cut" in metrics["left_whole"]  # type: ignore[operator]  # a list
    assert set(result.module.state_dict()) == set(resnet.module.state_dict())


def test_auto_keeps_the_nearest_network_and_tells_all_figures(resnet: Model, context: Context) -> None:
    result, metrics = Prune(ratio=0, budgets=(HALF,), importance="auto")(resnet, context)

    facts = msgspec.json.decode(msgspec.json.encode(metrics["importance"]))
    assert list(facts["compared"]) == list(NAMES)
    errors = {name: figures["error"] for name, figures in facts["compared"].items()}
    assert facts["used"] in errors
    assert errors[facts["used"]] <= errors["l1"]
    assert facts["tune_samples"] == 48
    assert facts["compared"]["bn"]["by_l1"] == []
    assert facts["compared"]["taylor"]["loss"] == "distance to the unpruned outputs"
    alone, _ = Prune(ratio=0, budgets=(HALF,), importance=facts["used"])(resnet, context)
    for ours, theirs in zip(result.module.parameters(), alone.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    again = apply_structure(resnet.module, resnet.example_inputs, msgspec.convert(metrics["structure"], Structure))
    again.load_state_dict(result.module.state_dict())
    assert torch.equal(again(*resnet.example_inputs), result.module(*resnet.example_inputs))


def test_auto_says_what_it_skipped(context: Context) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 3)).eval()

    _, metrics = Prune(ratio=0.5, importance="auto")(model_of(plain, PICTURE), context)

    assert "no batch norm" in metrics["importance"]["compared"]["bn"]["skipped"]  # type: ignore[index]  # a dict


def test_layers_that_bn_cannot_score_are_named(context: Context) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 4, 3),
    ).eval()

    _, metrics = Prune(ratio=0.5, importance="bn")(model_of(network, PICTURE), context)

    assert metrics["importance"] == {"used": "bn", "by_l1": [["3"]]}


def test_labels_are_used_where_there_are_some(resnet: Model, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    from edgeport.dataset import open_dataset

    x, y = rng.normal(size=(40, *PICTURE)).astype(np.float32), rng.integers(0, 5, 40)
    np.savez(tmp_path / "labelled.npz", x=x, y=y)

    _, metrics = Prune(ratio=0.5, importance="taylor")(
        resnet, Context(train=open_dataset(str(tmp_path / "labelled.npz")))
    )

    assert metrics["importance"] == {
        "used": "taylor",
        "data": "--train",
        "samples": 40,
        "loss": "cross-entropy with the labels",
    }


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Prune(ratio=0.5, importance="taylor"), "--importance taylor needs samples"),
        (Prune(ratio=0.5, importance="activation"), "--importance activation needs samples"),
        (Prune(ratio=0.5, importance="auto"), "--importance auto compares networks on samples: give --tune DATA"),
        (Prune(ratio=0.5, allocation="sensitivity"), "--allocation sensitivity compares networks on samples"),
        (Prune(ratio=0.5, budgets=(HALF,)), "--macs 0.5 is instead of a ratio"),
        (
            Prune(ratio=0.5, allocation="globl"),  # type: ignore[arg-type]  # the point
            r"unknown allocation 'globl'; known: uniform, even, global, sensitivity \(did you mean global\?\)",
        ),
    ],
)
def test_what_is_missing_is_named(resnet: Model, stage: Prune, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stage(resnet, Context())


def test_bn_without_any_norm_is_refused() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 3)).eval()
    with pytest.raises(StageError, match="the network has no batch norm with a scale"):
        Prune(ratio=0.5, importance="bn")(model_of(plain, PICTURE), Context())


def test_nothing_prunable_is_said_for_budgets_too() -> None:
    with pytest.raises(StageError, match="nothing can be cut from this network"):
        Prune(ratio=0, budgets=(HALF,))(model_of(nn.Conv2d(3, 64, 3).eval(), PICTURE), Context())


def test_all_budgets_hold_together(resnet: Model, context: Context) -> None:
    budgets = (Budget(kind="macs", share=0.5), Budget(kind="size", share=0.3))
    _, metrics = Prune(ratio=0, budgets=budgets)(resnet, context)
    assert metrics["macs_after"] <= 0.5 * metrics["macs_before"]  # type: ignore[operator]  # numbers
    assert metrics["weight_bytes_after"] <= 0.3 * metrics["weight_bytes_before"]  # type: ignore[operator]  # numbers
    assert metrics["budget"] == "--macs 0.5 --size 0.3"
    alone, _ = Prune(ratio=0, budgets=budgets[:1])(resnet, context)
    assert count_macs(alone.module, resnet.example_inputs) > metrics["macs_after"]  # type: ignore[operator]  # a number


def test_a_round_goes_an_equal_share_of_the_way_and_the_last_one_arrives(resnet: Model, context: Context) -> None:
    share = Budget(kind="macs", share=0.36)  # 0.6 x 0.6
    whole = count_macs(resnet.module, resnet.example_inputs)
    known = Context(calibrate=context.calibrate, tune=context.tune, original=resnet)
    first = Prune(ratio=0, budgets=(share,), channel_multiple=4, rounds_left=2)
    between, metrics = first(resnet, known)
    assert 0.36 * whole < metrics["macs_after"] <= 0.6 * whole  # type: ignore[operator]  # a number
    _, last = replace(first, rounds_left=1)(between, known)
    assert 0.3 * whole < last["macs_after"] <= 0.36 * whole  # type: ignore[operator]  # of the original, not of `between`


def test_latency_is_held_by_what_measures_it(resnet: Model, context: Context) -> None:
    whole = count_macs(resnet.module, resnet.example_inputs)
    asked = []

    def latency(model: Model) -> float:
        asked.append(model)
        return 0.2 + 0.8 * count_macs(model.module, model.example_inputs) / whole  # a fifth that no cut saves

    timed = Context(calibrate=context.calibrate, latency=latency)
    share = Budget(kind="latency", share=0.6)
    _, metrics = Prune(ratio=0, budgets=(share,))(resnet, timed)
    assert metrics["macs_after"] <= 0.5 * whole  # type: ignore[operator]  # a number
    assert metrics["latency_share"] == pytest.approx(0.2 + 0.8 * metrics["macs_after"] / whole)  # type: ignore[operator]  # as above
    assert len(asked) <= 14  # each is a measurement: two ends and ten halvings of a thousand settings
    with pytest.raises(StageError, match=r"--latency 0\.1 cannot be met: the least .* is 0\.\d+ of the latency"):
        Prune(ratio=0, budgets=(Budget(kind="latency", share=0.1),))(resnet, timed)
    with pytest.raises(ConfigError, match="nothing here can do that"):
        Prune(ratio=0, budgets=(share,))(resnet, context)


@pytest.mark.parametrize(
    ("targets", "bits", "bytes_a_weight"), [("cpu,intel", 4, 0.5), ("cpu,arm64", 4, 1), ("cpu", 8, 1)]
)
def test_packed_weights_count_half_a_byte_where_every_runtime_packs(
    targets: str, bits: int, bytes_a_weight: float
) -> None:
    from types import SimpleNamespace

    from edgeport.options import Options
    from edgeport.plan import resolve
    from edgeport.stages.sequence import sequence

    plan = resolve(Options(model="n.py:n", target=targets, calibrate="d.npz", size="9kB", weight_bits=bits))
    data = SimpleNamespace(train=None, tune=None, calibrate=SimpleNamespace(digest="d"), classes_elsewhere=0)
    first = sequence(plan, data)[0][0]  # type: ignore[arg-type]  # what it reads of data
    assert isinstance(first, Prune)
    assert first.bytes_a_weight == bytes_a_weight
