"""What a teacher is worth: a pruned ResNet-20 trained with it and by labels alone; a part of compress.py.

    python benchmarks/compress_students.py --data ../shared/data

Equal budgets are equal core-seconds: labels alone take no teacher's time, so they get more epochs. Prints JSON: top-1
on `cifar10-report`, percent, a value a seed, and the core-seconds of all seeds together.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeport.dataset import Dataset, open_dataset
from edgeport.graph.network import load_network
from edgeport.stages.context import SILENT, Context
from edgeport.stages.distill import Distill
from edgeport.stages.prune import Prune
from edgeport.stages.trace import Trace
from edgeport.types import Model
from edgeport.validation.accuracy import top1_percent
from edgeport.validation.reference import float_outputs

SEEDS = (0, 1, 2)
RATIO = 0.5
CASES = {  # share of the training set -> (samples, epochs with the teacher, epochs with labels alone)
    "a third": (15_000, 2, 3),
    "3 %": (1_350, 20, 30),
}


def student_of(teacher: Model, data: Dataset) -> Model:
    """Return the pruned network that all trainings start from."""
    pruned, _ = Prune(ratio=RATIO)(teacher, Context(train=data))
    return pruned


def trained(student: Model, stage: Distill, context: Context, *, seed: int) -> Model:
    """Return the student after a training."""
    return stage(student, replace(context, seed=seed))[0]


def main() -> None:
    """Train all students and print what they reach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data: Path = parser.parse_args().data
    torch.set_num_threads(1)
    whole, report = (open_dataset(str(data / "recipes" / f"cifar10-{use}.toml")) for use in ("train", "report"))
    sample = next(report.batches(1)).inputs[0]
    network = load_network(f"{data / 'zoo.py'}:resnet20_jpeg", None, seed=0)
    teacher, _ = Trace()(network, (torch.from_numpy(np.ascontiguousarray(sample)),))
    labels = report.labels()
    if labels is None:
        raise SystemExit("cifar10-report has no labels")

    def top1(model: Model) -> float:
        return top1_percent(float_outputs(model, report, SILENT, "")[0], labels)

    found: dict[str, Any] = {"teacher": top1(teacher), "ratio": RATIO, "rows": []}
    for share, (count, epochs, label_epochs) in CASES.items():
        subset = whole.subset(slice(0, count))
        student = student_of(teacher, subset)
        row: dict[str, Any] = {"share": share, "samples": count, "untrained": top1(student)}
        for kind, (number, hard_labels) in {"teacher": (epochs, 0.1), "labels": (label_epochs, 1.0)}.items():
            started = time.process_time()
            stage, context = Distill(epochs=number, hard_labels=hard_labels), Context(teachers=(teacher,), train=subset)
            models = [trained(student, stage, context, seed=seed) for seed in SEEDS]
            seconds = round(time.process_time() - started)
            row[kind] = {"epochs": number, "top1": [top1(model) for model in models], "core_seconds": seconds}
            sys.stderr.write(f"{share}, {kind}: {row[kind]}\n")
        found["rows"].append(row)
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
