"""One thing that is wrong with the data, and the sentence that fixes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "scale",
    "normalisation",
    "channel_order",
    "axis_order",
    "too_few",
    "classes",
    "duplicates",
    "outliers",
    "constant",
    "dead_layers",
    "overlap",
]
SHOWN = 5  # sample numbers or names in a sentence; the evidence has them all


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found.

    Attributes:
        kind: `scale` (values 0..255 instead of 0..1 and the like), `normalisation` (another mean and std),
            `channel_order` (RGB and BGR), `axis_order` (channels first and last), ...
        sentence: what is wrong and what to do, for a person.
        evidence: the figures behind it, JSON values.
    """

    kind: Kind
    sentence: str
    evidence: Mapping[str, object]


def listed(items: Iterable[object]) -> str:
    """Return the first few items, and how many more there are."""
    every = [str(item) for item in items]
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
