"""Is int8 faster than float? Measured on the target's runtime, with what that runtime offers tried where it is not.

The default scheme stays unless another one is faster by a clear margin, agrees with float on the tune data as often,
and makes int8 the faster file: a slow one that is a little less slow is worth nothing, and would be chosen by chance.
What was chosen lies in the store: a rebuild gives the same bytes, whatever the clock says that day.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import msgspec

from edgeport.devices import host
from edgeport.errors import LoweringError
from edgeport.formats import reader_of
from edgeport.formats.slow_spots import SlowSpot, plain, sentence, slow_spots
from edgeport.quant.scheme import Scheme
from edgeport.stages.alternatives import Measured, alternatives, layer_times, measure
from edgeport.store import Store, digest
from edgeport.types import FEW_BITS

if TYPE_CHECKING:
    from edgeport.dataset import Dataset
    from edgeport.graph.float_graph import FloatGraph
    from edgeport.profile import TargetProfile
    from edgeport.stages.lower import Lowered
    from edgeport.types import Origin

SECONDS = 0.6  # of timing, both files together
RUNS = 30  # inferences from which operator times are taken
CLEARLY = 0.9  # share of the time that an alternative takes at most: a smaller gain may be noise, chosen by chance
SHOWN = 3  # slow spots that are printed; report.json has all
WORTH_PRINTING = 0.02  # share of time or bytes below which a slow spot is not printed

Make = Callable[[Scheme], "Lowered"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and for what a file is judged.

    Attributes:
        profile: the target.
        origin: `measured` where this machine is the target's kind of hardware; only then is anything changed.
        tune: samples on which choices are made; None: nothing is changed.
        graph: gives the network that is lowered.
    """

    profile: TargetProfile
    origin: Origin
    tune: Dataset | None
    graph: Callable[[], FloatGraph]


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One alternative: what was changed, what it gained (p50 of the file before / its own), and whether it was kept."""

    change: str
    gain: float
    agreement: float | None
    cosine_min: float
    kept: bool


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen and why; JSON values.

    Attributes:
        scheme: of the int8 file.
        origin: of the timings.
        p50_ms: median latency of the int8 file as chosen, batch one.
        float_p50_ms: of the float file, interleaved with it.
        tried: alternatives, in order.
        slow_spots: what costs time in the chosen file without computing in int8.
        notes: sentences for the report.
    """

    scheme: Scheme
    origin: Literal["measured", "emulated", "modelled"]
    p50_ms: float
    float_p50_ms: float
    tried: list[Tried]
    slow_spots: list[SlowSpot]
    notes: list[str]

    def figures(self) -> dict[str, object]:
        """Return the JSON form for the report."""
        found: dict[str, object] = msgspec.to_builtins(self)
        found.pop("notes")
        return {**found, "speedup": self.float_p50_ms / self.p50_ms}


def choose_fast(store: Store, make: Make, floating: Lowered, scheme: Scheme, setting: Setting) -> Choice:
    """Return the scheme of the int8 file, and what there is to say about its speed.

    Args:
        store: where the choice is kept.
        make: writes (or finds) the int8 file of a scheme.
        floating: the float file.
        scheme: what the target asks for.
        setting: where and for what.

    Raises:
        StageError: a file does not run.
        MissingPackageError: the runtime is not installed.
    """
    first = make(scheme)
    key = digest(
        "speed",
        [first.key, floating.key, setting.origin],
        setting.tune.digest if setting.tune is not None else None,
        setting.profile.threads,
        [platform.machine(), platform.node()],
    )
    folder = store.get(key)
    if folder is None:
        choice = _Search(make, floating, setting).choose(scheme)
        with store.put(key) as fresh:
            (fresh / "speed.json").write_bytes(msgspec.json.encode(choice))
        return choice
    return msgspec.json.decode((folder / "speed.json").read_bytes(), type=Choice)


class _Search:
    def __init__(self, make: Make, floating: Lowered, setting: Setting) -> None:
        self.make, self.floating, self.setting = make, floating, setting
        self.threads = setting.profile.threads
        self.label: Callable[[str], str] = _Labels(setting.graph)
        self.refused: list[str] = []  # a sentence an alternative that cannot be written

    def choose(self, scheme: Scheme) -> Choice:
        tried: list[Tried] = []
        lowered = self.make(scheme)
        timing, float_timing = self._bench(lowered)
        is_slower = _no_faster(timing, float_timing)
        tune = self.setting.tune
        if is_slower and self.setting.origin == "measured" and tune is not None:
            better, tried = self._better(scheme, tune)
            now, float_now = self._bench(self.make(better)) if better != scheme else (timing, float_timing)
            if now.p50_ms < float_now.p50_ms and now.min_ms < float_now.min_ms:
                scheme, lowered, timing, float_timing = better, self.make(better), now, float_now
            else:
                tried = [msgspec.structs.replace(row, kept=False) for row in tried]
        ran = host.profile((lowered.artifact.path,), threads=self.threads, runs=RUNS)[0]
        executed = reader_of(lowered.artifact.path).executed_operators(lowered.artifact.path)
        spots = slow_spots(lowered.costs, executed, ran, self.label)
        notes = [*self.refused, *self._verdict(lowered, timing, float_timing, tried), *self._spots(spots)]
        return Choice(
            scheme=scheme,
            origin=self.setting.origin,
            p50_ms=timing.p50_ms,
            float_p50_ms=float_timing.p50_ms,
            tried=tried,
            slow_spots=list(spots),
            notes=notes,
        )

    def _bench(self, lowered: Lowered) -> tuple[host.Timing, host.Timing]:
        paths = (lowered.artifact.path, self.floating.artifact.path)
        first, second = host.bench(paths, threads=self.threads, seconds=SECONDS)
        return first, second

    def _better(self, scheme: Scheme, tune: Dataset) -> tuple[Scheme, list[Tried]]:
        """Try the runtime's alternatives one after another, each on top of what was kept before."""
        tried: list[Tried] = []
        paths = (self.make(scheme).artifact.path, self.floating.artifact.path)
        ran, float_ran = host.profile(paths, threads=self.threads, runs=RUNS)
        times = layer_times(self.setting.graph(), ran, float_ran)
        contents = {_content(self.make(scheme))}
        wide = scheme.weight_bits not in FEW_BITS
        for change, edit in alternatives(self.setting.profile.backend, times, has_wide_weights=wide):
            try:
                candidate = self.make(replace(scheme, **edit))
            except LoweringError as error:  # the target has a file already; only this form of it cannot be
                self.refused.append(f"not possible: {change}: {error}")
                continue
            if _content(candidate) in contents:  # this network has nothing that the choice is about
                continue
            contents.add(_content(candidate))
            before, after = measure(
                (self.make(scheme).artifact.path, candidate.artifact.path, self.floating.artifact.path),
                tune,
                threads=self.threads,
            )
            kept = after.is_faster_than(before, CLEARLY) and after.agrees_as_well_as(before)
            tried.append(_tried(change, before, after, kept=kept))
            scheme = replace(scheme, **edit) if kept else scheme
        return scheme, tried

    def _verdict(
        self, lowered: Lowered, timing: host.Timing, float_timing: host.Timing, tried: list[Tried]
    ) -> list[str]:
        notes = [f"chosen: {row.change}: {row.gain:.2f}x as fast" for row in tried if row.kept]
        ratio = float_timing.p50_ms / timing.p50_ms
        if not _no_faster(timing, float_timing):
            return notes
        said = (
            f"int8 is no faster than float32 ({ratio:.2f}x as fast: {timing.p50_ms:.3f} ms against "
            f"{float_timing.p50_ms:.3f} ms, {self.setting.origin})"
        )
        if self.setting.origin != "measured":
            return [*notes, f"{said}; nothing was changed for a stand-in, run benchmark.py on the target"]
        smaller = self.floating.artifact.size_bytes / lowered.artifact.size_bytes
        but = f", unless size counts: int8 is {smaller:.2f}x smaller" if smaller > 1 else ", and the smaller one"
        looked = f"; alternatives tried: {len(tried)}" if tried else ""
        if self.setting.tune is None:
            looked = "; there are no tune data to choose an alternative on"
        float_file = f"model-float{self.floating.artifact.path.suffix}"
        return [*notes, f"{said}{looked}; {float_file} is the better file{but}"]

    def _spots(self, spots: tuple[SlowSpot, ...]) -> list[str]:
        shown = [spot for spot in spots if spot.share >= WORTH_PRINTING][:SHOWN]
        return [sentence(spot, origin=self.setting.origin) for spot in shown]


def _no_faster(timing: host.Timing, float_timing: host.Timing) -> bool:
    """Whether int8 takes as long as float32 in the median and at its best; where the two disagree, it is noise."""
    return timing.p50_ms >= float_timing.p50_ms and timing.min_ms >= float_timing.min_ms


def _content(lowered: Lowered) -> bytes:
    return b"".join(file.read_bytes() for file in lowered.artifact.files)


def _tried(change: str, before: Measured, after: Measured, *, kept: bool) -> Tried:
    return Tried(
        change=change,
        gain=before.p50_ms / after.p50_ms,
        agreement=after.agreement,
        cosine_min=after.cosine_min,
        kept=kept,
    )


class _Labels:
    """Gives the module path for a runtime's name of an operator."""

    def __init__(self, graph: Callable[[], FloatGraph]) -> None:
        self._graph = graph
        self._known: Mapping[str, str] | None = None

    def __call__(self, name: str) -> str:
        if self._known is None:
            self._known = self._graph().provenance
        stem = plain(name)
        for candidate in (stem, stem.split("/")[0].split(":")[0]):
            found = self._known.get(candidate) or self._known.get(candidate.removeprefix("node_"))
            if found is not None:
                return found
        return stem.split(";")[0]
