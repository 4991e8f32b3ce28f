"""Channel groups: what is tied to what, and what is left whole with which words."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # PyTorch's own convention
from pruning_networks import NETWORKS, PICTURE, PaddedResNet, inputs_of, randomised, traced
from torch import nn

from edgeport.pruning.groups import ChannelGroup, Groups, find_groups
from edgeport.pruning.labels import NOT_PINNED, Labels


def groups_of(network: nn.Module, shape: tuple[int, ...] = PICTURE) -> Groups:
    inputs = (torch.randn(2, *shape),)
    return find_groups(traced(network.eval(), inputs), inputs)


def found(name: str) -> dict[str, ChannelGroup]:
    inputs = inputs_of(name, batch=1)
    return {
        group.name: group for group in find_groups(traced(NETWORKS[name][0]().eval(), inputs_of(name)), inputs).groups
    }


def positions(group: ChannelGroup) -> dict[str, list[list[int]]]:
    return {share.layer: share.positions.tolist() for share in group.filters}


def test_padded_shortcut_ties_middle_channels_to_the_narrow_stage() -> None:
    groups = found("padded_resnet")  # 8 channels, padded by 4 + 4 to 16, padded by 8 + 8 to 32

    assert positions(groups["conv"]) == {
        "conv": [[i] for i in range(8)],
        "blocks.0.conv2": [[i] for i in range(8)],
        "blocks.1.conv2": [[i + 4] for i in range(8)],
        "blocks.2.conv2": [[i + 4] for i in range(8)],
        "blocks.3.conv2": [[i + 12] for i in range(8)],
    }
    assert positions(groups["blocks.1.conv2"]) == {
        "blocks.1.conv2": [[i] for i in (0, 1, 2, 3, 12, 13, 14, 15)],
        "blocks.2.conv2": [[i] for i in (0, 1, 2, 3, 12, 13, 14, 15)],
        "blocks.3.conv2": [[i + 8] for i in (0, 1, 2, 3, 12, 13, 14, 15)],
    }
    assert positions(groups["blocks.3.conv2"]) == {"blocks.3.conv2": [[i] for i in (*range(8), *range(24, 32))]}
    assert groups["blocks.1.conv1"].layers == ("blocks.1.conv1",)


def test_residual_stream_and_depthwise_are_one_group_each() -> None:
    groups = found("mobile")

    assert groups["stem"].layers == ("stem", "project", "doubled")
    assert positions(groups["stem"])["doubled"] == [[2 * i, 2 * i + 1] for i in range(8)]  # multiplier 2
    assert groups["expand"].layers == ("expand", "depthwise")


def test_grouped_convolution_loses_the_same_positions_in_every_group() -> None:
    groups = found("grouped")

    assert positions(groups["conv1"]) == {"conv1": [[i, i + 4, i + 8, i + 12] for i in range(4)]}
    # 4 groups of 8 filters; shuffled by (4, 8), then read by 2 groups of 16: shuffled position 4k + g is filter 8g + k,
    # and positions p and p + 16 are tied, hence k and k + 4: 4 channels of 8 filters
    assert positions(groups["grouped"]) == {
        "grouped": [[i, i + 4, i + 8, i + 12, i + 16, i + 20, i + 24, i + 28] for i in range(4)]
    }
    assert positions(groups["grouped2"]) == {"grouped2": [[i, i + 8] for i in range(8)]}


def test_concatenation_keeps_layers_apart() -> None:
    assert {name: group.layers for name, group in found("dense").items()} == {
        "stem": ("stem",),
        "conv1": ("conv1",),
        "conv2": ("conv2",),
    }


def test_view_to_pictures_takes_features_in_blocks() -> None:
    assert positions(found("flattened")["linear2"]) == {
        "linear2": [[4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3] for i in range(12)]
    }


def test_whole_attention_heads_are_channels() -> None:
    groups = found("transformer")

    # 4 heads of width 5: rows 5h..5h+4 of each of query, key and value, 20 rows each
    assert positions(groups["qkv"]) == {
        "qkv": [[start + 5 * head + i for start in (0, 20, 40) for i in range(5)] for head in range(4)]
    }
    # 3 heads, each of 2 rows of query, 2 of key and 6 of value in a row
    assert positions(groups["qkv2"]) == {"qkv2": [[10 * head + i for i in range(10)] for head in range(3)]}
    assert positions(groups["up"]) == {"up": [[i, i + 16] for i in range(16)]}  # gate and value
    assert sorted(groups) == ["qkv", "qkv2", "up"]
    # torch's own: 4 heads of width 4, 16 rows each of query, key and value
    assert positions(found("encoder")["attention.in_proj_weight"]) == {
        "attention.in_proj_weight": [
            [start + 4 * head + i for start in (0, 16, 32) for i in range(4)] for head in range(4)
        ]
    }
    # heads behind blocks of tokens: 3 of width 4, 12 rows each of query, key and value
    assert positions(found("windows")["qkv"]) == {
        "qkv": [[start + 4 * head + i for start in (0, 12, 24) for i in range(4)] for head in range(3)]
    }


def test_stream_of_a_transformer_is_left_whole_because_of_its_norm() -> None:
    inputs = inputs_of("transformer")
    groups = find_groups(traced(NETWORKS["transformer"][0]().eval(), inputs), inputs)

    why = "because operator aten.layer_norm.default in 'norm1' normalises across channels"
    assert groups.left_whole == (
        *(f"left whole: layer '{layer}' {why}" for layer in ("patches", "proj", "proj2", "down")),
        "left whole: layer 'head' because its channels are a network output",
    )


def test_one_parameter_under_two_names_is_one_layer() -> None:
    groups = found("twice")

    assert groups["stem"].layers == ("stem", "again")
    assert [group.layers for group in groups.values() if group.name != "stem"] in ([("one",)], [("other",)])


def test_network_outputs_and_inputs_stay_whole() -> None:
    inputs = inputs_of("two_by_two")
    groups = find_groups(traced(NETWORKS["two_by_two"][0]().eval(), inputs), inputs)

    assert groups.left_whole == (
        "left whole: layer 'picture' because it is joined to network input 'x'",
        "left whole: layer 'scores' because its channels are a network output",
    )


class _Unknown(nn.Module):
    def __init__(self, operator: str) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(a, b, 1) for a, b in ((3, 16), (16, 16), (16, 5)))
        self.norm, self.operator = nn.GroupNorm(2, 16), operator
        self.query = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.second(F.relu(self.first(x)))
        match self.operator:
            case "cumsum":
                x = torch.cumsum(x, 1)
            case "group_norm":
                x = self.norm(x)
            case "softmax":
                x = F.softmax(x, 1)
            case "sort":
                x = torch.sort(x, 1).values
            case "strided":
                x = x[:, ::2].repeat(1, 2, 1, 1)
            case "mean":
                x = x - x.mean(1, keepdim=True)
            case "roll":
                x = torch.roll(x, 1, 1)
            case "matmul":
                flat = x.flatten(2)
                x = (flat @ flat.transpose(1, 2) @ flat).view(x.shape)
        return self.third(x)


WORDS = {
    "cumsum": "operator aten.cumsum.default in 'forward' runs along its channels",
    "group_norm": "operator aten.group_norm.default in 'norm' normalises across channels",
    "softmax": "operator aten.softmax.int in 'forward' runs along its channels",
    "sort": "operator aten.sort.default in 'forward' is not known to pruning",
    "strided": "operator aten.slice.Tensor in 'forward' picks scattered channels",
    "mean": "operator aten.mean.dim in 'forward' reduces over its channels",
    "roll": "operator aten.roll.default in 'forward' runs along its channels",
    "matmul": "operator aten.matmul.default in 'forward' multiplies two activations",
}


@pytest.mark.parametrize("operator", WORDS)
def test_operator_that_mixes_channels_is_named_and_its_layer_left_whole(operator: str) -> None:
    groups = groups_of(_Unknown(operator))

    assert [group.name for group in groups.groups] == ["first"]
    assert groups.left_whole == (
        f"left whole: layer 'second' because {WORDS[operator]}",
        "left whole: layer 'third' because its channels are a network output",
    )


def test_part_of_a_layer_can_be_left_whole() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 5, 1)

        def forward(self, x: torch.Tensor) -> Any:
            x = self.first(x)
            return self.second(torch.cat([x[:, :6].cumsum(1), x[:, 6:]], 1))

    groups = groups_of(Part())

    assert positions(groups.groups[0]) == {"first": [[i] for i in range(6, 16)]}
    assert groups.left_whole[0] == (
        "left whole: 6 of 16 channels of layer 'first' because operator aten.cumsum.default in 'forward' runs along its"
        " channels"
    )


def test_standardised_weight_keeps_its_input_channels() -> None:
    class Standardised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)
            self.second = nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> Any:
            weight = F.batch_norm(self.second.weight.reshape(1, 8, -1), None, None, training=True)
            return self.last(F.conv2d(F.relu(self.first(x)), weight.reshape(8, 8, 1, 1)))

    groups = groups_of(Standardised())

    assert [group.layers for group in groups.groups] == [("second",)]
    assert groups.left_whole[0] == (
        "left whole: layer 'first' because operator aten.batch_norm.default in 'forward' takes statistics over it"
    )


def test_groups_do_not_depend_on_the_batch_size() -> None:
    module = traced(PaddedResNet().eval(), (torch.randn(2, *PICTURE),))

    one, three = (find_groups(module, (torch.randn(batch, *PICTURE),)) for batch in (1, 3))

    assert [positions(group) for group in one.groups] == [positions(group) for group in three.groups]


def test_labels_solve_chains_and_pins() -> None:
    labels = Labels()
    a, b, c, d = (labels.fresh(3) for _ in range(4))
    labels.tie(d, c, "")
    labels.tie(b, c[::-1].copy(), "")
    labels.tie(a, None, "because")  # pins a
    labels.tie(a[:1], d[:1], "")  # d0 = c0 = b2 = a0

    classes = labels.classes()

    assert classes.tolist() == [0, 1, 2, 3, 4, 0, 0, 4, 3, 0, 4, 3]
    assert [labels.reasons[index] if index != NOT_PINNED else "" for index in labels.pinned(classes)[9:]] == [
        "because",
        "",
        "",
    ]


def test_long_chain_of_ties_is_one_class() -> None:
    labels = Labels()
    axes = [labels.fresh(2) for _ in range(200)]
    order = np.random.default_rng(0).permutation(199)
    for index in order:
        labels.tie(axes[index], axes[index + 1], "")

    assert labels.classes().tolist() == [0, 1] * 200


def test_find_groups_is_fast_on_efficientnet_lite0(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(shared_data))
    sys.modules.pop("zoo", None)
    zoo = __import__("zoo")
    module = traced(zoo.efficientnet_lite0(), (torch.zeros(2, 3, 224, 224),))

    start = time.process_time()
    groups = find_groups(module, (torch.zeros(1, 3, 224, 224),))
    seconds = time.process_time() - start

    assert len(groups.groups) == 24  # stem, 15 expansions, 7 residual streams, head
    assert seconds < 1.5  # 0.3 s on the 2-core machine this was written on


def test_random_weights_do_not_change_groups() -> None:
    first, second = (
        find_groups(traced(randomised(PaddedResNet(), seed), (torch.randn(2, *PICTURE),)), (torch.randn(1, *PICTURE),))
        for seed in (0, 1)
    )
    assert [positions(group) for group in first.groups] == [positions(group) for group in second.groups]
