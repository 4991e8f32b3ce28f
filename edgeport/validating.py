"""Every target's file on its real runtime, and what each step of the build did; figures lie in the store."""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from edgeport.lowering import notes
from edgeport.stages.pack import artifact_name
from edgeport.store import Store, digest
from edgeport.types import Metric, StageRecord, TargetResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeport.lowering import Built
    from edgeport.plan import Plan
    from edgeport.profile import TargetProfile
    from edgeport.stages.chain import Chain
    from edgeport.stages.context import Progress
    from edgeport.stages.data import Data
    from edgeport.stages.lower import Lowered
    from edgeport.validation.emulated import Emulated
    from edgeport.validation.instructions import CountedTarget, DeviceOf
    from edgeport.validation.validate import Reference


class _Validated(msgspec.Struct, frozen=True):
    metrics: tuple[Metric, ...]
    seconds: float


class Validating:
    """Every target's file on its real runtime; figures are kept in the store like every other result."""

    def __init__(  # noqa: PLR0913, PLR0917  # what a build has, and where its cores are emulated
        self, plan: Plan, chain: Chain, data: Data, store: Store, progress: Progress, device_of: DeviceOf | None = None
    ) -> None:
        """Take a build's parts.

        Args:
            plan: what to do.
            chain: its stages.
            data: its samples.
            store: where figures are kept.
            progress: where to show progress.
            device_of: gives the emulated device of a core that a target names; None: counts no instructions.
        """
        self.plan, self.chain, self.data, self.samples = plan, chain, data, data.evaluate
        self.store, self.progress, self.device_of = store, progress, device_of

    def run(self, built: dict[str, Built]) -> tuple[dict[str, TargetResult], StageRecord]:
        """Return target -> result, and the stage's record."""
        from edgeport.steps import step_notes, steps
        from edgeport.validation.boards import board_notes
        from edgeport.validation.proof import proven

        results: dict[str, TargetResult] = {}
        seconds = 0.0
        said: dict[str, object] = {}
        instructions: dict[str, object] = {}
        targets = [target for target in self.plan.targets if target.name in built]
        with self.store.workspace() as folder, self.progress.task("validate", len(targets)) as task:
            inputs = _once(lambda: self._write_inputs(folder))
            for target in targets:
                task.note(target.name)
                found = self._validated(target, built[target.name], inputs)
                shipped = built[target.name][0]
                proof = proven(
                    self.store,
                    shipped,
                    target,
                    inputs,
                    samples_digest=self.samples.digest,
                    emulate=self.plan.emulate,
                )
                cores = self._on_cores(target, shipped, inputs)
                counts = self._instructions(target, built[target.name], cores)
                if counts.cores:
                    instructions[target.name] = msgspec.to_builtins(counts.cores)
                seconds += found.seconds + proof.seconds + cores.seconds + counts.seconds
                said_here = [*self._unused_labels(found.metrics), *proof.notes, *cores.notes, *counts.notes]
                said_here += board_notes(target, built[target.name][0].costs, found.metrics)
                said[target.name] = {"notes": said_here}
                if cores.runs:
                    said[target.name] = {"notes": said_here, "cores": msgspec.to_builtins(cores.runs)}
                results[target.name] = TargetResult(
                    artifact=artifact_name(target.name, shipped),
                    metrics=(*found.metrics, *proof.metrics, *cores.metrics, *counts.metrics),
                    notes=(*notes(shipped), *said_here),
                )
                task.advance()
        options = {"data": self.plan.evaluation.rsplit("/", 1)[-1], "max_drop": self.plan.max_drop}
        figures = {"samples": len(self.samples), "host": platform.machine(), "notes": list(self.data.notes), **said}
        if instructions:
            figures["instructions"] = instructions
        finished = [(target, built[target.name], results[target.name].metrics) for target in targets]
        if not self.data.is_random:  # of random samples there is no accuracy to set against size and speed
            rows = steps(self.store, self.chain, self.samples, self.progress, finished)
            figures["ablation"] = msgspec.to_builtins(rows)
            for target in targets:
                result = results[target.name]
                why = step_notes(self.store, target, built[target.name], rows[target.name])
                results[target.name] = replace(result, notes=(*result.notes, *why))
        return results, StageRecord(name="validate", options=options, seconds=seconds, metrics=figures)

    def _on_cores(self, target: TargetProfile, shipped: Lowered, inputs: Callable[[], tuple[Path, ...]]) -> Emulated:
        """Return how the file does on the cores that the target names."""
        from edgeport.validation.emulated import Evidence, emulated, switched_off
        from edgeport.validation.judge import without_agreement_limits
        from edgeport.validation.reference import reference, reference_key

        if not self.plan.emulate:
            return switched_off(target)
        evidence = Evidence(
            samples=self.samples,
            inputs=inputs,
            reference=lambda: reference(self.store, self.chain, self.samples, self.progress),
            key=reference_key(self.chain, self.samples),
        )
        judged = without_agreement_limits(target) if self.data.is_random else target
        return emulated(self.store, shipped, judged, evidence)

    def _instructions(self, target: TargetProfile, files: Built, cores: Emulated) -> CountedTarget:
        """Return what the files execute on the cores that ran them; why others did not, `cores` says."""
        from edgeport.validation.instructions import CountedTarget, counted

        if self.device_of is None:
            return CountedTarget()
        ran = tuple(dict.fromkeys(run.core for run in cores.runs))
        return counted(self.store, *files, msgspec.structs.replace(target, cores=ran), self.device_of)

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
            msgspec.to_builtins(target.cost_models),
            self.plan.max_drop,
            self.plan.per_day,
            [platform.machine(), platform.node()],
        )
        folder = self.store.get(key)
        if folder is None:
            start = time.perf_counter()
            known = self._with_simulated(reference(self.store, self.chain, self.samples, self.progress), target)
            metrics = validate(
                shipped.artifact,
                floating.artifact,
                inputs=inputs(),
                reference=known,
                profile=target,
                costs=shipped.costs,
                float_costs=floating.costs,
                max_drop=self.plan.max_drop,
                per_day=self.plan.per_day,
            )
            found = _Validated(metrics, time.perf_counter() - start)
            with self.store.put(key) as fresh:
                (fresh / "metrics.json").write_bytes(msgspec.json.encode(found))
            return found
        return msgspec.json.decode((folder / "metrics.json").read_bytes(), type=_Validated)

    def _with_simulated(self, known: Reference, target: TargetProfile) -> Reference:
        """Add what the network answers that quantization-aware training saw, where there was one."""
        from edgeport.validation.simulated import simulated_answers

        if not self.plan.qat:
            return known
        bits = self.plan.weight_bits or target.int8.weight_bits
        found = simulated_answers(self.chain.model(), bits, self.samples, self.progress)
        return known if found is None else replace(known, answers={**known.answers, "simulated": found})


def _once(make: Callable[[], tuple[Path, ...]]) -> Callable[[], tuple[Path, ...]]:
    """Return a function that calls `make` the first time and remembers."""
    made: list[tuple[Path, ...]] = []

    def get() -> tuple[Path, ...]:
        if not made:
            made.append(make())
        return made[0]

    return get
