"""Surgery: a pruned network computes what the masked original computes, and remains an ordinary traced network."""

from __future__ import annotations

import copy
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_networks import NETWORKS, inputs_of, randomised, traced
from torch.fx import GraphModule

from edgeport.pruning.groups import Groups, find_groups
from edgeport.pruning.masking import mask_channels
from edgeport.pruning.surgery import prune_channels

# Both sides add the same products; only the order of summation differs, as zeros sit between them in the masked
# network: a few units in the last place (1.2e-7) of the largest value, for sums of up to a thousand terms.
RELATIVE = 2e-5


@cache
def case(name: str, seed: int) -> tuple[GraphModule, Groups]:
    module = traced(randomised(NETWORKS[name][0](), seed), inputs_of(name))
    return module, find_groups(module, inputs_of(name, batch=1))


def random_choice(groups: Groups, rng: np.random.Generator) -> dict[str, tuple[int, ...]]:
    return {
        group.name: tuple(sorted(rng.permutation(group.channels)[: rng.integers(1, group.channels + 1)].tolist()))
        for group in groups.groups
    }


def outputs(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        result = module(*inputs)
    return result if isinstance(result, tuple) else (result,)


def assert_close(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> None:
    for left, right in zip(one, other, strict=True):
        assert left.shape == right.shape
        assert float((left - right).abs().max()) <= RELATIVE * max(1.0, float(right.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31 - 1))
def test_pruned_equals_masked(name: str, seed: int) -> None:
    module, groups = case(name, seed % 3)
    rng = np.random.default_rng(seed)
    kept = random_choice(groups, rng)
    inputs = inputs_of(name, batch=int(rng.integers(1, 4)), seed=seed)

    pruned = prune_channels(module, groups, kept)

    assert_close(outputs(pruned, inputs), outputs(mask_channels(module, groups, kept), inputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_mask_changes_the_output_and_pruning_the_shapes(name: str) -> None:
    module, groups = case(name, 0)
    kept = {group.name: tuple(range(0, group.channels, 2)) for group in groups.groups}
    inputs = inputs_of(name)

    masked, pruned = mask_channels(module, groups, kept), prune_channels(module, groups, kept)

    assert any(
        float((a - b).abs().max()) > 1e-2 for a, b in zip(outputs(masked, inputs), outputs(module, inputs), strict=True)
    )
    for group in groups.groups:
        for share in group.filters:
            after = pruned.get_parameter(share.parameter).shape[share.dimension]
            assert after < share.total
            assert after >= len(kept[group.name]) * share.positions.shape[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_original_is_untouched(name: str) -> None:
    module, groups = case(name, 1)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    code, before = module.code, outputs(module, inputs_of(name))
    kept = random_choice(groups, np.random.default_rng(0))

    prune_channels(module, groups, kept)
    mask_channels(module, groups, kept)

    assert module.code == code
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(outputs(module, inputs_of(name)), before, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_exports_again_with_a_dynamic_batch(name: str) -> None:
    module, groups = case(name, 2)
    pruned = prune_channels(module, groups, random_choice(groups, np.random.default_rng(3)))

    again = traced(pruned, inputs_of(name))

    assert_close(outputs(again, inputs_of(name, batch=5)), outputs(pruned, inputs_of(name, batch=5)))


@pytest.mark.parametrize("name", ["padded_resnet", "grouped", "rearranged"])
def test_pruned_exports_to_onnx(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    module, groups = case(name, 0)
    pruned = prune_channels(module, groups, random_choice(groups, np.random.default_rng(5)))
    inputs = inputs_of(name, batch=1)

    program = torch.onnx.export(torch.export.export(pruned, inputs), dynamo=True, verbose=False)
    assert program is not None
    program.save(tmp_path / "pruned.onnx")
    session = runtime.InferenceSession(tmp_path / "pruned.onnx")
    got = session.run(
        None, dict(zip([value.name for value in session.get_inputs()], [x.numpy() for x in inputs], strict=True))
    )

    for ours, theirs in zip(outputs(pruned, inputs), got, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=0, atol=1e-4 * max(1.0, float(ours.abs().max())))


@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_shapes_are_those_of_a_run(name: str) -> None:
    from edgeport.pruning.operation import concrete_shapes

    module, groups = case(name, 0)
    pruned = prune_channels(module, groups, random_choice(groups, np.random.default_rng(1)))

    shapes = concrete_shapes(pruned, inputs_of(name, batch=2))
    dtypes = {node.name: getattr(node.meta.get("val"), "dtype", None) for node in module.graph.nodes}

    for node, shape in shapes.items():
        value = node.meta["val"]
        if isinstance(value, torch.Tensor):
            recorded = tuple(
                size if isinstance(size, int) else real for size, real in zip(value.shape, shape, strict=True)
            )
            assert recorded == shape, node
            assert value.dtype == dtypes[node.name]


def test_names_of_parameters_and_ties_stay() -> None:
    module, groups = case("twice", 0)

    pruned = prune_channels(module, groups, {group.name: (0, 3) for group in groups.groups})

    assert list(pruned.state_dict()) == list(module.state_dict())
    assert pruned.get_parameter("one.weight") is pruned.get_parameter("other.weight")
    assert pruned.get_parameter("one.weight").shape == (2, 2, 1, 1)
    assert isinstance(pruned.get_parameter("stem.weight"), torch.nn.Parameter)


def test_padding_follows_the_channels_that_stay() -> None:
    module, groups = case(
        "padded_resnet", 0
    )  # 8 -> 16: 4 before, 4 after (group blocks.1.conv2: 0-3 before, 4-7 after)

    pruned = prune_channels(module, groups, {"conv": (0, 1, 2), "blocks.1.conv2": (3, 4, 5), "blocks.3.conv2": (0, 15)})

    pads = [node.args[1] for node in pruned.graph.nodes if node.target is torch.ops.aten.pad.default]
    assert pads == [[0, 0, 0, 0, 1, 2], [0, 0, 0, 0, 1, 1]]
    assert pruned.get_parameter("blocks.1.conv2.weight").shape == (6, 16, 3, 3)
    assert pruned.get_parameter("linear.weight").shape == (5, 8)


def test_pruned_weights_are_the_rows_and_columns_that_stay() -> None:
    module, groups = case("flattened", 0)
    weight = module.get_parameter("linear1.weight")

    pruned = prune_channels(module, groups, {"conv": (1, 6), "linear1": (0, 5, 23)})

    columns = [*range(16, 32), *range(96, 112)]  # 16 positions of channels 1 and 6
    assert torch.equal(pruned.get_parameter("linear1.weight"), weight[[0, 5, 23]][:, columns])
    assert torch.equal(pruned.get_buffer("bn.running_var"), module.get_buffer("bn.running_var")[[0, 5, 23]])


def test_depthwise_and_grouped_group_counts() -> None:
    module, groups = case("mobile", 0)
    pruned = prune_channels(module, groups, {"stem": (0, 2, 7), "expand": tuple(range(10))})
    counts = [
        node.args[6]
        for node in pruned.graph.nodes
        if node.target is torch.ops.aten.conv2d.default and len(node.args) > 6
    ]
    assert counts == [10, 3]
    assert pruned.get_parameter("doubled.weight").shape == (6, 1, 3, 3)

    module, groups = case("grouped", 0)
    pruned = prune_channels(module, groups, {"conv1": (1,), "grouped": (0, 3), "grouped2": (2,)})
    assert pruned.get_parameter("grouped.weight").shape == (16, 1, 3, 3)  # 4 groups of 1 in, 4 out


def test_pruned_module_can_be_pruned_again() -> None:
    module, groups = case("padded_resnet", 0)
    inputs = inputs_of("padded_resnet")
    once = prune_channels(module, groups, {group.name: tuple(range(4)) for group in groups.groups})

    again = find_groups(once, inputs)
    kept = {group.name: tuple(range(0, group.channels, 2)) for group in again.groups}

    assert_close(outputs(prune_channels(once, again, kept), inputs), outputs(mask_channels(once, again, kept), inputs))


def test_bad_choices_are_refused() -> None:
    module, groups = case("padded_resnet", 0)
    with pytest.raises(ValueError, match="no channel group 'nowhere'"):
        prune_channels(module, groups, {"nowhere": (0,)})
    with pytest.raises(ValueError, match="ascending indices below 8"):
        prune_channels(module, groups, {"conv": (0, 8)})
    with pytest.raises(ValueError, match="ascending indices below 8"):
        prune_channels(module, groups, {"conv": (1, 0)})
    with pytest.raises(ValueError, match=r"nothing would be left of dimension 0 of 'conv\.weight'"):
        prune_channels(module, groups, {"conv": ()})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet20_jpeg", (3, 32, 32)),
        ("resnet8_jpeg", (3, 32, 32)),
        ("anomaly_autoencoder", (640,)),
        ("efficientnet_lite0", (3, 64, 64)),
    ],
)
def test_real_networks_pruned_equal_masked(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, ...]
) -> None:
    monkeypatch.syspath_prepend(str(shared_data))
    sys.modules.pop("zoo", None)
    network = getattr(__import__("zoo"), name)()
    inputs = (torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)),)
    module = traced(copy.deepcopy(network), inputs)
    groups = find_groups(module, inputs)
    kept = random_choice(groups, np.random.default_rng(1))

    pruned = prune_channels(module, groups, kept)

    assert_close(outputs(pruned, inputs), outputs(mask_channels(module, groups, kept), inputs))
    assert sum(p.numel() for p in pruned.parameters()) < 0.8 * sum(p.numel() for p in module.parameters())
