"""The plot of `edgeport debug`: SQNR over the layers, one line a file, as SVG written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from edgeport.stages.pack import DEBUG_PLOT

if TYPE_CHECKING:
    from edgeport.debugging.debug import Debugged
    from edgeport.debugging.study import Study


COLOURS = {"onnxruntime": "#1f77b4", "openvino": "#d62728", "tflite": "#2ca02c"}
LEFT, TOP, HEIGHT, STEP, LEGEND = 60, 40, 320, 22, 24  # pixels
NAME_HEIGHT = 5.2  # pixels a character of a name that stands at 60 degrees
SMALLEST_WIDTH = 640
LOW, HIGH, TICK = -20, 140, 20  # dB
LONGEST_NAME = 36


def write_plot(found: Debugged, folder: Path) -> str:
    """Write `debug.svg` into a folder and return its place, or why it could not be written."""
    place = folder / DEBUG_PLOT
    try:
        place.write_text(plot(found), encoding="utf-8")
    except OSError as error:
        return f"not written: {place}: {error.strerror}"
    return str(place)


def plot(found: Debugged) -> str:
    """Return the text of an SVG file; the first layer that breaks a rule is ringed."""
    width = max(SMALLEST_WIDTH, STEP * len(found.layers))
    below = TOP + HEIGHT + 50 + round(NAME_HEIGHT * min(LONGEST_NAME, max(map(len, found.names.values()))))
    total_width, total_height = LEFT + width + 30, below + LEGEND * len(found.studies)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total_width}" height="{total_height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{total_width}" height="{total_height}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">error of each layer against {escape(found.reference)}, SQNR in dB '
        "(higher is better)</text>",
        *_grid(width),
        *_names(found, width),
    ]
    for index, study in enumerate(found.studies):
        parts += _line(found, study, width, below + LEGEND * index)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(place: int, layers: int, width: int) -> float:
    return round(LEFT + width * (place + 0.5) / layers, 1)


def _y(decibels: float) -> float:
    return round(TOP + HEIGHT * (HIGH - min(HIGH, max(LOW, decibels))) / (HIGH - LOW), 1)


def _grid(width: int) -> list[str]:
    parts = []
    for decibels in range(LOW, HIGH + 1, TICK):
        y = _y(decibels)
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + width}" y2="{y}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{decibels}</text>')
    return parts


def _names(found: Debugged, width: int) -> list[str]:
    parts = []
    for place, key in enumerate(found.layers):
        x, y = _x(place, len(found.layers), width), TOP + HEIGHT + 14
        name = found.names[key]
        name = name if len(name) <= LONGEST_NAME else f"...{name[-LONGEST_NAME:]}"
        parts.append(
            f'<text x="{x}" y="{y}" text-anchor="end" transform="rotate(-60 {x} {y})" font-size="10">'
            f"{escape(name)}</text>"
        )
    return parts


def _line(found: Debugged, study: Study, width: int, legend: int) -> Sequence[str]:
    label = study.file.label
    colour = COLOURS.get(study.file.runtime, "#7f7f7f")
    dash = ' stroke-dasharray="5 4"' if study.file.is_float else ""
    points = {
        key: (_x(place, len(found.layers), width), _y(study.layers[key].whole.sqnr_db))
        for place, key in enumerate(found.layers)
        if key in study.layers
    }
    line = " ".join(f"{x},{y}" for x, y in points.values())
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>']
    parts += [f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}"/>' for x, y in points.values()]
    first = found.verdict.first.get(label)
    said = ""
    if first is not None:
        x, y = points[first.key]
        parts.append(f'<circle cx="{x}" cy="{y}" r="8" fill="none" stroke="{colour}" stroke-width="2"/>')
        said = f": first jump at {first.layer}"
    parts.append(
        f'<line x1="{LEFT}" y1="{legend}" x2="{LEFT + 40}" y2="{legend}" stroke="{colour}" stroke-width="2"{dash}/>'
    )
    parts.append(f'<text x="{LEFT + 50}" y="{legend + 4}" font-size="12">{escape(label + said)}</text>')
    return parts
