"""Every target's file on its real runtime, and what each step of the build did; figures lie in the store."""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from edgeport.lowering import notes
from edgeport.quant.scheme import Scheme
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
    from edgeport.validation.validate import Reference


class _Validated(msgspec.Struct, frozen=True):
    metrics: tuple[Metric, ...]
    seconds: float


class _Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """What emulation says of a target's files; `figures` are for `report.json`: rows by core."""

    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]
    seconds: float
    figures: dict[str, object]


class Validating:
    """Every target's file on its real runtime; figures are kept in the store like every other result."""

    def __init__(self, plan: Plan, chain: Chain, data: Data, store: Store, progress: Progress) -> None:
        self.plan, self.chain, self.data, self.samples = plan, chain, data, data.evaluate
        self.store, self.progress = store, progress

    def run(self, built: dict[str, Built]) -> tuple[dict[str, TargetResult], StageRecord]:
        """Return target -> result, and the stage's record."""
        from edgeport.steps import step_notes, steps
        from edgeport.validation.boards import board_notes

        results: dict[str, TargetResult] = {}
        seconds = 0.0
        said: dict[str, dict[str, object]] = {}
        targets = [target for target in self.plan.targets if target.name in built]
        with self.store.workspace() as folder, self.progress.task("validate", len(targets)) as task:
            inputs = _once(lambda: self._write_inputs(folder))
            for target in targets:
                task.note(target.name)
                found = self._validated(target, built[target.name], inputs)
                shipped = built[target.name][0]
                elsewhere = self._elsewhere(target, built[target.name], inputs)
                seconds += found.seconds + elsewhere.seconds
                said_here = [*self._unused_labels(found.metrics), *elsewhere.notes]
                if unlike := self._unlike_training(target, shipped):
                    said_here.append(f"not compared with the int8 network that was trained: the file has {unlike}")
                said_here += board_notes(target, shipped.costs, found.metrics)
                sources = {at.removeprefix("@") or target.name: one.source for at, one in target.cost_models.items()}
                figures_here = {**elsewhere.figures, "predicted_from": sources} if sources else elsewhere.figures
                said[target.name] = {"notes": said_here, **figures_here}
                results[target.name] = TargetResult(
                    artifact=artifact_name(target.name, shipped),
                    metrics=(*found.metrics, *elsewhere.metrics),
                    notes=(*notes(shipped), *said_here),
                )
                task.advance()
        options = {"data": self.plan.evaluation.rsplit("/", 1)[-1], "max_drop": self.plan.max_drop}
        figures = {"samples": len(self.samples), "host": platform.machine(), "notes": list(self.data.notes), **said}
        finished = [(target, built[target.name], results[target.name].metrics) for target in targets]
        if not self.data.is_random:  # of random samples there is no accuracy to set against size and speed
            rows = steps(self.store, self.chain, self.samples, self.progress, finished)
            figures["ablation"] = msgspec.to_builtins(rows)
            for target in targets:
                result = results[target.name]
                why = step_notes(self.store, target, built[target.name], rows[target.name])
                results[target.name] = replace(result, notes=(*result.notes, *why))
                own = notes(built[target.name][0])  # the stage `lower` has these
                said[target.name]["notes"] = list(results[target.name].notes[len(own) :])
        return results, StageRecord(name="validate", options=options, seconds=seconds, metrics=figures)

    def _elsewhere(self, target: TargetProfile, files: Built, inputs: Callable[[], tuple[Path, ...]]) -> _Elsewhere:
        """Return how a target's files do on processors that this machine is not."""
        from edgeport.devices import qemu
        from edgeport.validation.instructions import counted
        from edgeport.validation.proof import proven

        shipped, floating = files
        proof = proven(
            self.store,
            shipped,
            target,
            inputs,
            samples_digest=self.samples.digest,
            emulate=self.plan.emulate,
        )
        cores = self._on_cores(target, shipped, inputs)
        ran = tuple(dict.fromkeys(run.core for run in cores.runs))  # why others did not, a note says
        counts = counted(self.store, shipped, floating, msgspec.structs.replace(target, cores=ran), qemu.device)
        figures = {"cores": msgspec.to_builtins(cores.runs), "instructions": msgspec.to_builtins(counts.cores)}
        return _Elsewhere(
            metrics=(*proof.metrics, *cores.metrics, *counts.metrics),
            notes=(*proof.notes, *cores.notes, *counts.notes),
            seconds=proof.seconds + cores.seconds + counts.seconds,
            figures={name: found for name, found in figures.items() if found},
        )

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
            known = reference(self.store, self.chain, self.samples, self.progress)
            if self.plan.qat and not self._unlike_training(target, shipped):
                known = self._with_simulated(known, target)
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

    def _unlike_training(self, target: TargetProfile, shipped: Lowered) -> str:
        """Return what training on int8 did not see of a file, in words; empty: nothing."""
        if not self.plan.qat or shipped.scheme is None:
            return ""
        trained = Scheme.of(target, self.plan.weight_bits)
        return " and ".join(shipped.scheme.unlike(trained, backend=target.backend))

    def _with_simulated(self, known: Reference, target: TargetProfile) -> Reference:
        """Add what the int8 network of quantization-aware training answers on this target."""
        from edgeport.backends import backend
        from edgeport.validation.simulated import simulated_answers

        bits = self.plan.weight_bits or target.int8.weight_bits
        arithmetic = backend(target.backend).arithmetic
        found = simulated_answers(self.chain.model(), bits, arithmetic, self.samples, self.progress)
        return known if found is None else replace(known, answers={**known.answers, "simulated": found})


def _once(make: Callable[[], tuple[Path, ...]]) -> Callable[[], tuple[Path, ...]]:
    """Return a function that calls `make` the first time and remembers."""
    made: list[tuple[Path, ...]] = []

    def get() -> tuple[Path, ...]:
        if not made:
            made.append(make())
        return made[0]

    return get
