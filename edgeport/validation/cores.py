"""What a file answers on one emulated core in one runtime, beside this machine and beside float PyTorch.

Sums of integers are exact, so LiteRT's int8 outputs have the same bits on every core and on this machine, but for rare
values one step off (of ResNet-20 one output in 2,000; a tie of rounding perhaps, no kernel was looked at).
tflite-runtime 2.14 runs int8 convolutions by ruy instead of XNNPACK, and rounds otherwise everywhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeport.devices import host
from edgeport.devices.agent import agreement_percent
from edgeport.devices.device import Device
from edgeport.profile import Limits
from edgeport.types import Metric, OpCost
from edgeport.validation import parity
from edgeport.validation.accuracy import top1_percent
from edgeport.validation.judge import judge

HOST_RUNTIMES = ("ai-edge-litert", "onnxruntime")  # as on this machine: of these, a figure names the core alone
MACS_BUDGET = 8.2e9  # of one core: 200 images of ResNet-20, 41 M; 7 s on cortex-a76, 22 s on the others
FLOAT_COST = 4  # int8 multiply-adds that take as long to emulate as one in float32 (ResNet-20: 0.1 and 0.3 to 0.5 s)
FEWEST, MOST = 16, 200  # samples
ENOUGH = 100  # samples; on fewer, one answer is more than a point, and chance decides
_Z = 1.96  # standard normal quantile of a two-sided 95 % interval


@dataclass(frozen=True, kw_only=True)
class CoreRun:
    """What one file did on one core.

    Attributes:
        core: QEMU's name.
        runtime: package that ran it.
        runtime_version: its version.
        samples: how many samples it ran.
        identical: of these, how many gave the same bits as on this machine, in every output.
        difference: largest absolute difference of any output value from this machine.
        flips: samples whose top-1 differs from this machine's; None where no output holds class scores.
        agreement: percent of samples with the top-1 of the float network that was lowered, 0..100, or None.
        cosine_min: lowest cosine of any sample's output with that network's.
        top1: percent of samples whose top-1 is their label, 0..100; None without labels.
        top1_here: the same on this machine.
        seconds: wall seconds of the emulated run.
    """

    core: str
    runtime: str
    runtime_version: str
    samples: int
    identical: int
    difference: float
    flips: int | None
    agreement: float | None
    cosine_min: float
    top1: float | None
    top1_here: float | None
    seconds: float


def sample_count(costs: Iterable[OpCost]) -> int:
    """Return how many samples of a file each core runs: fewer the more it multiplies."""
    work = sum(cost.macs if cost.dtype == "int8" else FLOAT_COST * cost.macs for cost in costs)
    return int(min(MOST, max(FEWEST, MACS_BUDGET // max(1, work))))


def spread(count: int, total: int, labels: NDArray[Any] | None) -> NDArray[np.int64]:
    """Return which of `total` samples to run, ascending: evenly spaced, and every class by its share where labels tell.

    Args:
        count: how many; all where there are no more.
        total: number of samples.
        labels: (total,), integers, or None.
    """
    places = np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)
    return places if labels is None else np.sort(np.argsort(labels, kind="stable")[places])


def write_rows(arrays: Sequence[Path], rows: NDArray[np.int64], folder: Path) -> tuple[Path, ...]:
    """Write some rows of each .npy to a file of the same name in `folder`."""
    made = []
    for path in arrays:
        made.append(folder / path.name)
        np.save(made[-1], np.load(path, mmap_mode="r", allow_pickle=False)[rows])
    return tuple(made)


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """What a core's outputs are held against, on the same samples.

    Attributes:
        inputs: an .npy file a network input, (N, ...).
        native: the file's outputs on this machine, an array an output, (N, ...).
        expected: those of float PyTorch, the same shapes.
        labels: (N,) class indices, or None.
    """

    inputs: tuple[Path, ...]
    native: tuple[NDArray[Any], ...]
    expected: tuple[NDArray[Any], ...]
    labels: NDArray[Any] | None = None


def run_on(path: Path, device: Device, yardstick: Yardstick, *, threads: int, io: Path | None = None) -> CoreRun:
    """Run a file on an emulated core and compare.

    Args:
        path: the file.
        device: the core with its runtime.
        yardstick: what to compare with.
        threads: of the runtime.
        io: map of inputs and outputs; None: `io.json` beside the file.

    Raises:
        StageError: the file fails there, or gives other shapes than on this machine, NaN or infinity.
    """
    start = time.perf_counter()
    found = host.run(path, yardstick.inputs, threads=threads, io=io, device=device)
    seconds = time.perf_counter() - start
    outputs, native = found.outputs, yardstick.native
    parity.check_outputs(outputs, native, name=f"{path.name} on {device.name} in {found.runtime}")
    same = np.logical_and.reduce(
        [(ours == theirs).reshape(len(ours), -1).all(axis=1) for ours, theirs in zip(outputs, native, strict=True)]
    )
    pairs = zip(outputs, native, strict=True)
    difference = max(float(np.abs(ours.astype(np.float64) - theirs).max()) for ours, theirs in pairs)
    scores, here = parity.class_scores(outputs), parity.class_scores(native)
    wanted, labels = parity.class_scores(yardstick.expected), yardstick.labels
    return CoreRun(
        core=device.name.rpartition(":")[2],
        runtime=found.runtime,
        runtime_version=found.runtime_version,
        samples=len(same),
        identical=int(same.sum()),
        difference=difference,
        flips=None if scores is None or here is None else int(np.sum(scores.argmax(1) != here.argmax(1))),
        agreement=None if scores is None or wanted is None else agreement_percent(scores, wanted),
        cosine_min=parity.cosine_min(outputs, yardstick.expected),
        top1=None if labels is None or scores is None else top1_percent(scores, labels),
        top1_here=None if labels is None or here is None else top1_percent(here, labels),
        seconds=seconds,
    )


def metrics(runs: Sequence[CoreRun], limits: Limits) -> tuple[Metric, ...]:
    """Return the figures of a file on cores, judged by `limits.min_agreement`.

    Behind the `@` stands the core, where the runtime is this machine's: `agreement@cortex-a53` and `top1@cortex-a53`
    with their 95 % intervals, `logit_difference_max@cortex-a53` and `identical@cortex-a53` (samples with the same bits)
    against this machine, `samples@cortex-a53`. For another runtime stands its name, `agreement@tflite-runtime`: of all
    the cores that it ran on, the worst figure. `agreement` is judged on 100 samples or more; on fewer, where its whole
    interval lies on one side of the limit.
    """
    found: list[Metric] = []
    for run in runs:
        if run.runtime in HOST_RUNTIMES:
            found += _figures([run], run.core, limits)
    for name in dict.fromkeys(run.runtime for run in runs if run.runtime not in HOST_RUNTIMES):
        found += _figures([run for run in runs if run.runtime == name], name, limits)
    return tuple(found)


def _figures(runs: Sequence[CoreRun], name: str, limits: Limits) -> list[Metric]:
    samples = min(run.samples for run in runs)
    agreements = [run.agreement for run in runs if run.agreement is not None]
    top1s = [run.top1 for run in runs if run.top1 is not None]
    found = []
    if agreements:
        found.append(_judged(_share(f"agreement@{name}", min(agreements), samples), samples, limits))
    if top1s:
        found.append(_share(f"top1@{name}", min(top1s), samples))
    rows = (
        ("logit_difference_max", max(run.difference for run in runs), "logits"),
        ("identical", min(run.identical for run in runs), "samples"),
        ("samples", samples, "samples"),
    )
    return [*found, *(Metric(name=f"{key}@{name}", value=v, unit=unit, origin="emulated") for key, v, unit in rows)]


def _share(name: str, percent: float, samples: int) -> Metric:
    return Metric(name=name, value=percent, unit="percent", origin="emulated", interval=interval(percent, samples))


def _judged(metric: Metric, samples: int, limits: Limits) -> Metric:
    if metric.interval is None or limits.min_agreement is None:
        return metric
    judged = judge(metric, at_least=limits.min_agreement)
    ends = {judge(replace(metric, value=end), at_least=limits.min_agreement).passed for end in metric.interval}
    return judged if samples >= ENOUGH or len(ends) == 1 else metric


def interval(percent: float, samples: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share that was seen on some samples, in percent.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) (E. B. Wilson, "Probable inference, the law of succession,
    and statistical inference", J. Am. Stat. Assoc. 22, 1927).
    """
    share, extra = percent / 100, _Z**2 / samples
    half = _Z * math.sqrt(share * (1 - share) / samples + extra / (4 * samples))
    ends = [(share + extra / 2 + sign * half) / (1 + extra) for sign in (-1, 1)]
    return max(0.0, 100 * ends[0]), min(100.0, 100 * ends[1])
