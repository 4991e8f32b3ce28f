"""What this machine's processor can do, as far as it decides what can be measured here."""

from __future__ import annotations

from pathlib import Path

VNNI = frozenset({"avx512_vnni", "avx_vnni"})  # the flags that Linux lists for it: products are added in 32 bits


def cpu_features() -> frozenset[str]:
    """Return the flags that Linux lists for the first processor; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), ":")
    return frozenset(flags.partition(":")[2].split())


def has_vnni() -> bool:
    """Whether x86 integer kernels add products exactly here; False where the system does not tell."""
    return bool(cpu_features() & VNNI)
