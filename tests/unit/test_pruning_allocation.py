"""How many channels stay: numbers by hand, and the law that widths are multiples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_networks import NETWORKS, PICTURE, PaddedResNet, inputs_of, traced
from torch import nn

from edgeport.pruning.allocation import allocate, choose
from edgeport.pruning.groups import ChannelGroup, Filters, find_groups


def alone(channels: int, *, width: int = 1, total: int | None = None) -> ChannelGroup:
    share = Filters(
        layer="layer",
        parameter="layer.weight",
        dimension=0,
        positions=np.arange(channels * width).reshape(channels, width),
        total=channels * width if total is None else total,
    )
    return ChannelGroup(name="layer", filters=(share,), classes=np.arange(channels))


@pytest.mark.parametrize(
    ("channels", "ratio", "multiple", "kept"),
    [
        (64, 0.5, 8, 32),
        (64, 0.4, 8, 40),  # 38.4
        (32, 0.4, 8, 16),  # 19.2 is nearer to 16 than to 24
        (20, 0.1, 8, 16),  # 18: 16 is the largest multiple within 20
        (24, 0.5, 8, 16),  # 12 lies in the middle: the larger one
        (40, 0.7, 8, 16),  # 12.000000000000002 too
        (16, 0.95, 8, 8),  # at least one multiple
        (8, 0.5, 8, 8),  # no larger than a multiple: whole
        (7, 0.9, 8, 7),
        (10, 0.3, 1, 7),
        (3, 0.99, 1, 1),
    ],
)
def test_kept_is_the_nearest_multiple(channels: int, ratio: float, multiple: int, kept: int) -> None:
    assert allocate([alone(channels)], ratio=ratio, channel_multiple=multiple) == {"layer": kept}


def test_a_channel_of_several_filters_counts_them_all() -> None:
    # 8 channels of 4 filters: 32 filters, 16 wanted, 4 channels of 4 filters
    assert allocate([alone(8, width=4)], ratio=0.5, channel_multiple=8) == {"layer": 4}
    # 12 filters wanted; 3 channels would be it, but 3 * 4 is no multiple of 8; 2 and 4 are equally near
    assert allocate([alone(6, width=4)], ratio=0.5, channel_multiple=8) == {"layer": 4}


def test_streams_are_spared_unless_all_is_cut_alike() -> None:
    inputs = (torch.randn(2, *PICTURE),)
    groups = find_groups(traced(PaddedResNet().eval(), inputs), inputs).groups
    streams = {group.name: group.channels for group in groups if group.is_stream and group.channels > 1}
    spared = allocate(groups, ratio=0.5, channel_multiple=1)
    alike = allocate(groups, ratio=0.5, channel_multiple=1, spares_streams=False)
    assert streams
    for group in groups:
        assert abs(alike[group.name] - group.channels / 2) <= 0.5
        if group.name in streams:
            assert spared[group.name] >= 0.75 * group.channels > alike[group.name]


def test_filters_left_whole_count_for_the_multiple() -> None:
    # 6 of 32 filters are pinned; of 26 half should go: 13 + 6 = 19, and 16 and 24 are the multiples around it
    assert allocate([alone(26, total=32)], ratio=0.5, channel_multiple=8) == {"layer": 10}


def test_zero_padded_stages_share_what_each_layer_keeps() -> None:
    module = traced(PaddedResNet(width=16).eval(), (torch.randn(2, *PICTURE),))
    groups = find_groups(module, (torch.randn(1, *PICTURE),)).groups

    kept = allocate(groups, ratio=0.4, channel_multiple=8)

    assert kept["conv"] == 16  # a stream, half the ratio: 16 * 0.8 = 12.8, up
    assert kept["blocks.1.conv2"] == 16  # a stream: 32 * 0.8 = 25.6 -> 32, 16 of them settled
    assert kept["blocks.3.conv2"] == 8  # one layer writes these: 64 * 0.6 = 38.4 -> 40, 32 of them settled
    assert kept["blocks.3.conv1"] == 40


def test_half_the_ratio_is_cut_from_a_stream_and_all_of_it_from_a_depthwise_chain() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.wide = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 64, 1)
            self.depthwise, self.narrow = nn.Conv2d(64, 64, 3, groups=64, padding=1), nn.Conv2d(64, 32, 1)
            self.last = nn.Conv2d(32, 5, 1)

        def forward(self, x: torch.Tensor) -> Any:
            x = self.stem(x)
            return self.last(x + self.narrow(self.depthwise(self.wide(x))))

    inputs = (torch.randn(2, *PICTURE),)
    groups = find_groups(traced(Block().eval(), inputs), inputs).groups

    assert [group.is_stream for group in groups] == [True, False]
    assert allocate(groups, ratio=0.5, channel_multiple=8) == {"stem": 24, "wide": 32}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ratio=st.floats(0.01, 0.99), multiple=st.sampled_from([1, 2, 4, 8]), name=st.sampled_from(sorted(NETWORKS)))
def test_every_layer_keeps_a_multiple_or_all(ratio: float, multiple: int, name: str) -> None:
    groups = GROUPS[name]

    kept = allocate(groups, ratio=ratio, channel_multiple=multiple)

    widths: dict[str, list[int]] = {}
    for group in groups:
        assert 1 <= kept[group.name] <= group.channels
        for share in group.filters:
            width = widths.setdefault(share.layer, [share.total, share.total])
            width[1] -= (group.channels - kept[group.name]) * share.positions.shape[1]
    for layer, (before, after) in widths.items():
        assert after == before or after % multiple == 0, layer


GROUPS = {
    name: find_groups(traced(network().eval(), inputs_of(name)), inputs_of(name)).groups
    for name, (network, _) in NETWORKS.items()
}


def test_halves_of_a_layer_come_out_even_together() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.side, self.last = nn.Conv2d(3, 24, 1), nn.Conv2d(3, 12, 1), nn.Conv2d(24, 5, 1)

        def forward(self, x: torch.Tensor) -> Any:
            first, second = self.stem(x).chunk(2, 1)
            return self.last(torch.cat([first + self.side(x), second], 1))

    inputs = (torch.randn(2, *PICTURE),)
    groups = find_groups(traced(Halves().eval(), inputs), inputs).groups

    # stem is 12 + 12; its first half, shared with side, is settled first: 12 * 0.85 = 10.2, no multiple of 8 from there
    # to 12, so it stays whole; stem 16.8 -> 16, of which 12 are settled
    assert allocate(groups, ratio=0.3, channel_multiple=8) == {"stem": 4, "stem#2": 12}


def test_choose_takes_the_highest_in_order() -> None:
    assert choose(np.array([0.5, 3.0, 1.0, 3.0, 2.0]), 3) == (1, 3, 4)
    assert choose(np.array([1.0, 1.0, 1.0]), 2) == (0, 1)
