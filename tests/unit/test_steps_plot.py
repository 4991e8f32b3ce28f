"""The plot of a build's steps."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from edgeport.report.steps_plot import plot


def row(step: str, top1: float | None, size: int | None, **said: Any) -> dict[str, Any]:
    known = {"step": step, "top1": top1, "agreement": 99.0, "size_bytes": size, "latency_p50_ms": 1.0}
    return {**known, "origin": "measured", **said}


ROWS = [row("float", 90.0, 4000), row("prune", 80.0, 2000), row("distill", 89.0, 2000), row("int8", 88.9, 500)]


def circles(text: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(text)
    found = root.iter("{http://www.w3.org/2000/svg}circle")
    return [(float(circle.attrib["cx"]), float(circle.attrib["cy"])) for circle in found]


def test_each_step_is_a_point_in_both_panels_smaller_further_left_and_better_higher() -> None:
    points = circles(plot({"arm64": ROWS}, model="net"))
    assert len(points) == 2 * len(ROWS)
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = points[: len(ROWS)]
    assert x3 < x2 == x1 < x0
    assert y0 < y2 < y3 < y1  # pixels count downwards
    assert abs((x1 - x3) / (x0 - x1) - 2) < 0.01  # 2000 / 500 is two halvings, 4000 / 2000 is one


def test_without_labels_the_agreement_is_drawn() -> None:
    unlabelled = [row("float", None, 10, agreement=100.0), row("int8", None, 5, agreement=97.0)]
    text = plot({"cpu": unlabelled}, model="net")
    assert "same answer of every step" in text
    assert len(circles(text)) == 4


def test_a_step_without_a_file_has_no_point_and_no_accuracy_at_all_no_plot() -> None:
    assert len(circles(plot({"cpu": [row("float", 90.0, None), *ROWS[1:]]}, model="net"))) == 2 * len(ROWS) - 1
    assert not plot({"cpu": [row("float", None, 10, agreement=None)]}, model="net")
    assert not plot({}, model="net")


def test_what_was_not_measured_says_so_and_names_are_escaped() -> None:
    text = plot(
        {"a<b": [row("float", 100.0, 10, origin="modelled"), row("int8", 99.5, 5, origin="modelled")]}, model="x&y"
    )
    assert "a&lt;b (latency modelled)" in text
    assert "x&amp;y: top-1 of every step" in text
    assert ">100.00<" in text  # no axis goes beyond what there is
