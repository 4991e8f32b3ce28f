"""Memory for activations that a TFLite file needs, planned from the file as the interpreter's arena planner does.

Every activation lives from the operator that writes it to the last one that reads it; the file's inputs and outputs
live throughout. Places are given by decreasing size, each in the smallest gap between what lives at the same time
(Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference", greedy by size).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALIGNMENT = 64  # bytes; TensorFlow Lite's kDefaultTensorAlignment


@dataclass(frozen=True, kw_only=True)
class Life:
    """An activation.

    Attributes:
        size: bytes.
        first: index of the operator that writes it; -1 for the file's inputs.
        last: index of the last operator that reads it; the number of operators for what stays.
    """

    size: int
    first: int
    last: int

    def meets(self, other: Life) -> bool:
        """Whether both live at some time."""
        return self.first <= other.last and other.first <= self.last


def arena_bytes(lives: Iterable[Life]) -> int:
    """Return the bytes of an arena that holds all activations."""
    placed: list[tuple[int, Life]] = []
    for life in sorted(lives, key=lambda one: (-one.size, one.first)):
        if life.size:
            placed.append((_place(life, [pair for pair in placed if pair[1].meets(life)]), life))
    return max((start + life.size for start, life in placed), default=0)


def _place(life: Life, others: Sequence[tuple[int, Life]]) -> int:
    """Return where an activation starts: in the smallest gap that it fits in, or behind all others."""
    best, best_gap, end = None, 0, 0
    for start, other in sorted(others, key=lambda pair: pair[0]):
        gap = start - end
        if gap >= life.size and (best is None or gap < best_gap):
            best, best_gap = end, gap
        end = max(end, -(-(start + other.size) // ALIGNMENT) * ALIGNMENT)
    return end if best is None else best
