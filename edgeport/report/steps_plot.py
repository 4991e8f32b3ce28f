"""The plot of a build's steps: accuracy against size and against latency, a line a target, as SVG written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from edgeport.report import units

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf")
LEFT, TOP, WIDTH, HEIGHT, GAP, LEGEND = 70, 60, 420, 300, 90, 22  # pixels
TICKS = 5
MARGIN = 0.08  # of the accuracies' span, above and below
LEAST_SPAN = 1.0  # points: smaller differences should look small

Rows = Sequence[Mapping[str, Any]]  # of one target, as `edgeport.report.table.ablation_rows` has them
Panel = tuple[str, str, Callable[[float], str]]  # title, key of the rows, how its values are written

PANELS: tuple[Panel, ...] = (
    ("size of the file", "size_bytes", units.size),
    ("latency p50, batch one", "latency_p50_ms", units.milliseconds),
)


def plot(found: Mapping[str, Rows], *, model: str) -> str:
    """Return the text of an SVG file; empty where no step has an accuracy.

    Accuracy is top-1, or without labels the share of samples answered as the network that came in does. Sizes and
    latencies are on logarithmic axes.

    Args:
        found: target -> its rows.
        model: what was built, for the title.
    """
    key, name = ("top1", "top-1") if _values(found, "top1") else ("agreement", "same answer")
    accuracies = _values(found, key)
    if not accuracies:
        return ""
    low, high = _span(accuracies)
    width = LEFT + len(PANELS) * WIDTH + (len(PANELS) - 1) * GAP + 30
    height = TOP + HEIGHT + 60 + LEGEND * len(found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14">{escape(model)}: {name} of every step, percent</text>',
    ]
    for index, panel in enumerate(PANELS):
        if _values(found, panel[1]):
            parts += _panel(found, panel, key, (low, high), LEFT + index * (WIDTH + GAP))
    for index, target in enumerate(found):
        y = TOP + HEIGHT + 55 + LEGEND * index
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + 30}" y2="{y}" stroke="{colour}" stroke-width="2"/>')
        said = "" if found[target][-1]["origin"] == "measured" else f" (latency {found[target][-1]['origin']})"
        parts.append(f'<text x="{LEFT + 38}" y="{y + 4}" font-size="12">{escape(target + said)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _values(found: Mapping[str, Rows], key: str) -> list[float]:
    return [row[key] for rows in found.values() for row in rows if row[key] is not None]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    extra = max(MARGIN * (high - low), (LEAST_SPAN - (high - low)) / 2, 0.0)
    return low - extra, min(100.0, high + extra)


def _panel(found: Mapping[str, Rows], panel: Panel, accuracy: str, span: tuple[float, float], left: float) -> list[str]:
    title, key, write = panel
    values = _values(found, key)
    low, high = math.log(min(values)) - 0.1, math.log(max(values)) + 0.1

    def across(value: float) -> float:
        return round(left + WIDTH * (math.log(value) - low) / (high - low), 1)

    def down(value: float) -> float:
        return round(TOP + HEIGHT * (span[1] - value) / (span[1] - span[0]), 1)

    parts = [
        f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999999"/>',
        f'<text x="{left + WIDTH / 2}" y="{TOP - 10}" text-anchor="middle" font-size="12">{escape(title)}</text>',
    ]
    for index in range(TICKS):
        value = span[0] + (span[1] - span[0]) * index / (TICKS - 1)
        y = down(value)
        parts.append(f'<line x1="{left}" y1="{y}" x2="{left + WIDTH}" y2="{y}" stroke="#eeeeee"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{value:.2f}</text>')
        place = math.exp(low + (high - low) * index / (TICKS - 1))
        x = across(place)
        parts.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{TOP + HEIGHT}" stroke="#eeeeee"/>')
        parts.append(f'<text x="{x}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{escape(write(place))}</text>')
    for index, rows in enumerate(found.values()):
        known = [row for row in rows if row[key] is not None and row[accuracy] is not None]
        points = [(across(row[key]), down(row[accuracy]), row["step"]) for row in known]
        parts += _line(points, COLOURS[index % len(COLOURS)], is_named=index == 0)
    return parts


def _line(points: Sequence[tuple[float, float, str]], colour: str, *, is_named: bool) -> list[str]:
    """Draw one target's steps; the first target's points are named, the others lie near them."""
    line = " ".join(f"{x},{y}" for x, y, _ in points)
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-opacity="0.6"/>']
    for place, (x, y, step) in enumerate(points):
        parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>')
        if is_named:
            label = step if place == 0 else f"+ {step}"
            parts.append(f'<text x="{x + 7}" y="{y - 6}" fill="{colour}">{escape(label)}</text>')
    return parts
