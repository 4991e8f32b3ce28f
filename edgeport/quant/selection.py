"""Find the fewest layers, of a ranked list, whose higher precision is enough."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STANDS_OUT = 10.0  # times the median divergence
MOST_TRIALS = 24  # files written and run for one target; then what was found so far counts


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What one layer's rounding does.

    Attributes:
        layer: provenance key of a convolution or linear layer.
        divergence: mean over samples of KL(float || layer rounded) of the class probabilities, in nats.
        writer: the layer that computes this one's input, with only operators of one operand between; None: it is the
            network's input, or several values meet on the way. Where a runtime's layers write integers, the input is
            as coarse as its writer leaves it.
    """

    layer: str
    divergence: float
    writer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The order in which layers are raised.

    Attributes:
        order: provenance keys, most sensitive first. After each layer comes its writer: where layers write integers,
            the reader gains nothing as long as its input has been rounded.
        standing_out: the leading ones, whose rounding does `STANDS_OUT` times as much as the median layer's.
    """

    order: tuple[str, ...]
    standing_out: tuple[str, ...] = ()


def rank(found: Sequence[Sensitivity]) -> Ranking:
    """Return the order of layers of these sensitivities, which come most sensitive first."""
    typical = statistics.median(one.divergence for one in found) if found else 0.0
    leading = [one for one in found if one.divergence > STANDS_OUT * typical]
    return Ranking(order=_with_writers(found), standing_out=_with_writers(leading))


def _with_writers(found: Sequence[Sensitivity]) -> tuple[str, ...]:
    pairs = ((one.layer, one.writer) for one in found)
    return tuple(dict.fromkeys(layer for pair in pairs for layer in pair if layer is not None))


class Trials:
    """Asks whether a choice holds, each choice once.

    Attributes:
        count: questions asked so far.
    """

    def __init__(self, holds: Callable[[frozenset[str]], bool], *, most: int = MOST_TRIALS) -> None:
        """Ask `holds`, at most `most` times."""
        self._holds, self._most = holds, most
        self._known: dict[frozenset[str], bool] = {}

    @property
    def count(self) -> int:
        """Choices asked about."""
        return len(self._known)

    @property
    def is_spent(self) -> bool:
        """Whether no more may be asked."""
        return self.count >= self._most

    def holds(self, chosen: Sequence[str]) -> bool:
        """Return the answer."""
        key = frozenset(chosen)
        if key not in self._known:
            self._known[key] = self._holds(key)
        return self._known[key]


def fewest(order: Sequence[str], trials: Trials) -> tuple[str, ...] | None:
    """Return layers that hold, in the order given; None where not even all of them do.

    The first 1, 2, 3, 5, 8, ... are tried until they hold, then the smallest number that does is found by bisection,
    then the others are left out, least sensitive first, where the rest still holds. Where more layers never make it
    worse, none can be left out of what is returned, unless the trials were spent before.

    Args:
        order: layers, most sensitive first, without repetition.
        trials: whether a choice holds.
    """
    failing, holding = 0, 0
    step, following = 1, 2
    while not holding:
        if failing == len(order):
            return None
        size = len(order) if trials.is_spent else min(step, len(order))
        if trials.holds(order[:size]):
            holding = size
        else:
            failing = size
        step, following = following, step + following
    while holding - failing > 1 and not trials.is_spent:
        middle = (holding + failing) // 2
        if trials.holds(order[:middle]):
            holding = middle
        else:
            failing = middle
    return _without_idle(order[:holding], trials)


def _without_idle(order: Sequence[str], trials: Trials) -> tuple[str, ...]:
    """Leave out, half the layers at a time, then a quarter, ..., then one, what the rest holds without."""
    chosen = list(order)
    size = (len(order) - 1) // 2 or 1  # the last one is needed: without it the rest was tried
    while size and len(order) > 1:
        for start in reversed(range(0, len(order) - 1, size)):
            part = order[start : min(start + size, len(order) - 1)]
            fewer = [layer for layer in chosen if layer not in part]
            if len(fewer) < len(chosen) and not trials.is_spent and trials.holds(fewer):
                chosen = fewer
        size //= 2
    return tuple(chosen)
