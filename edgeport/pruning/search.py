"""Finds how far to turn an allocation's one knob so that the cut network just meets a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeport.pruning.allocation import are_multiples

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeport.pruning.groups import ChannelGroup


@dataclass(frozen=True, kw_only=True)
class Knob:
    """An allocation with one parameter.

    Attributes:
        last: settings run from 0, where nothing is cut, to this one, where most is.
        counts: setting -> group name -> channels that stay.
    """

    last: int
    counts: Callable[[int], dict[str, int]]


class UnmetError(Exception):
    """No setting meets the limit. Never reaches a user: the stage says it with the option's name.

    Attributes:
        counts: group name -> channels where most is cut.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        """Set up."""
        super().__init__("no setting meets the limit")
        self.counts = counts


def fit(  # noqa: PLR0913  # keyword-only past the second
    groups: Sequence[ChannelGroup],
    knob: Knob,
    *,
    cost: Callable[[Mapping[str, int]], float],
    limit: float,
    channel_multiple: int,
    fills: bool = True,
) -> dict[str, int]:
    """Return the counts, group name -> channels, that cost at most `limit` and are cut no further than needed.

    Halves between a setting that costs too much and one that does not until they are neighbours. A step of the knob may
    be large (one of a residual stream narrows every block), so then groups get channels back, one multiple at a time,
    the one that kept the smallest share of its channels first, until no group could keep a multiple more.

    Args:
        groups: what may be pruned.
        knob: the allocation.
        cost: exact, of the network cut to so many channels.
        limit: the most it may cost.
        channel_multiple: of the layers' widths.
        fills: whether groups get channels back; a cost that is slow to tell is asked for the halving alone.

    Raises:
        UnmetError: even the last setting costs more.
    """
    low, high = 0, knob.last
    whole = {group.name: group.channels for group in groups}
    if cost(whole) <= limit:
        return whole
    if cost(knob.counts(high)) > limit:
        raise UnmetError(knob.counts(high))
    while high - low > 1:
        middle = (low + high) // 2
        if cost(knob.counts(middle)) > limit:
            low = middle
        else:
            high = middle
    if not fills:
        return knob.counts(high)
    return _filled(groups, knob.counts(high), cost=cost, limit=limit, channel_multiple=channel_multiple)


def one_more(groups: Sequence[ChannelGroup], kept: Mapping[str, int], name: str, channel_multiple: int) -> int | None:
    """Return the next number of channels that a group may have while the others stay; None: it is as wide as it can."""
    channels = next(group.channels for group in groups if group.name == name)
    for count in range(kept[name] + 1, channels + 1):
        if are_multiples(groups, {**kept, name: count}, channel_multiple):
            return count
    return None


def _filled(
    groups: Sequence[ChannelGroup],
    kept: dict[str, int],
    *,
    cost: Callable[[Mapping[str, int]], float],
    limit: float,
    channel_multiple: int,
) -> dict[str, int]:
    """Give channels back while the limit holds; a group that would break it is not asked again, as costs only rise."""
    channels = {group.name: group.channels for group in groups}
    open_groups = list(channels)
    while open_groups:
        name = min(open_groups, key=lambda name: kept[name] / channels[name])
        count = one_more(groups, kept, name, channel_multiple)
        if count is not None and cost({**kept, name: count}) <= limit:
            kept = {**kept, name: count}
        else:
            open_groups.remove(name)
    return kept
