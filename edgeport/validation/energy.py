"""A first proxy of energy: how much a file makes a processor compute and move, read from the file itself.

No joules: they need a model of the processor. Multiply-adds by number format and bytes moved are what such a model
takes (M. Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9: an 8-bit multiply and add cost 0.23 pJ,
float32 ones 4.6 pJ, a word from DRAM over a hundred times that).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from edgeport.types import Metric, OpCost


def metrics(costs: Iterable[OpCost]) -> list[Metric]:
    """Return `macs`, `macs@int8` and so on (a figure a number format that multiplies at all), and `bytes_moved`.

    `bytes_moved` counts each operator's weights once and its activations as read and written, caches disregarded:
    an upper bound of what passes between processor and memory in one inference.
    """
    macs: dict[str, int] = {}
    moved = 0
    for cost in costs:
        if cost.macs:
            macs[cost.dtype] = macs.get(cost.dtype, 0) + cost.macs
        moved += cost.weight_bytes + cost.activation_bytes
    rows = chain(
        [("macs", sum(macs.values()), "macs")],
        ((f"macs@{dtype}", count, "macs") for dtype, count in sorted(macs.items())),
        [("bytes_moved", moved, "bytes")],
    )
    return [Metric(name=name, value=value, unit=unit, origin="measured") for name, value, unit in rows]
