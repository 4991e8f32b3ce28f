"""What an operator's time goes to: arithmetic, moving bytes, or neither.

A roofline made of the file's own operators (Williams, Waterman, Patterson 2009, "Roofline: An Insightful Visual
Performance Model for Multicore Architectures"): the best rates that any of them reaches, in multiply-adds and in bytes
a millisecond, tell what each would need; what takes over twice as long has costs of its own, a call's for example.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeport.formats.slow_spots import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeport.formats import OpTime
    from edgeport.types import OpCost

Bound = Literal["arithmetic", "memory", "overhead"]
SLACK = 2.0  # times what the roofline says; beyond, neither arithmetic nor memory explains the time
WORDS: dict[Bound, str] = {
    "arithmetic": "bound by arithmetic",
    "memory": "bound by memory",
    "overhead": "longer than their arithmetic and bytes explain",
}
NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Share:
    """Operators of one bound, the slowest first.

    Attributes:
        bound: what holds them.
        time_share: of all operators' time, 0..1.
        names: as the runtime calls them.
    """

    bound: Bound
    time_share: float
    names: tuple[str, ...]


def time_shares(costs: Sequence[OpCost], ran: Sequence[OpTime]) -> tuple[Share, ...]:
    """Return where a file's time goes, the largest share first; empty where the runtime tells no times.

    Args:
        costs: rows of the file.
        ran: what its runtime ran.
    """
    needs: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for row in costs:
        macs, size = needs[plain(row.name)]
        needs[plain(row.name)] = macs + row.macs, size + row.weight_bytes + row.activation_bytes
    timed = [(op.name, op.ms, *needs[plain(op.name)]) for op in ran if op.ms]
    total = sum(ms for _, ms, _, _ in timed)
    if not total:
        return ()
    best_macs = max(macs / ms for _, ms, macs, _ in timed) or 1.0
    best_bytes = max(size / ms for _, ms, _, size in timed) or 1.0
    found: dict[Bound, list[tuple[float, str]]] = defaultdict(list)
    for name, ms, macs, size in timed:
        arithmetic, memory = macs / best_macs, size / best_bytes
        bound: Bound = "arithmetic" if arithmetic >= memory else "memory"
        found["overhead" if ms > SLACK * max(arithmetic, memory) else bound].append((ms, name))
    shares = [
        Share(
            bound=bound,
            time_share=sum(ms for ms, _ in members) / total,
            names=tuple(name for _, name in sorted(members, reverse=True)),
        )
        for bound, members in found.items()
    ]
    return tuple(sorted(shares, key=lambda share: -share.time_share))


def sentence(shares: Sequence[Share]) -> str:
    """Return one line for the report."""
    parts = []
    for share in shares:
        more = f" and {len(share.names) - NAMED} more" if len(share.names) > NAMED else ""
        parts.append(f"{share.time_share:.0%} {WORDS[share.bound]} ({', '.join(share.names[:NAMED])}{more})")
    return f"of the operators' time, {', '.join(parts)}"
