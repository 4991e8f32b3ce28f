"""How figures are written for people: a number and its unit."""

from __future__ import annotations


def percent(value: float) -> str:
    """Return such as `87.10 %`."""
    return f"{value:.2f} %"


def milliseconds(value: float) -> str:
    """Return such as `0.346 ms`."""
    return f"{value:.3f} ms"


def millijoules(value: float) -> str:
    """Return such as `12.3 mJ`."""
    return f"{value:.3g} mJ" if value < 1000 else f"{value:.0f} mJ"


def joules(value: float) -> str:
    """Return such as `244800 J`."""
    return f"{value:.0f} J"


def size(value: float) -> str:
    """Return such as `300.8 kB` or `1.20 MB`."""
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def count(value: float) -> str:
    """Return such as `40.55 M` or `8.0 k`."""
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"


def points(value: float) -> str:
    """Return such as `1.50`."""
    return f"{value:.2f}"


def cosine(value: float) -> str:
    """Return such as `0.9981`."""
    return f"{value:.4f}"


def number_of(value: float) -> str:
    """Return such as `30`."""
    return f"{value:.0f}"


def plain(value: float) -> str:
    """Return such as `3.519`."""
    return f"{value:.4g}"


def times(value: float) -> str:
    """Return such as `3.12 x`."""
    return f"{value:.2f} x"
