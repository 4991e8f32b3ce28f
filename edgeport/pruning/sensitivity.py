"""How much each group's channels matter to the outputs, and in which order to take them for the least damage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeport.pruning.groups import ChannelGroup

    Kept = Mapping[str, int]  # group name -> channels that stay; a group that is not named stays whole

LEVELS = 4  # widths at which the damage of each group is measured; between them it is taken as straight


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a group costs and does at fewer and fewer channels.

    Attributes:
        channels: (levels,) channels that stay, falling, the whole group first.
        damage: (levels,) error of the outputs with only this group cut; made convex, 0 first.
        saved: what the whole cut to the last level saves (multiply-adds or bytes).
    """

    channels: tuple[int, ...]
    damage: tuple[float, ...]
    saved: float


def levels(group: ChannelGroup, channel_multiple: int) -> tuple[int, ...]:
    """Return the widths that a group may have, falling, its own first."""
    widths = {share.positions.shape[1] for share in group.filters}
    step = math.lcm(*(channel_multiple // math.gcd(channel_multiple, width) for width in widths))
    top = (group.channels - 1) // step * step
    return (group.channels, *range(top, 0, -step))


def measure(
    groups: Sequence[ChannelGroup],
    channel_multiple: int,
    *,
    damage: Callable[[Kept], float],
    cost: Callable[[Kept], float],
) -> dict[str, Curve]:
    """Return group name -> curve, of the groups that can be cut: each is cut alone, the others stay whole.

    Args:
        groups: what may be pruned.
        channel_multiple: of widths.
        damage: error of the outputs with so many channels, >= 0; what it is with all of them does not count.
        cost: multiply-adds or bytes with so many channels.
    """
    whole, error = cost({}), damage({})
    curves = {}
    for group in groups:
        widths = levels(group, channel_multiple)
        if len(widths) == 1:
            continue
        places = sorted({round(place) for place in np.linspace(0, len(widths) - 1, min(len(widths), LEVELS + 1))})
        measured = [0.0, *(max(0.0, damage({group.name: widths[place]}) - error) for place in places[1:])]
        gone = [float(group.channels - widths[place]) for place in places]
        inside = [float(group.channels - width) for width in widths]
        curves[group.name] = Curve(
            channels=widths,
            damage=tuple(convex(inside, np.interp(inside, gone, measured).tolist())),
            saved=whole - cost({group.name: widths[-1]}),
        )
    return curves


def convex(places: Sequence[float], values: Sequence[float]) -> list[float]:
    """Return the largest convex function below the points, at `places` (rising).

    Where a first cut does more damage than a further one, both have their mean slope: they only pay together.
    """
    hull: list[int] = []
    for index in range(len(places)):
        while len(hull) > 1 and _slope(places, values, hull[-2], hull[-1]) >= _slope(places, values, hull[-1], index):
            hull.pop()
        hull.append(index)
    return [
        float(value)
        for value in np.interp(places, [places[index] for index in hull], [values[index] for index in hull])
    ]


def _slope(places: Sequence[float], values: Sequence[float], start: int, end: int) -> float:
    return (values[end] - values[start]) / (places[end] - places[start])


def steps(curves: Mapping[str, Curve]) -> tuple[str, ...]:
    """Return which group to take down a level, one after another: the least damage for what is saved comes first.

    With convex curves, and damages and savings that add up over groups, the first n steps save what they save with the
    least damage that is possible (Everett 1963, "Generalized Lagrange Multiplier Method for Solving Problems of Optimum
    Allocation of Resources", theorem 1). Groups that save nothing are never taken.
    """
    found: list[tuple[float, int, int, str]] = []
    for place, (name, curve) in enumerate(curves.items()):
        if curve.saved <= 0:
            continue
        total = curve.channels[0] - curve.channels[-1]
        for level in range(1, len(curve.channels)):
            gone = curve.channels[level - 1] - curve.channels[level]
            harm = curve.damage[level] - curve.damage[level - 1]
            found.append((harm / (curve.saved * gone / total), level, place, name))
    return tuple(name for *_, name in sorted(found))


def after(curves: Mapping[str, Curve], taken: Sequence[str]) -> dict[str, int]:
    """Return group name -> channels that stay after these steps."""
    done = dict.fromkeys(curves, 0)
    for name in taken:
        done[name] += 1
    return {name: curve.channels[done[name]] for name, curve in curves.items()}
