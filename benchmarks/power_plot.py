"""The plot of predicted against metered energy, as SVG written by hand; a part of power.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from power_page import Evidence

SIDE, LEFT, TOP, GAP = 330, 70, 60, 80  # pixels
COLOURS = {
    "mobilenet_v1": "#1f77b4",
    "mobilenet_v2": "#2ca02c",
    "mobilenet_v3": "#d62728",
    "efficientnet_lite": "#9467bd",
    "resnet50": "#ff7f0e",
}
BAND = 1.2  # a factor, drawn beside the diagonal


def plot(found: Sequence[Evidence]) -> str:
    """Return an SVG with a panel a system: metered energy to the right, predicted upwards, both logarithmic."""
    width = LEFT + len(found) * SIDE + (len(found) - 1) * GAP + 20
    height = TOP + SIDE + 90
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14">Energy of an inference, mJ: predicted without the network\'s family'
        f" (up) against metered (right); dashed: a factor of {BAND} off</text>",
    ]
    for index, one in enumerate(found):
        parts += _panel(one, LEFT + index * (SIDE + GAP))
    for index, (family, colour) in enumerate(COLOURS.items()):
        x, y = LEFT + index * 165, TOP + SIDE + 60
        parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 9}" y="{y + 4}" font-size="12">{escape(family)}</text>')
    x, y = LEFT, TOP + SIDE + 80
    parts.append(f'<text x="{x}" y="{y}">filled: int8, ring: float32</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(one: Evidence, left: int) -> list[str]:
    metered = [row.energy_nj * 1e-6 for row in one.rows]
    predicted = [value * 1e-6 for value in one.energy]
    low = math.log(min(*metered, *predicted)) - 0.2
    high = math.log(max(*metered, *predicted)) + 0.2

    def across(value: float) -> float:
        return round(left + SIDE * (math.log(value) - low) / (high - low), 1)

    def down(value: float) -> float:
        return round(TOP + SIDE * (high - math.log(value)) / (high - low), 1)

    parts = [
        f'<rect x="{left}" y="{TOP}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#999999"/>',
        f'<text x="{left + SIDE / 2}" y="{TOP - 10}" text-anchor="middle" font-size="12">{escape(one.named)}</text>',
    ]
    for value in [10.0**power for power in range(-2, 6) if low <= math.log(10.0**power) <= high]:
        x, y = across(value), down(value)
        parts.append(f'<line x1="{left}" y1="{y}" x2="{left + SIDE}" y2="{y}" stroke="#eeeeee"/>')
        parts.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{TOP + SIDE}" stroke="#eeeeee"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{value:g}</text>')
        parts.append(f'<text x="{x}" y="{TOP + SIDE + 16}" text-anchor="middle">{value:g}</text>')
    start, end = math.exp(low), math.exp(high)
    for factor, dash in ((1.0, ""), (BAND, "4 3"), (1 / BAND, "4 3")):
        first, last = max(start, start / factor), min(end, end / factor)
        parts.append(
            f'<line x1="{across(first)}" y1="{down(first * factor)}" x2="{across(last)}" y2="{down(last * factor)}"'
            f' stroke="#777777" stroke-dasharray="{dash}"/>'
        )
    for row, x, y in zip(one.rows, metered, predicted, strict=True):
        colour = COLOURS[row.family]
        fill = colour if row.dtype == "int8" else "none"
        parts.append(f'<circle cx="{across(x)}" cy="{down(y)}" r="3.5" fill="{fill}" stroke="{colour}"/>')
    return parts
