"""Data caches of processor cores, as the instruction counter models them.

Where an architect offers several sizes, the row has those of the chip that is named. Both levels of the model are
least recently used with lines of 64 bytes; real cores prefetch and choose victims otherwise (Cortex-A76: pseudo LRU),
so misses rank files on one core and are no prediction of its own counters.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Caches:
    """Sizes of a core's data caches.

    Attributes:
        l1d_bytes: first level, data.
        l1d_ways: its associativity.
        l2_bytes: second level.
        l2_ways: its associativity.
        source: where the figures come from.
    """

    l1d_bytes: int
    l1d_ways: int
    l2_bytes: int
    l2_ways: int
    source: str

    @property
    def options(self) -> tuple[str, ...]:
        """As the counter's plugin takes them."""
        return (f"l1={self.l1d_bytes}:{self.l1d_ways}", f"l2={self.l2_bytes}:{self.l2_ways}")


CACHES = {
    "cortex-a7": Caches(
        l1d_bytes=32 << 10, l1d_ways=4, l2_bytes=512 << 10, l2_ways=8,
        source="Cortex-A7 MPCore TRM (Arm DDI 0464), chapters 6 and 7; sizes of BCM2836",
    ),
    "cortex-a53": Caches(
        l1d_bytes=32 << 10, l1d_ways=4, l2_bytes=512 << 10, l2_ways=16,
        source="Cortex-A53 MPCore TRM (Arm DDI 0500), chapters 6 and 7; sizes of BCM2837",
    ),
    "cortex-a72": Caches(
        l1d_bytes=32 << 10, l1d_ways=2, l2_bytes=1 << 20, l2_ways=16,
        source="Cortex-A72 MPCore TRM (Arm 100095), chapters 6 and 7; size of the second level of BCM2711",
    ),
    "cortex-a76": Caches(
        l1d_bytes=64 << 10, l1d_ways=4, l2_bytes=512 << 10, l2_ways=8,
        source="Cortex-A76 TRM (Arm 100798), chapters A6 and A7; size of the second level of BCM2712 and RK3588",
    ),
    "haswell": Caches(
        l1d_bytes=32 << 10, l1d_ways=8, l2_bytes=256 << 10, l2_ways=8,
        source="Intel 64 and IA-32 Architectures Optimization Reference Manual (248966), section on Haswell's caches",
    ),
}  # fmt: skip
