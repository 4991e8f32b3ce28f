"""A build, in order: data, trace, prune, distill, calibrate, lower, validate, pack."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeport import environment
from edgeport.backends import backend
from edgeport.doctor import require
from edgeport.errors import LoweringError
from edgeport.manifest import package_versions
from edgeport.quant.scheme import Scheme
from edgeport.report.report import Report
from edgeport.stages.chain import Chain
from edgeport.stages.context import SILENT, Progress
from edgeport.stages.data import Data, open_data, random_data, remember_place
from edgeport.stages.examine import examined
from edgeport.stages.lower import Lowered, lower
from edgeport.stages.pack import artifact_name, check_output, pack
from edgeport.stages.raise_precision import Control, DropControl, ranked
from edgeport.stages.speed import Setting, choose_fast
from edgeport.stages.tune_loss import MOST_SAMPLES, Tune, scores_output
from edgeport.store import Store, default_root, digest
from edgeport.types import Metric, StageRecord, TargetResult
from edgeport.validation.origin import origin_on_host

if TYPE_CHECKING:
    from edgeport.graph.float_graph import FloatGraph
    from edgeport.plan import Plan
    from edgeport.profile import TargetProfile

Built = tuple[Lowered, Lowered]  # the shipped file, and the float file beside it


def build(plan: Plan, *, progress: Progress = SILENT, store: Store | None = None) -> Report:
    """Run a plan and write its output folder.

    Args:
        plan: what to do.
        progress: where to show progress.
        store: where finished steps lie; default: the user's cache folder.

    Raises:
        EdgeportError: whatever a user can cause; see `edgeport.errors`.
    """
    environment.prepare(plan.threads)
    for name in dict.fromkeys(target.backend for target in plan.targets):
        require(name)
    check_output(Path(plan.output))
    store = store or Store(default_root())
    store.prepare()
    opened = open_data(plan, store) if plan.has_data else None

    import torch

    from edgeport.graph.network import load_network

    threads = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        network = load_network(plan.model, plan.weights, seed=plan.seed)
        data = opened or random_data(plan, network)
        for note in data.notes:
            progress.log(note)
        teachers = [load_network(teacher, None, seed=plan.seed) for teacher in plan.teachers]
        chain = Chain(plan, network, data, store, progress, teachers=teachers)
        records = examined(chain, chain.records())
        scores = scores_output(records[0], plan.max_drop)
        built, failures, lowering = _Lowering(plan, chain, store, progress, scores).run()
        results, validating = _Validating(plan, chain, data, store, progress).run(built)
        report = Report(
            model=network.name,
            stages=(*records, lowering, validating),
            targets=results,
            failures=failures,
        )
        facts = {
            "model": {"name": network.name, "fingerprint": network.fingerprint},
            "data": data.digests(),
            "seed": plan.seed,
            "precision": plan.precision,
            "packages": package_versions(_packages(plan)),
        }
        if not data.is_random:
            remember_place(plan, data, store)
        classes = data.evaluate.classes
        pack(Path(plan.output), built, chain.weight_folders(), classes=classes, facts=facts, report=report)
        store.sweep()
        return report
    finally:
        torch.set_num_threads(threads)


def _packages(plan: Plan) -> list[str]:
    return sorted({"torch", "numpy", *(name for target in plan.targets for name in backend(target.backend).packages)})


class _Lowering:
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
                    metrics[target.name] = {**shipped.quality, **shipped.chosen, "notes": _notes(shipped)}
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
            return floating, floating, None

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


def _notes(lowered: Lowered) -> list[str]:
    findings = lowered.quality.get("findings", ())
    return [*lowered.artifact.notes, *(str(finding) for finding in findings), *lowered.chosen_notes]  # type: ignore[attr-defined]  # JSON list


class _Validated(msgspec.Struct, frozen=True):
    metrics: tuple[Metric, ...]
    seconds: float


class _Validating:
    """Every target's file on its real runtime; figures are kept in the store like every other result."""

    def __init__(self, plan: Plan, chain: Chain, data: Data, store: Store, progress: Progress) -> None:
        self.plan, self.chain, self.data, self.samples = plan, chain, data, data.evaluate
        self.store, self.progress = store, progress

    def run(self, built: dict[str, Built]) -> tuple[dict[str, TargetResult], StageRecord]:
        """Return target -> result, and the stage's record."""
        from edgeport.validation.ablation import ablation
        from edgeport.validation.proof import proven

        results: dict[str, TargetResult] = {}
        seconds = 0.0
        said: dict[str, object] = {}
        targets = [target for target in self.plan.targets if target.name in built]
        with self.store.workspace() as folder, self.progress.task("validate", len(targets)) as task:
            inputs = _once(lambda: self._write_inputs(folder))
            for target in targets:
                task.note(target.name)
                found = self._validated(target, built[target.name], inputs)
                shipped = built[target.name][0]
                proof = proven(self.store, shipped, target, inputs, samples_digest=self.samples.digest)
                seconds += found.seconds + proof.seconds
                notes = [*self._unused_labels(found.metrics), *proof.notes]
                said[target.name] = {"notes": notes}
                results[target.name] = TargetResult(
                    artifact=artifact_name(target.name, shipped),
                    metrics=(*found.metrics, *proof.metrics),
                    notes=(*_notes(shipped), *notes),
                )
                task.advance()
        options = {"data": self.plan.evaluation.rsplit("/", 1)[-1], "max_drop": self.plan.max_drop}
        figures = {"samples": len(self.samples), "host": platform.machine(), "notes": list(self.data.notes), **said}
        if rows := ablation(self.store, self.chain, self.samples, self.progress):
            figures["ablation"] = msgspec.to_builtins(rows)
        return results, StageRecord(name="validate", options=options, seconds=seconds, metrics=figures)

    def _write_inputs(self, folder: Path) -> tuple[Path, ...]:
        from edgeport.validation.reference import write_inputs

        return write_inputs(self.samples, folder)

    def _unused_labels(self, metrics: tuple[Metric, ...]) -> list[str]:
        if not self.samples.has_labels and self.plan.max_drop is not None:
            return ["--max-drop was not judged: the evaluation samples have no labels"]
        if not self.samples.has_labels or any(metric.name == "top1" for metric in metrics):
            return []
        return ["the labels were not used: no output is (samples, classes) scores"]

    def _validated(self, target: TargetProfile, files: Built, inputs: Callable[[], tuple[Path, ...]]) -> _Validated:
        from edgeport.validation.judge import without_agreement_limits
        from edgeport.validation.reference import reference, reference_key
        from edgeport.validation.validate import validate

        shipped, floating = files
        target = without_agreement_limits(target) if self.data.is_random else target
        key = digest(
            "validate",
            [shipped.key, floating.key, reference_key(self.chain, self.samples)],
            msgspec.to_builtins(target),
            self.plan.max_drop,
            [platform.machine(), platform.node()],
        )
        folder = self.store.get(key)
        if folder is None:
            start = time.perf_counter()
            known = reference(self.store, self.chain, self.samples, self.progress)
            metrics = validate(
                shipped.artifact,
                floating.artifact,
                inputs=inputs(),
                reference=known,
                profile=target,
                costs=shipped.costs,
                max_drop=self.plan.max_drop,
            )
            found = _Validated(metrics, time.perf_counter() - start)
            with self.store.put(key) as fresh:
                (fresh / "metrics.json").write_bytes(msgspec.json.encode(found))
            return found
        return msgspec.json.decode((folder / "metrics.json").read_bytes(), type=_Validated)


def _once(make: Callable[[], tuple[Path, ...]]) -> Callable[[], tuple[Path, ...]]:
    """Return a function that calls `make` the first time and remembers."""
    made: list[tuple[Path, ...]] = []

    def get() -> tuple[Path, ...]:
        if not made:
            made.append(make())
        return made[0]

    return get
