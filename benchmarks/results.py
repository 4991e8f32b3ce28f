"""What the builds of the acceptance networks give; writes docs/results.md.

    python benchmarks/results.py --data ../shared/data [--only resnet20]

`--data` is a folder with `zoo.py` and `recipes/`. Every row of the page comes with the command that made it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ALL = ("--target", "arm64,intel,cpu")
TWO_INPUTS = ((3, 12, 12), (5,))  # of the network with two inputs
SHOWN = "../shared/data"  # how the data folder is written in the page's commands
NAMES = ("top1_float", "top1", "top1_drop", "agreement", "cosine_min", "speedup", "compression", "macs")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One build: its name, what is built from which data, and what its int8 files must reach on every target."""

    name: str
    model: str
    options: tuple[str, ...]
    at_least: Mapping[str, float]
    at_most: Mapping[str, float]
    compression: Mapping[str, float]


def recipes(base: str, *, evaluate: str = "evaluate") -> tuple[str, ...]:
    """Return the data options of a family of recipes."""
    return ("--calibrate", f"DATA/recipes/{base}-calibrate.toml", "--evaluate", f"DATA/recipes/{base}-{evaluate}.toml")


CASES = (
    Case(
        name="digits (embedded default)",
        model="",
        options=ALL,
        at_least={"agreement": 97.0, "speedup": 1.0},
        at_most={"top1_drop": 1.0},
        compression={},
    ),
    Case(
        name="resnet20",
        model="DATA/zoo.py:resnet20_jpeg",
        options=(*ALL, *recipes("cifar10")),
        at_least={"agreement": 97.0, "speedup": 1.0},
        at_most={"top1_drop": 0.5},
        compression={"arm64": 3.3, "cpu": 3.1, "intel": 2.6},
    ),
    Case(
        name="efficientnet_lite0",
        model="DATA/zoo.py:efficientnet_lite0",
        options=(*ALL, *recipes("imagenet")),
        at_least={"agreement": 96.5, "speedup": 1.0},
        at_most={"top1_drop": 1.0},
        compression={"arm64": 3.4, "cpu": 3.4, "intel": 3.4},
    ),
    Case(
        name="resnet20, unpruned, on cifar10-report",
        model="DATA/zoo.py:resnet20_jpeg",
        options=(*ALL, *recipes("cifar10", evaluate="report")),
        at_least={"agreement": 97.0, "speedup": 1.0},
        at_most={"top1_drop": 0.5},
        compression={},
    ),
    Case(
        name="resnet20, pruned 0.4, distilled 3",
        model="DATA/zoo.py:resnet20_jpeg",
        options=(
            *ALL,
            *recipes("cifar10", evaluate="report"),
            *("--prune", "0.4", "--distill", "3", "--train", "DATA/recipes/cifar10-train.toml", "--max-drop", "2"),
        ),
        at_least={"agreement": 95.0, "speedup": 1.0},
        at_most={"top1_drop": 2.0},
        compression={},
    ),
    Case(
        name="anomaly_autoencoder",
        model="DATA/zoo.py:anomaly_autoencoder",
        options=(*ALL, "--calibrate", "WORK/anomaly-calibrate.npz", "--evaluate", "WORK/anomaly-evaluate.npz"),
        at_least={"cosine_min": 0.95},
        at_most={},
        compression={},
    ),
    Case(
        name="two inputs, two outputs",
        model="tests/e2e/e2e_networks.py:two_by_two",
        options=(*ALL, "--calibrate", "WORK/two-calibrate.npz", "--evaluate", "WORK/two-evaluate.npz"),
        at_least={"cosine_min": 0.95},
        at_most={},
        compression={},
    ),
)


def build(case: Case, data: Path, work: Path) -> dict[str, object]:
    """Build a case and return its report."""
    model = [case.model] if case.model else []
    places = {"DATA": str(data), "WORK": str(work)}
    arguments = [_placed(word, places) for word in (*model, *case.options)]
    command = [sys.executable, "-m", "edgeport", "build", *arguments, "--output", str(work / "out"), "--json"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=False, cwd=ROOT
    )
    if done.returncode not in (0, 6):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    report: dict[str, object] = json.loads(done.stdout)
    return report


def _placed(word: str, places: Mapping[str, str]) -> str:
    for name, path in places.items():
        word = path + word.removeprefix(name) if word.startswith(f"{name}/") else word
    return word


def command_line(case: Case) -> str:
    """Return the command as a reader would type it."""
    words = [case.model, *case.options] if case.model else list(case.options)
    return "edgeport build " + " ".join(_placed(word, {"DATA": SHOWN, "WORK": "."}) for word in words)


def figures(report: Mapping[str, object]) -> dict[str, dict[str, tuple[float, str]]]:
    """Return target -> figure -> (value, origin)."""
    targets = report["targets"]
    assert isinstance(targets, dict)
    return {
        target: {metric["name"]: (metric["value"], metric["origin"]) for metric in found["metrics"]}
        for target, found in targets.items()
    }


def failures(case: Case, found: Mapping[str, Mapping[str, tuple[float, str]]]) -> list[str]:
    """Return what a case does not reach, a sentence each."""
    missed = []
    for target, metrics in found.items():
        floors = {**case.at_least, **({"compression": case.compression[target]} if target in case.compression else {})}
        for name, limit in floors.items():
            if name in metrics and metrics[name][0] < limit:
                missed.append(f"{case.name}, {target}: {name} {metrics[name][0]:.4g} is below {limit:g}")
        for name, limit in case.at_most.items():
            if name in metrics and metrics[name][0] > limit:
                missed.append(f"{case.name}, {target}: {name} {metrics[name][0]:.4g} is above {limit:g}")
        if not metrics:
            missed.append(f"{case.name}, {target}: not built")
    return missed


def rows(found: Mapping[str, Mapping[str, tuple[float, str]]]) -> list[str]:
    """Return the lines of a case's table."""
    lines = [f"| target | {' | '.join(NAMES)} | latency p50, ms | float p50, ms |", "|---" * (len(NAMES) + 3) + "|"]
    for target, metrics in found.items():
        cells = [f"{metrics[name][0]:.6g}" if name in metrics else "-" for name in NAMES]
        times = [
            f"{metrics[name][0]:.3f} ({metrics[name][1]})" if name in metrics else "-"
            for name in ("latency_p50_ms", "latency_float_p50_ms")
        ]
        lines.append(f"| {target} | {' | '.join([*cells, *times])} |")
    return lines


def make_data(work: Path) -> None:
    """Write seeded float inputs for the networks that have no labelled data."""
    for use, seed, count in (("calibrate", 0, 200), ("evaluate", 1, 400)):
        random = np.random.default_rng(seed)
        np.savez(work / f"anomaly-{use}.npz", x=random.normal(size=(count, 640)).astype(np.float32))
        pair = [random.normal(size=(count, *shape)).astype(np.float32) for shape in TWO_INPUTS]
        np.savez(work / f"two-{use}.npz", x0=pair[0], x1=pair[1])


def main() -> None:
    """Build every case and write the page; ends with 1 when a case misses its floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default="", help="build only cases whose name contains this; the page is not written")
    arguments = parser.parse_args()
    lines = [
        "# Results",
        "",
        f"Written by `python benchmarks/results.py --data {SHOWN}`. JPEG CIFAR-10 and ImageNet samples; accuracy in",
        "percent, drops in points, against the float PyTorch network on the same samples. One thread. Latencies are",
        "interleaved medians of one run; `modelled` means that another processor than the target's stood in.",
    ]
    missed: list[str] = []
    latency: dict[str, float] = {}
    with TemporaryDirectory(prefix="edgeport-results-") as folder:
        work = Path(folder)
        make_data(work)
        for case in CASES:
            if arguments.only not in case.name:
                continue
            report = build(case, arguments.data.resolve(), work)
            found = figures(report)
            missed += failures(case, found)
            lines += ["", f"## {case.name}", "", f"    {command_line(case)}", "", *rows(found), *prune_lines(report)]
            latency[case.name] = found["arm64"]["latency_p50_ms"][0]
            sys.stderr.write("\n".join([f"## {case.name}", *rows(found), ""]))
    missed += slower_pruned(latency)
    lines += ["", "Every stated floor is reached." if not missed else "Missed:", *(f"- {line}" for line in missed)]
    if not arguments.only:
        (ROOT / "docs" / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(1 if missed else 0)


def prune_lines(report: Mapping[str, object]) -> list[str]:
    """Return what pruning did, if it ran."""
    stages = report["stages"]
    assert isinstance(stages, list)
    return [
        f"\nPruning: {stage['metrics']['macs_before'] / stage['metrics']['macs_after']:.2f}x fewer multiply-adds "
        f"({stage['metrics']['macs_before']} -> {stage['metrics']['macs_after']}), "
        f"parameters {stage['metrics']['parameters_before']} -> {stage['metrics']['parameters_after']}."
        for stage in stages
        if stage["name"] == "prune"
    ]


def slower_pruned(latency: Mapping[str, float]) -> list[str]:
    """Return a sentence when the pruned int8 TFLite file is not faster than the unpruned one."""
    pruned = [value for name, value in latency.items() if "pruned 0.4" in name]
    whole = [value for name, value in latency.items() if "unpruned" in name]
    if pruned and whole and pruned[0] >= whole[0]:
        return [f"pruned int8 TFLite {pruned[0]:.3f} ms is not faster than unpruned {whole[0]:.3f} ms"]
    return []


if __name__ == "__main__":
    main()
