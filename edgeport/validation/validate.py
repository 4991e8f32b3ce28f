"""Runs a target's files on their real runtime and says how good, fast and big they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeport.devices import host, rapl
from edgeport.profile import TargetProfile
from edgeport.types import Artifact, Metric, OpCost, Origin
from edgeport.validation import accuracy, energy, latency, memory, parity
from edgeport.validation.exact import write_exact
from edgeport.validation.judge import judge_all
from edgeport.validation.origin import lacks_vnni, origin_on_host

FLOAT = "@float32"  # names of the float file's own figures end with this
_TIMED_ENOUGH = 40  # inferences; fewer samples than that are followed by a timing of their own
_COUNTED_SECONDS = (0.2, 2.0)  # of the runs whose energy is counted
_ROUNDS = 30  # of that timing, at most; a second at most too
_MEMORY_SAMPLES = 10  # inferences after which the peak memory of a batch-one file has settled


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the files are held against.

    Attributes:
        outputs: of the float network that was lowered, in torch; an array a network output, (N, ...).
        labels: (N,) class indices; None: unknown.
        top1_float: percent of the original network, before any pruning, on the same samples; None: not known.
        answers: name -> (N,) classes that another network answers: `original`, the one that came in, where that is not
            the one lowered; `simulated`, the int8 network that quantization-aware training saw.
    """

    outputs: tuple[NDArray[Any], ...]
    labels: NDArray[Any] | None = None
    top1_float: float | None = None
    answers: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def validate(  # noqa: PLR0913  the eight things that a verdict is about
    artifact: Artifact,
    float_artifact: Artifact,
    *,
    inputs: tuple[Path, ...],
    reference: Reference,
    profile: TargetProfile,
    costs: tuple[OpCost, ...],
    float_costs: tuple[OpCost, ...] = (),
    max_drop: float | None = None,
    per_day: int | None = None,
    float_samples: int | None = None,
) -> tuple[Metric, ...]:
    """Return every figure of a target's file, judged by the target's limits.

    The file and the float file run over the samples in one process, ten samples each in turn, which gives outputs and
    interleaved latencies at once; another short process gives the float file's peak memory. `io.json` beside the files
    maps their tensors. A file made for VNNI, on a processor without, is judged by a rewritten form that cannot saturate
    (`validation.exact`); its latency is that of the file itself.

    Args:
        artifact: the file that ships.
        float_artifact: the float file of the same network; may be `artifact` itself, which then runs once.
        inputs: an .npy file a network input, (N, ...), channels first; row i belongs to row i of the reference.
        reference: outputs, labels and accuracy of torch.
        profile: the target.
        costs: operators of `artifact`, read from the file.
        float_costs: operators of `float_artifact`.
        max_drop: points of top-1 that may be lost, over the target's limit.
        per_day: inferences a day, for the energy of one.
        float_samples: how many of the first samples the float file runs (its only fault can be a wrong conversion, and
            that shows on few); None: all. On fewer than all there is no `top1@float32`.

    Raises:
        StageError: a file fails in its runtime, or gives other shapes than torch, NaN or infinity.
        MissingPackageError: the runtime is not installed.
    """
    origin = origin_on_host(profile)
    is_alone = artifact.path == float_artifact.path
    paths = (artifact.path,) if is_alone else (artifact.path, float_artifact.path)
    count = len(reference.outputs[0])
    float_count = count if float_samples is None else min(count, float_samples)
    results = host.run_together(paths, inputs, threads=profile.threads, samples=(count, float_count)[: len(paths)])
    found, float_found = results[0], results[-1]
    outputs = _exact_outputs(artifact.path, inputs, profile) if lacks_vnni(profile) else None
    outputs = found.outputs if outputs is None else outputs
    float_reference = tuple(output[:float_count] for output in reference.outputs)
    parity.check_outputs(float_found.outputs, float_reference, name=float_artifact.path.name)
    parity.check_outputs(outputs, reference.outputs, name=artifact.path.name)

    metrics = _accuracy(outputs, reference, origin)
    metrics += parity.metrics(outputs, reference.outputs, origin=origin)
    metrics += _same_answers(outputs, reference, origin)
    timings = [result.timing for result in results]
    if min(timing.samples for timing in timings) < _TIMED_ENOUGH:
        timings = list(host.bench(paths, threads=profile.threads, inputs=inputs, rounds=_ROUNDS))
    is_predicted = profile.cost is not None and origin != "measured"
    metrics += latency.metrics(
        timings[0], None if is_alone else timings[1], origin=origin, at=latency.HOST if is_predicted else ""
    )
    beside = None if is_alone else float_costs
    if is_predicted or profile.boards:
        metrics += latency.modelled(profile, costs, beside)
    metrics += memory.size_metrics(artifact, None if is_alone else float_artifact)
    metrics += memory.ram_metrics(artifact)
    metrics += memory.peak_metrics(found.peak_rss_bytes, origin=origin)
    metrics += energy.metrics(costs)
    counted = _energy_here(paths, inputs, profile) if origin == "measured" else []
    metrics += counted
    metrics += energy.modelled(profile, costs, beside, per_day=per_day)
    if not counted and not profile.cost_models:
        metrics += energy.by_time(metrics)
    if not is_alone:
        metrics += _float_top1(float_found.outputs, reference, origin)
        short = host.run(
            float_artifact.path, inputs, threads=profile.threads, samples=min(float_count, _MEMORY_SAMPLES)
        )
        metrics += memory.peak_metrics(short.peak_rss_bytes, origin=origin, suffix=FLOAT)
    metrics += parity.metrics(float_found.outputs, float_reference, origin=origin, suffix=FLOAT)
    return judge_all(metrics, profile.limits, max_drop=max_drop, boards=profile.boards)


def _energy_here(paths: tuple[Path, ...], inputs: tuple[Path, ...], profile: TargetProfile) -> list[Metric]:
    """Return what this processor's own counter says of the file, and of the float file; nothing where it has none."""
    if rapl.Counter().joules() is None:
        return []
    joules = [_joules(path, inputs, profile) for path in paths]
    return energy.measured(*joules) if all(one > 0 for one in joules) else []


def _joules(path: Path, inputs: tuple[Path, ...], profile: TargetProfile) -> float:
    """Return what the counter says of an inference, joules; 0 where it did not rise."""
    found = []
    for seconds in _COUNTED_SECONDS:  # the difference of a long run and a short one leaves loading the file out
        counter = rapl.Counter()
        timing = host.bench((path,), threads=profile.threads, inputs=inputs, seconds=seconds)[0]
        found.append((counter.joules() or 0.0, timing.samples))
    (short, few), (long, many) = found
    return (long - short) / (many - few) if many > few else 0.0


def _exact_outputs(path: Path, inputs: tuple[Path, ...], profile: TargetProfile) -> tuple[NDArray[Any], ...] | None:
    """Return what a file made for VNNI gives where products are added exactly; None where it gives the same here."""
    with TemporaryDirectory(prefix="edgeport-") as folder:
        exact = Path(folder) / path.name
        if not write_exact(path, exact):
            return None
        return host.run(exact, inputs, threads=profile.threads, io=path.with_name("io.json")).outputs


def _accuracy(outputs: Sequence[NDArray[Any]], reference: Reference, origin: Origin) -> list[Metric]:
    """Return `top1`, `top1_float` and `top1_drop` where there are labels and class scores."""
    scores = parity.class_scores(outputs)
    if reference.labels is None or scores is None:
        return []
    top1 = accuracy.top1_percent(scores, reference.labels)
    found = [Metric(name="top1", value=top1, unit="percent", origin=origin)]
    if reference.top1_float is not None:
        drop = reference.top1_float - top1
        found.append(Metric(name="top1_float", value=reference.top1_float, unit="percent", origin=origin))
        found.append(Metric(name="top1_drop", value=drop, unit="points", origin=origin))
    return found


def _same_answers(outputs: Sequence[NDArray[Any]], reference: Reference, origin: Origin) -> list[Metric]:
    """Return `agreement@original` and `agreement@simulated`: samples that another network answers alike."""
    scores = parity.class_scores(outputs)
    if scores is None:
        return []
    same = {name: float(100 * np.mean(scores.argmax(1) == answers)) for name, answers in reference.answers.items()}
    return [
        Metric(name=f"agreement@{name}", value=value, unit="percent", origin=origin) for name, value in same.items()
    ]


def _float_top1(outputs: Sequence[NDArray[Any]], reference: Reference, origin: Origin) -> list[Metric]:
    scores = parity.class_scores(outputs)
    if reference.labels is None or scores is None or len(scores) != len(reference.labels):
        return []
    top1 = accuracy.top1_percent(scores, reference.labels)
    return [Metric(name=f"top1{FLOAT}", value=top1, unit="percent", origin=origin)]
