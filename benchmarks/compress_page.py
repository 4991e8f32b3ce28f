"""What compress.py measured, as the text of docs/compress.md; a part of compress.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

Figures = Mapping[str, Any]


def page(results: Figures) -> str:
    """Return the page; a part that was not run is missing from it, and said to be."""
    written = [_PARTS[name](results[name]) for name in _PARTS if name in results]
    missing = [name for name in _PARTS if name not in results]
    head = [
        "# Smaller networks, and what they lose",
        "",
        "Written by `python benchmarks/compress.py --data ../shared/data`, which also takes single parts (`--parts`)."
        " Measured with one thread, batch one, on the processors and at the commits of the last table. Images are JPEG"
        " CIFAR-10; top-1 is percent of the 8,000 images of `cifar10-report`, whose own standard error is about 0.35"
        " points; settings were chosen on other images. Core-seconds are CPU seconds of whole builds, evaluation"
        " included, on a shared machine.",
        "",
    ]
    if missing:
        head += [f"Not measured yet: {', '.join(missing)}.", ""]
    written.append(_origins({name: results[name] for name in _PARTS if name in results}))
    return "\n".join([*head, *(line for part in written for line in (*part, ""))]).rstrip() + "\n"


def _origins(parts: Mapping[str, Figures]) -> list[str]:
    rows = [(name, f"x86-64 with {found['processor']}", found["commit"]) for name, found in parts.items()]
    return ["## Where these figures come from", "", *_table(("part", "processor", "commit"), rows)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *(f"| {' | '.join(row)} |" for row in rows)]


def _steps(rows: Sequence[Figures]) -> list[str]:
    first = rows[0]
    return _table(
        ("step", "top-1", "same answer", "multiply-adds, M", "size, kB", "smaller", "latency, ms", "faster"),
        [
            (
                row["step"],
                f"{row['top1']:.2f}",
                f"{row['agreement']:.2f}",
                f"{row['macs'] / 1e6:.2f}",
                f"{row['size_bytes'] / 1e3:.1f}",
                f"{first['size_bytes'] / row['size_bytes']:.2f}x",
                f"{row['latency_p50_ms']:.3f}",
                f"{first['latency_p50_ms'] / row['latency_p50_ms']:.2f}x",
            )
            for row in rows
        ],
    )


def _baseline(found: Figures) -> list[str]:
    return [
        "## The baseline: ResNet-56, fine-tuned on JPEG images",
        "",
        f"`{found['command']}`: top-1 {found['top1_before']:.2f} -> {found['top1']:.2f}, {found['core_seconds']}"
        " core-seconds.",
    ]


def _fewer(found: Figures) -> list[str]:
    steps = found["steps"]
    lost = steps[0]["top1"] - next(step for step in steps if step["step"] == "distill")["top1"]
    return [
        f"## ResNet-56 with {steps[0]['macs'] / steps[-1]['macs']:.2f}x fewer multiply-adds",
        "",
        f"`{found['command']}`: {lost:+.2f} points of top-1 lost in float,"
        f" {steps[0]['top1'] - steps[-1]['top1']:+.2f} in int8; {found['core_seconds']} core-seconds." + _remark(found),
        "",
        *_steps(steps),
    ]


def _small(found: Figures) -> list[str]:
    first, last = found["steps"][0], found["steps"][-1]
    return [
        "## One command: smaller and faster at once",
        "",
        f"`{found['command']}`: {first['size_bytes'] / last['size_bytes']:.1f}x smaller,"
        f" {first['latency_p50_ms'] / last['latency_p50_ms']:.2f}x faster than the float file on the same runtime,"
        f" {first['top1'] - last['top1']:+.2f} points of top-1 lost; {found['core_seconds']} core-seconds."
        + _remark(found),
        "",
        *_steps(found["steps"]),
    ]


def _remark(found: Figures) -> str:
    """Return what was written by hand beside a part's figures in compress.json."""
    return f" {found['remark']}" if "remark" in found else ""


def _distillation(found: Figures) -> list[str]:
    rows = []
    for row in found["rows"]:
        taught, labels = row["teacher"], row["labels"]
        gain = mean(taught["top1"]) - mean(labels["top1"])
        for name, kind in (("with the teacher", taught), ("labels alone", labels)):
            seeds = ", ".join(f"{value:.2f}" for value in kind["top1"])
            is_taught = kind is taught
            rows.append(
                (
                    f"{row['share']} ({row['samples']} images)",
                    name,
                    str(kind["epochs"]),
                    seeds,
                    f"{mean(kind['top1']):.2f}",
                    f"{gain:+.2f}" if is_taught else "",
                    str(kind["core_seconds"]),
                )
            )
    return [
        "## What a teacher is worth",
        "",
        f"ResNet-20 (top-1 {found['teacher']:.2f}) cut by {found['ratio']:g} and trained with equal core-seconds"
        " (`python benchmarks/compress_students.py --data ../shared/data`):",
        "",
        *_table(("training data", "learns", "epochs", "top-1, three seeds", "mean", "gain", "core-seconds"), rows),
    ]


def _joint(found: Figures) -> list[str]:
    rows = found["rows"]
    table = [
        (
            name,
            f"{row['top1']:.2f}",
            f"{row['top1_float'] - row['top1']:+.2f}",
            f"{row['size_bytes'] / 1e3:.1f}",
            f"{row['latency_p50_ms']:.3f}",
            str(row["core_seconds"]),
            f"`{row['command']}`",
        )
        for name, row in rows.items()
    ]
    return [
        "## Cut, distilled and trained on the int8 grid, or not",
        "",
        f"ResNet-20; the float network that came in has {rows['unpruned']['top1_float']:.2f}. The jointly trained int8"
        f" file answers {rows['joint']['agreement_simulated']:.2f} % of the images as the network that was trained."
        + _remark(found),
        "",
        *_table(("recipe", "top-1, int8", "points lost", "size, kB", "latency, ms", "core-seconds", "command"), table),
    ]


def _speed(found: Figures) -> list[str]:
    rows = [
        (
            row["network"],
            row["target"],
            row["precision"],
            f"{row['macs_ratio']:.2f}x",
            f"{row['speedup']:.2f}x",
            f"{100 * row['speedup'] / row['macs_ratio']:.0f} %",
        )
        for row in found["rows"]
    ]
    return [
        "## How much of what multiply-adds promise arrives",
        "",
        "A pruned file against the unpruned one of the same precision, interleaved; 60 % is wanted.",
        "",
        *_table(("network", "target", "precision", "fewer multiply-adds", "faster", "of the promise"), rows),
    ]


def _peers(found: Figures) -> list[str]:
    rows = []
    for name, runs in found["tools"].items():
        float_top1, int8_top1 = (
            [
                next(step["top1"] for step in reversed(run["steps"]) if (step["step"] == "int8") == is_int8)
                for run in runs
            ]
            for is_int8 in (False, True)
        )
        rows.append(
            (
                name,
                f"{runs[0]['steps'][-1]['macs'] / 1e6:.2f}",
                ", ".join(f"{top1:.2f}" for top1 in float_top1),
                f"{mean(float_top1):.2f}",
                ", ".join(f"{top1:.2f}" for top1 in int8_top1),
                f"{mean(int8_top1):.2f}",
                f"{mean(run['core_seconds'] for run in runs):.0f}",
                f"{mean(run['core_seconds'] for run in runs) - found['untrained'][name]:.0f}",
            )
        )
    seeds = f"{len(next(iter(found['tools'].values())))} seeds"
    columns = (
        "cut by",
        "multiply-adds, M",
        f"top-1, float, {seeds}",
        "mean",
        "int8",
        "mean",
        "core-seconds, mean",
        "of training",
    )
    command = found["tools"]["edgeport"][0]["command"]
    return [
        f"## Beside torch-pruning: {_NETWORKS[found['network']]}",
        "",
        "Cut to the same multiply-adds, then trained by the same command with the same teacher (the uncut network),"
        " images and epochs. torch-pruning 1.6.1: GroupNormPruner, uniform ratio, widths in multiples of 8. edgeport:"
        f" `{command}`. Core-seconds are of the cut and the whole build, which evaluates the uncut network too where it"
        " is the one that came in; those of training are what a build without it takes less." + _remark(found),
        "",
        *_table(columns, rows),
    ]


_NETWORKS = {"projected": "ResNet-20 with projections", "mobile": "MobileNetV2-like"}

_PARTS: Mapping[str, Callable[[Figures], list[str]]] = {
    "baseline": _baseline,
    "fewer-2.1": _fewer,
    "fewer-2.6": _fewer,
    "small": _small,
    "distillation": _distillation,
    "joint": _joint,
    "speed": _speed,
    "peers-projected": _peers,
    "peers-mobile": _peers,
}
