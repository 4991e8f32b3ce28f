"""What this machine's processor can do, as far as it decides what can be measured here."""

from __future__ import annotations

from pathlib import Path

VNNI = frozenset({"avx512_vnni", "avx_vnni"})  # the flags that Linux lists for it: products are added in 32 bits


def cpu_features() -> frozenset[str]:
    """Return the flags that Linux lists for the first processor; empty elsewhere."""
    return frozenset(_first("flags", "features").split())


def is_amd() -> bool:
    """Whether AMD made this x86 processor; False where the system does not tell."""
    return _first("vendor_id") == "AuthenticAMD"


def _first(*names: str) -> str:
    """Return what Linux says under one of these names of the first processor; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    line = next((line for line in lines if line.lower().startswith(names)), ":")
    return line.partition(":")[2].strip()


def has_vnni() -> bool:
    """Whether x86 integer kernels add products exactly here; False where the system does not tell."""
    return bool(cpu_features() & VNNI)
