"""Hold `--max-drop`: compute the fewest, most sensitive layers of an int8 file in a higher precision.

Choices are made on the tune samples, by running the real file on its real runtime. A limit within chance (see
`edgeport.stages.tune_loss`) cannot be told from luck on these samples. Then layers whose noise stands out are raised
all the same: a file holds only if it differs from float on no more samples than it does, up to chance, with all of
them raised.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from edgeport.devices import host
from edgeport.errors import LoweringError, StageError
from edgeport.quant.scheme import Raised, Scheme
from edgeport.quant.selection import Ranking, Sensitivity, Trials, fewest, rank
from edgeport.stages.tune_loss import Loss, Tune, allowed
from edgeport.store import Store, digest

if TYPE_CHECKING:
    from edgeport.dataset import Dataset
    from edgeport.stages.chain import Chain
    from edgeport.stages.context import Progress
    from edgeport.stages.lower import Lowered

SAME_LATENCY = 1.03  # medians of interleaved runs closer than that are equal: the smaller file wins
BENCH_SECONDS = 2.0
CHOICE, SENSITIVITIES = "control.json", "sensitivities.json"

NO_TUNE = (
    "--max-drop: no layers were raised, there are no samples to choose them on;"
    " give --tune DATA, or 10 or more --calibrate samples"
)


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to hold the limit, for the report.

    Attributes:
        limit_points: `--max-drop`.
        samples: tune samples that each file ran; 0: there were none.
        has_labels: whether losses are of right answers; otherwise every changed answer is one.
        changed: samples that only one of float network and chosen file names rightly.
        lost_before: samples that the float network has lost already, by pruning.
        lost_allowed: samples that lowering may lose; negative: too many are lost already.
        lost_int8: samples fewer that plain int8 names rightly; negative: more.
        lost: samples fewer that the chosen file names rightly.
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
    changed: int = 0
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
        if self.has_labels and self.changed:
            ruler += f", chance alone makes {100 * math.sqrt(self.changed) / self.samples:.2g}"
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


def ranked(store: Store, chain: Chain, samples: Dataset, output: int, progress: Progress) -> Ranking:
    """Return the order in which layers are raised; computed once for all targets, and kept in the store.

    Args:
        store: where the sensitivities lie.
        chain: ends with the calibrated network.
        samples: the tune samples.
        output: index of the output with class scores.
        progress: where to show progress.
    """
    bits = chain.plan.weight_bits or 8
    key = digest("sensitivity", chain.key, samples.digest, output, bits)
    folder = store.get(key)
    if folder is None:
        from edgeport.quant.sensitivity import sensitivities

        found = sensitivities(chain.model(), samples, output=output, progress=progress, weight_bits=bits)
        with store.put(key) as fresh:
            (fresh / SENSITIVITIES).write_bytes(msgspec.json.encode(found))
    else:
        found = msgspec.json.decode((folder / SENSITIVITIES).read_bytes(), type=tuple[Sensitivity, ...])
    return rank(found)


class DropControl:
    """Chooses layers for one target after another; what was chosen lies in the store."""

    def __init__(
        self,
        store: Store,
        *,
        max_drop: float,
        tune_key: str,
        tune: Callable[[], Tune],
        ranking: Callable[[], Ranking],
    ) -> None:
        """Set up; nothing is computed yet.

        Args:
            store: where choices lie.
            max_drop: points of top-1 that may be lost.
            tune_key: digest of what `tune` and `ranking` return.
            tune: gives the samples.
            ranking: gives the order in which layers are raised.
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
        self.losses: dict[str, Loss] = {}
        self.most_changed = math.inf

    def run(self, formats: Sequence[Raised]) -> Control:
        tune = self.tune
        found = Control(
            limit_points=self.control.max_drop,
            samples=len(tune.scores),
            has_labels=tune.labels is not None,
            lost_before=tune.lost_before(),
            lost_allowed=self.allowed,
        )
        loss = self.loss(self.scheme)
        found = msgspec.structs.replace(
            found, lost_int8=loss.lost, lost=loss.lost, changed=loss.changed, trials=len(self.losses)
        )
        if loss.lost + loss.chance <= self.allowed or self.allowed < 0:
            return found
        ranking = self.control.ranking()
        self.most_changed = self._most_changed(ranking, formats[0])
        if self.holds(loss):
            return found
        order = [layer for layer in ranking.order if layer not in self.scheme.raised]
        layers = fewest(order, Trials(lambda layers: self.holds(self.loss(self.with_raised(layers, formats[0])))))
        if not layers:
            return msgspec.structs.replace(found, trials=len(self.losses))
        return self.in_best_format(found, layers, formats)

    def holds(self, loss: Loss) -> bool:
        """Return whether a file that loses so much holds the limit."""
        return loss.lost <= self.allowed and loss.changed <= self.most_changed

    def _most_changed(self, ranking: Ranking, form: Raised) -> float:
        """Return on how many samples a file may differ from float that raises what stands out."""
        if not ranking.standing_out:
            return math.inf
        least = self.loss(self.with_raised(ranking.standing_out, form)).changed
        return least + 2 * math.sqrt(least)

    def with_raised(self, layers: Sequence[str] | frozenset[str], form: Raised) -> Scheme:
        return replace(self.scheme, raised={**self.scheme.raised, **dict.fromkeys(sorted(layers), form)})

    def loss(self, scheme: Scheme) -> Loss:
        """Write a file, run it, and return what it loses."""
        file = self.write(scheme)
        if file.key not in self.losses:
            outputs = host.run(file.artifact.path, self.tune.inputs, threads=self.threads).outputs
            self.losses[file.key] = self.tune.loss(outputs[self.tune.output])
        return self.losses[file.key]

    def in_best_format(self, found: Control, layers: tuple[str, ...], formats: Sequence[Raised]) -> Control:
        """Return the finding with the layers in the fastest format that holds; of equally fast ones the smallest."""
        rejected: dict[str, str] = {}
        holding = {formats[0]: self.with_raised(layers, formats[0])}
        for form in formats[1:]:
            scheme = self.with_raised(layers, form)
            try:
                loss = self.loss(scheme)
            except (LoweringError, StageError) as error:
                rejected[form] = str(error)
                continue
            if self.holds(loss):
                holding[form] = scheme
            else:
                rejected[form] = f"{loss.lost} samples lost, {loss.changed} changed"
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
        loss = self.loss(holding[best])
        return msgspec.structs.replace(
            found,
            raised=dict.fromkeys(layers, best),
            lost=loss.lost,
            changed=loss.changed,
            trials=len(self.losses),
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
