"""Every target's files: the float one, and the shipped one as fast and as exact as was asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from edgeport.backends import backend
from edgeport.devices import host
from edgeport.errors import LoweringError
from edgeport.quant.scheme import Scheme
from edgeport.stages.lower import BINDINGS, Lowered, lower
from edgeport.stages.raise_precision import Control, DropControl, ranked
from edgeport.stages.speed import Setting, choose_fast
from edgeport.stages.tune_loss import MOST_SAMPLES, Tune
from edgeport.stages.zeros import choose_zeros
from edgeport.types import StageRecord
from edgeport.validation.origin import origin_on_host

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeport.graph.float_graph import FloatGraph
    from edgeport.plan import Plan
    from edgeport.profile import TargetProfile
    from edgeport.stages.chain import Chain
    from edgeport.stages.context import Progress
    from edgeport.store import Store
    from edgeport.types import Model

Built = tuple[Lowered, Lowered]  # the shipped file, and the float file beside it
TIMED_SECONDS = 0.6  # two files together


class Lowering:
    """Every target's files; a target whose backend cannot express the network does not stop the others."""

    def __init__(self, plan: Plan, chain: Chain, store: Store, progress: Progress, scores: int | None) -> None:
        self.plan, self.chain, self.store, self.progress = plan, chain, store, progress
        self.scores = scores  # index of the output with class scores, where there is a limit to hold on it

    @cached_property
    def graph(self) -> FloatGraph:
        """The network that is lowered, made when the first file has to be written."""
        from edgeport.graph.float_graph import FloatGraph

        return FloatGraph.from_model(self.chain.model())

    def run(self) -> tuple[dict[str, Built], dict[str, str], StageRecord]:
        """Return target -> files, target -> why there are none, and the record of what happened a target."""
        built: dict[str, Built] = {}
        failures: dict[str, str] = {}
        metrics: dict[str, dict[str, object]] = {}
        seconds: dict[str, float] = {}
        with self.store.workspace() as folder, self.progress.task("lower", len(self.plan.targets)) as task:
            control = self._drop_control(folder)
            for target in self.plan.targets:
                task.note(target.name)
                try:
                    shipped, floating, found = self._lower(target, control)
                    built[target.name] = (shipped, floating)
                    seconds |= {file.key: file.seconds for file in (shipped, floating)}
                    metrics[target.name] = {**shipped.quality, **shipped.chosen, "notes": notes(shipped)}
                    if found is not None:
                        seconds[f"control of {target.name}"] = found.seconds
                        metrics[target.name]["control"] = found.to_report()
                except LoweringError as error:
                    failures[target.name] = str(error)
                    metrics[target.name] = {"notes": [str(error)]}
                task.advance()
        options = {"precision": self.plan.precision}
        record = StageRecord(name="lower", options=options, seconds=sum(seconds.values()), metrics=metrics)
        return built, failures, record

    def _lower(self, target: TargetProfile, control: DropControl | None) -> tuple[Lowered, Lowered, Control | None]:
        """Return the shipped file, the float file, and what was done to hold `--max-drop`."""
        module = backend(target.backend)
        floating = lower(self.store, module, target, lambda: self.graph, source_key=self.chain.lowered_key)
        if self.plan.precision == "float32":
            return self._without_zeros(target, floating), floating, None

        def write(scheme: Scheme) -> Lowered:
            return lower(
                self.store,
                module,
                target,
                lambda: self.graph,
                source_key=self.chain.key,
                float_file=floating,
                precision=self.plan.precision,
                scheme=scheme,
            )

        if self.plan.precision != "int8":
            return write(Scheme.of(target)), floating, None
        asked = Scheme.of(target, self.plan.weight_bits)
        setting = Setting(
            profile=target, origin=origin_on_host(target), tune=self.chain.data.tune, graph=lambda: self.graph
        )
        fast = choose_fast(self.store, write, floating, asked, setting)
        scheme, found = fast.scheme, None
        if control is not None:
            scheme, found = control.hold(scheme, write, formats=module.raised_formats, threads=target.threads)
        elif self.plan.max_drop is not None:
            found = Control(limit_points=self.plan.max_drop)
        shipped = replace(write(scheme), chosen={"speed": fast.figures()}, chosen_notes=tuple(fast.notes))
        return shipped, floating, found

    def _without_zeros(self, target: TargetProfile, dense: Lowered) -> Lowered:
        """Return the float file without the zeros of `--prune fine:0.8`, or as it is where that is the better file."""
        module = backend(target.backend)
        if not self.plan.sparsity or not module.stores_zeros:
            return dense
        sparse = lower(
            self.store,
            module,
            target,
            lambda: self.graph,
            source_key=self.chain.lowered_key,
            float_file=dense,
            precision="float32",
        )

        def examples() -> list[NDArray[Any]]:
            return [value.numpy() for value in self.graph.example_inputs]

        return choose_zeros(self.store, dense, sparse, target, examples, origin=origin_on_host(target))

    def _drop_control(self, folder: Path) -> DropControl | None:
        """Return what raises layers until `--max-drop` holds; None without a limit or without samples for it."""
        samples, output = self.chain.data.tune, self.scores
        if self.plan.max_drop is None or samples is None or output is None or self.plan.precision != "int8":
            return None
        samples = samples.evenly(MOST_SAMPLES)

        def tune() -> Tune:
            from edgeport.validation.reference import reference, write_inputs

            known = reference(self.store, self.chain, samples, self.progress)
            return Tune(
                inputs=write_inputs(samples, folder),
                output=output,
                scores=known.outputs[output],
                labels=known.labels,
                top1_float=known.top1_float,
            )

        return DropControl(
            self.store,
            max_drop=self.plan.max_drop,
            tune_key=samples.digest,
            tune=cache(tune),
            ranking=cache(lambda: ranked(self.store, self.chain, samples, output, self.progress)),
        )


def notes(lowered: Lowered) -> list[str]:
    """Return what the report says of a file, a sentence each."""
    findings = lowered.quality.get("findings", ())
    return [*lowered.artifact.notes, *(str(finding) for finding in findings), *lowered.chosen_notes]  # type: ignore[attr-defined]  # JSON list


def float_file(store: Store, target: TargetProfile, model: Callable[[], Model], *, key: str) -> Lowered:
    """Return a target's float file of a network.

    Args:
        store: where finished files lie.
        target: whose runtime.
        model: the network; called when the file has to be written.
        key: of the network.

    Raises:
        LoweringError: an operator cannot be expressed.
    """
    from edgeport.graph.float_graph import FloatGraph

    graph = cache(lambda: FloatGraph.from_model(model()))
    return lower(store, backend(target.backend), target, graph, source_key=key)


def latency_share(
    store: Store, targets: Sequence[TargetProfile], model: Model, original: Callable[[], Model], *, key: str
) -> float:
    """Return a network's latency as a share of the original's: of float files, on the target where it is most.

    Both files are timed interleaved, on the targets' runtimes on this machine.

    Args:
        store: where finished files lie.
        targets: whose runtimes.
        model: the network.
        original: the one that came in.
        key: of the original.
    """
    from edgeport.graph.float_graph import FloatGraph

    graph = FloatGraph.from_model(model)
    found = []
    for target in targets:
        module = backend(target.backend)
        whole = float_file(store, target, original, key=key)
        with store.workspace() as folder:
            candidate = module.lower_float(graph, target, folder / f"model{module.suffix}")
            (folder / BINDINGS).write_text(json.dumps(module.bindings(graph, candidate.path)))
            paths = (candidate.path, whole.artifact.path)
            timing, before = host.bench(paths, threads=target.threads, seconds=TIMED_SECONDS)
        found.append(timing.p50_ms / before.p50_ms)
    return max(found)
