"""Budgets, the search for them, sensitivity and the global threshold: numbers by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from pruning_networks import traced
from torch import nn

from edgeport.errors import ConfigError
from edgeport.pruning.allocation import allocate_each, are_multiples, global_wanted
from edgeport.pruning.budget import Budget, parse_share, parse_size, weight_bytes
from edgeport.pruning.groups import ChannelGroup, Filters
from edgeport.pruning.search import Knob, UnmetError, fit
from edgeport.pruning.sensitivity import Curve, after, convex, levels, measure, steps


def alone(name: str, channels: int, *, width: int = 1) -> ChannelGroup:
    share = Filters(
        layer=name,
        parameter=f"{name}.weight",
        dimension=0,
        positions=np.arange(channels * width).reshape(channels, width),
        total=channels * width,
    )
    return ChannelGroup(name=name, filters=(share,), classes=np.arange(channels))


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("500kB", Budget(kind="size", size_bytes=500_000)),
        ("1.5MB", Budget(kind="size", size_bytes=1_500_000)),
        ("2 KiB", Budget(kind="size", size_bytes=2048)),
        ("0.25", Budget(kind="size", share=0.25)),
        (0.25, Budget(kind="size", share=0.25)),
    ],
)
def test_sizes_are_bytes_or_a_share(text: str | float, budget: Budget) -> None:
    assert parse_size(text) == budget


@pytest.mark.parametrize("text", ["1", "0", "500", "-1kB", "half", "5GB", "0kB", "nan", "nankB", "1e999MB", ""])
def test_other_sizes_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="bytes of weights such as 500kB") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5, -0.5, float("nan")])
def test_a_share_of_multiply_adds_lies_between_0_and_1(share: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        parse_share("macs", share)


def test_weights_take_bytes_as_shipped_and_norms_fold() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)).eval()
    module = traced(network, (torch.randn(2, 3, 8, 8),))

    # 216 + 16 weights; 8 shifts and 2 biases of 4 bytes
    assert weight_bytes(module, bytes_a_weight=1) == 232 + 40
    assert weight_bytes(module, bytes_a_weight=4) == 4 * 232 + 40
    assert weight_bytes(module, bytes_a_weight=0.5) == 116 + 40


def test_one_threshold_takes_the_least_of_all_groups() -> None:
    groups = [alone("a", 4), alone("b", 4)]
    # over their means (4 and 100): 0.25, 0.5, 1.25, 2 and 0.97 .. 1.03
    scores = {"a": np.array([1.0, 2.0, 5.0, 8.0]), "b": np.array([97.0, 99.0, 101.0, 103.0])}

    assert global_wanted(groups, scores, ratio=0.25) == {"a": 2.0, "b": 4.0}
    assert global_wanted(groups, scores, ratio=0.5) == {"a": 2.0, "b": 2.0}
    assert global_wanted(groups, scores, ratio=1.0) == {"a": 0.4, "b": 0.4}  # the floor, a tenth


def test_equal_scores_do_not_go_all_at_once() -> None:
    assert global_wanted([alone("a", 8)], {"a": np.ones(8)}, ratio=0.25) == {"a": 6.0}


def test_each_group_keeps_the_multiple_nearest_to_what_is_wanted() -> None:
    groups = [alone("a", 32), alone("b", 64)]
    assert allocate_each(groups, {"a": 13.0, "b": 60.0}, channel_multiple=8) == {"a": 16, "b": 64}
    assert allocate_each(groups, {"a": 0.4, "b": 11.0}, channel_multiple=8) == {"a": 8, "b": 8}


def test_levels_are_multiples_of_filters() -> None:
    assert levels(alone("a", 20), 8) == (20, 16, 8)
    assert levels(alone("a", 8), 8) == (8,)
    assert levels(alone("a", 6, width=4), 8) == (6, 4, 2)
    assert are_multiples([alone("a", 20)], {"a": 20}, 8)
    assert not are_multiples([alone("a", 20)], {"a": 12}, 8)


def test_a_convex_floor_spreads_a_costly_first_cut() -> None:
    assert convex([0, 1, 2, 3], [0, 4, 4, 9]) == [0, 2, 4, 9]
    assert convex([0, 2, 3], [0, 1, 4]) == [0, 1, 4]


def test_damage_is_measured_with_one_group_cut_and_divided_by_what_it_saves() -> None:
    groups = [alone("a", 16), alone("b", 16), alone("whole", 8)]
    harm = {"a": 1.0, "b": 3.0}
    worth = {"a": 10, "b": 60}

    def damage(counts: Mapping[str, int]) -> float:
        return 0.5 + sum(harm[name] * (16 - count) for name, count in counts.items())  # 0.5 before

    def cost(counts: Mapping[str, int]) -> float:
        return sum(worth[name] * counts.get(name, 16) for name in worth)

    curves = measure(groups, 8, damage=damage, cost=cost)

    assert curves == {
        "a": Curve(channels=(16, 8), damage=(0.0, 8.0), saved=80.0),
        "b": Curve(channels=(16, 8), damage=(0.0, 24.0), saved=480.0),
    }
    assert steps(curves) == ("b", "a")  # 24 / 480 is less than 8 / 80
    assert after(curves, steps(curves)[:1]) == {"a": 16, "b": 8}


def test_steps_rise_in_damage_for_what_they_save() -> None:
    curves = {
        "a": Curve(channels=(24, 16, 8), damage=(0.0, 1.0, 5.0), saved=16.0),  # 1/8, 4/8
        "b": Curve(channels=(24, 16, 8), damage=(0.0, 2.0, 5.0), saved=16.0),  # 2/8, 3/8
        "free": Curve(channels=(16, 8), damage=(0.0, 0.0), saved=0.0),
    }
    assert steps(curves) == ("a", "b", "b", "a")


def _knob(groups: list[ChannelGroup], last: int = 100) -> Knob:
    return Knob(
        last=last,
        counts=lambda at: allocate_each(
            groups, {group.name: group.channels * (1 - at / last) for group in groups}, channel_multiple=8
        ),
    )


@pytest.mark.parametrize("limit", [34, 40, 47, 50, 63, 64, 80, 95])
def test_the_search_meets_the_limit_and_leaves_no_step_unused(limit: float) -> None:
    groups = [alone("a", 32), alone("b", 32), alone("c", 32)]

    def cost(counts: Mapping[str, int]) -> float:
        return sum(counts.values())

    found = fit(groups, _knob(groups), cost=cost, limit=limit, channel_multiple=8)

    assert are_multiples(groups, found, 8)
    assert limit - 8 < cost(found) <= limit  # one step of one group more would be too much


def test_what_cannot_be_met_says_the_least() -> None:
    groups = [alone("a", 32), alone("b", 32)]
    with pytest.raises(UnmetError) as caught:
        fit(groups, _knob(groups), cost=lambda counts: sum(counts.values()), limit=15, channel_multiple=8)
    assert sum(caught.value.counts.values()) == 16


def test_what_is_met_already_stays_whole() -> None:
    groups = [alone("a", 32)]
    found = fit(groups, _knob(groups), cost=lambda counts: sum(counts.values()), limit=32, channel_multiple=8)
    assert found == {"a": 32}
