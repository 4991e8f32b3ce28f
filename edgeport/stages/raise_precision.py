"""Hold `--max-drop`: compute the fewest, most sensitive layers of an int8 file in a higher precision.

Choices are made on the tune samples, by running the real file on its real runtime. A sample is *lost* when the float
network names it rightly and the file does not; what the file gains elsewhere does not count, so that the choice does
not rest on luck. Allowed are `max_drop` percent of the samples, rounded down: a limit finer than one sample means none.
Without labels every changed answer counts as lost, which is an upper bound.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeport.devices import host
from edgeport.devices.agent import class_scores_index
from edgeport.errors import ConfigError, LoweringError, StageError
from edgeport.quant.scheme import Raised, Scheme
from edgeport.quant.selection import Sensitivity, Trials, fewest
from edgeport.store import Store, digest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeport.dataset import Dataset
    from edgeport.stages.chain import Chain
    from edgeport.stages.context import Progress
    from edgeport.stages.lower import Lowered
    from edgeport.types import StageRecord

MOST_SAMPLES = 1000  # of the tune data that each file runs; one of them is 0.1 points
SAME_LATENCY = 1.03  # medians of interleaved runs closer than that are equal: the smaller file wins
BENCH_SECONDS = 2.0
CHOICE, SENSITIVITIES = "control.json", "sensitivities.json"

NO_TUNE = (
    "--max-drop: no layers were raised, there are no samples to choose them on;"
    " give --tune DATA, or 10 or more --calibrate samples"
)


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Samples on which layers are chosen, and what float answers on them.

    Attributes:
        inputs: an .npy file a network input, `(N, ...)`, channels first.
        output: index of the network output with class scores.
        scores: `(N, classes)` of the float network that is lowered.
        labels: `(N,)` class indices; None: unknown.
        top1_float: percent that the network that came in names rightly, before any pruning; None: unknown.
    """

    inputs: tuple[Path, ...]
    output: int
    scores: NDArray[np.float32]
    labels: NDArray[np.int64] | None = None
    top1_float: float | None = None

    def lost(self, scores: NDArray[np.float32]) -> int:
        """Return how many samples a file with these scores, `(N, classes)`, loses."""
        answers = self.scores.argmax(axis=1)
        changed = (scores.argmax(axis=1) != answers) | ~np.isfinite(scores).all(axis=1)
        return int(np.sum(changed if self.labels is None else changed & (answers == self.labels)))

    def lost_before(self) -> int:
        """Return how many fewer samples the float network names rightly than the one that came in, at least 0."""
        if self.labels is None or self.top1_float is None:
            return 0
        came_in = round(self.top1_float / 100 * len(self.labels))
        return max(0, came_in - int(np.sum(self.scores.argmax(axis=1) == self.labels)))


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to hold the limit, for the report.

    Attributes:
        limit_points: `--max-drop`.
        samples: tune samples that each file ran; 0: there were none.
        has_labels: whether losses are of right answers; otherwise every changed answer is one.
        lost_before: samples that the float network has lost already, by pruning.
        lost_allowed: samples that lowering may lose; negative: too many are lost already.
        lost_int8: samples that plain int8 loses.
        lost: samples that the chosen file loses.
        raised: provenance key -> format, most sensitive first; empty: plain int8 ships.
        trials: files that were written and run.
        latency_ratio: p50 of the chosen file over that of plain int8, from one interleaved run on this machine.
        rejected: format -> why it was not taken for these layers.
        added_bytes: size of the chosen file minus that of plain int8.
        seconds: wall seconds that the choice took.
    """

    limit_points: float
    samples: int = 0
    has_labels: bool = False
    lost_before: int = 0
    lost_allowed: int = 0
    lost_int8: int = 0
    lost: int = 0
    raised: dict[str, Raised] = {}
    trials: int = 0
    latency_ratio: float = 1.0
    rejected: dict[str, str] = {}
    added_bytes: int = 0
    seconds: float = 0.0

    def to_report(self) -> dict[str, object]:
        """Return the fields and the sentence, JSON values."""
        return {**msgspec.structs.asdict(self), "sentence": self.sentence}

    @property
    def sentence(self) -> str:
        """The report's line."""
        if not self.samples:
            return NO_TUNE
        limit = f"--max-drop {self.limit_points:g}"
        what = "lost" if self.has_labels else "answered otherwise (no labels: an upper bound of the loss)"
        ruler = f"{max(0, self.lost_allowed)} allowed, one is {100 / self.samples:.2g} points"
        if self.lost_allowed < 0:
            return (
                f"{limit} cannot be held: of {self.samples} tune samples the float network has lost {self.lost_before}"
                f" already ({ruler}); no layers were raised"
            )
        if not self.raised:
            held = (
                "held without raising a layer" if self.lost <= self.lost_allowed else "not held with all layers raised"
            )
            return f"{limit} is {held}: {self.lost} of {self.samples} tune samples {what} ({ruler})"
        formats = " and ".join(sorted(set(self.raised.values())))
        return (
            f"{_count(len(self.raised), 'layer')} raised to {formats} ({', '.join(self.raised)}):"
            f" {self.lost_int8} -> {self.lost} of {self.samples} tune samples {what} ({ruler});"
            f" {self.latency_ratio:.2f}x the latency of plain int8 on this machine, {self.added_bytes / 1e3:+.1f} kB"
        )


def scores_output(trace: StageRecord, max_drop: float | None) -> int | None:
    """Return the index of the output with class scores, where there is a limit to hold on it.

    Raises:
        ConfigError: there is a limit, and no output is class scores.
    """
    if max_drop is None:
        return None
    shapes = [(1, *dims) for _, dims, _ in trace.metrics["outputs"]]  # type: ignore[attr-defined]  # JSON rows
    output = class_scores_index(shapes)
    if output is None:
        found = ", ".join("x".join(map(str, shape[1:])) or "scalar" for shape in shapes)
        raise ConfigError(
            f"--max-drop {max_drop:g} is about class scores, and the network has none (outputs a sample: {found});"
            " leave it out"
        )
    return output


def allowed(samples: int, max_drop: float) -> int:
    """Return how many of so many samples `max_drop` percent are, rounded down."""
    return math.floor(samples * max_drop / 100 + 1e-9)  # 0.3 percent of 1000 are 3, and not 2.9999999999999996


def ranked(store: Store, chain: Chain, samples: Dataset, output: int, progress: Progress) -> tuple[str, ...]:
    """Return the layers in the order in which they are raised; computed once for all targets, and kept in the store.

    After each layer comes the one that computes its input, for runtimes whose layers write integers: there the reader
    gains nothing as long as its input has been rounded.

    Args:
        store: where the sensitivities lie.
        chain: ends with the calibrated network.
        samples: the tune samples.
        output: index of the output with class scores.
        progress: where to show progress.
    """
    key = digest("sensitivity", chain.key, samples.digest, output)
    folder = store.get(key)
    if folder is None:
        from edgeport.quant.sensitivity import sensitivities

        found = sensitivities(chain.model(), samples, output=output, progress=progress)
        with store.put(key) as fresh:
            (fresh / SENSITIVITIES).write_bytes(msgspec.json.encode(found))
    else:
        found = msgspec.json.decode((folder / SENSITIVITIES).read_bytes(), type=tuple[Sensitivity, ...])
    pairs = ((one.layer, one.writer) for one in found)
    return tuple(dict.fromkeys(layer for pair in pairs for layer in pair if layer is not None))


class DropControl:
    """Chooses layers for one target after another; what was chosen lies in the store."""

    def __init__(
        self,
        store: Store,
        *,
        max_drop: float,
        tune_key: str,
        tune: Callable[[], Tune],
        ranking: Callable[[], Sequence[str]],
    ) -> None:
        """Set up; nothing is computed yet.

        Args:
            store: where choices lie.
            max_drop: points of top-1 that may be lost.
            tune_key: digest of what `tune` and `ranking` return.
            tune: gives the samples.
            ranking: gives the layers in the order in which they are raised.
        """
        self.store, self.max_drop, self.tune_key = store, max_drop, tune_key
        self.tune, self.ranking = tune, ranking

    def hold(
        self,
        scheme: Scheme,
        write: Callable[[Scheme], Lowered],
        *,
        formats: Sequence[Raised],
        threads: int,
    ) -> tuple[Scheme, Control]:
        """Return the scheme that holds the limit, and what was found out.

        Args:
            scheme: of the plain int8 file.
            write: writes a file, or finds it in the store.
            formats: that the backend can raise layers to; the first holds whatever float32 does.
            threads: of the runtime.

        Raises:
            LoweringError: a file cannot be written.
            StageError: a file does not run.
        """
        plain = write(scheme)
        place = [platform.machine(), platform.node()]
        key = digest("raise", plain.key, self.tune_key, self.max_drop, list(formats), threads, place)
        folder = self.store.get(key)
        if folder is None:
            start = time.perf_counter()
            control = _Search(self, scheme, write, threads).run(formats)
            control = msgspec.structs.replace(control, seconds=time.perf_counter() - start)
            with self.store.put(key) as fresh:
                (fresh / CHOICE).write_bytes(msgspec.json.encode(control))
        else:
            control = msgspec.json.decode((folder / CHOICE).read_bytes(), type=Control)
        return replace(scheme, raised={**scheme.raised, **control.raised}), control


class _Search:
    """The choice for one target."""

    def __init__(self, control: DropControl, scheme: Scheme, write: Callable[[Scheme], Lowered], threads: int) -> None:
        self.control, self.scheme, self.write, self.threads = control, scheme, write, threads
        self.tune = control.tune()
        self.allowed = allowed(len(self.tune.scores), control.max_drop) - self.tune.lost_before()
        self.counts: dict[str, int] = {}

    def run(self, formats: Sequence[Raised]) -> Control:
        tune = self.tune
        found = Control(
            limit_points=self.control.max_drop,
            samples=len(tune.scores),
            has_labels=tune.labels is not None,
            lost_before=tune.lost_before(),
            lost_allowed=self.allowed,
        )
        lost = self.lost(self.scheme)
        found = msgspec.structs.replace(found, lost_int8=lost, lost=lost, trials=len(self.counts))
        if lost <= self.allowed or self.allowed < 0:
            return found
        order = [layer for layer in self.control.ranking() if layer not in self.scheme.raised]
        trials = Trials(lambda layers: self.lost(self.with_raised(layers, formats[0])) <= self.allowed)
        layers = fewest(order, trials)
        if layers is None:
            return msgspec.structs.replace(found, trials=len(self.counts))
        return self.in_best_format(found, layers, formats)

    def with_raised(self, layers: Sequence[str] | frozenset[str], form: Raised) -> Scheme:
        return replace(self.scheme, raised={**self.scheme.raised, **dict.fromkeys(sorted(layers), form)})

    def lost(self, scheme: Scheme) -> int:
        """Write a file, run it, and return how many samples it loses."""
        file = self.write(scheme)
        if file.key not in self.counts:
            outputs = host.run(file.artifact.path, self.tune.inputs, threads=self.threads).outputs
            self.counts[file.key] = self.tune.lost(outputs[self.tune.output])
        return self.counts[file.key]

    def in_best_format(self, found: Control, layers: tuple[str, ...], formats: Sequence[Raised]) -> Control:
        """Return the finding with the layers in the fastest format that holds; of equally fast ones the smallest."""
        rejected: dict[str, str] = {}
        holding = {formats[0]: self.with_raised(layers, formats[0])}
        for form in formats[1:]:
            scheme = self.with_raised(layers, form)
            try:
                lost = self.lost(scheme)
            except (LoweringError, StageError) as error:
                rejected[form] = str(error)
                continue
            if lost <= self.allowed:
                holding[form] = scheme
            else:
                rejected[form] = f"{lost} samples lost"
        files = {form: self.write(scheme) for form, scheme in holding.items()}
        plain = self.write(self.scheme)
        paths = [file.artifact.path for file in (plain, *files.values())]
        timings = host.bench(paths, threads=self.threads, inputs=self.tune.inputs, seconds=BENCH_SECONDS)
        ratios = dict(zip(files, (timing.p50_ms / timings[0].p50_ms for timing in timings[1:]), strict=True))
        best = best_format(ratios, {form: file.artifact.size_bytes for form, file in files.items()})
        rejected |= {
            form: f"{ratio:.2f}x the latency of plain int8, {files[form].artifact.size_bytes} bytes"
            for form, ratio in ratios.items()
            if form != best
        }
        return msgspec.structs.replace(
            found,
            raised=dict.fromkeys(layers, best),
            lost=self.lost(holding[best]),
            trials=len(self.counts),
            latency_ratio=ratios[best],
            rejected=rejected,
            added_bytes=files[best].artifact.size_bytes - plain.artifact.size_bytes,
        )


def best_format(ratios: Mapping[Raised, float], sizes: Mapping[Raised, int]) -> Raised:
    """Return the smallest of the formats that are as fast as the fastest; of equal ones the first.

    Args:
        ratios: format -> latency of its file over that of plain int8.
        sizes: format -> bytes of its file.
    """
    fastest = min(ratios.values())
    return min((form for form in ratios if ratios[form] <= fastest * SAME_LATENCY), key=lambda form: sizes[form])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
