"""The stages of a build, one after another, and their keys.

A stage's key covers everything before it, so a stored result is found without computing anything before it; a model is
made (or restored) only when something needs it.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from edgeport.manifest import code_digest, package_versions
from edgeport.stages.context import Context, Progress
from edgeport.stages.persistence import check_stage, read_record, restore_stage, save_stage, tensor_versions
from edgeport.stages.repair_bias import find_damage
from edgeport.stages.sequence import sequence
from edgeport.store import Store, digest
from edgeport.types import Model, StageRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from edgeport.graph.network import Network
    from edgeport.plan import Plan
    from edgeport.stages.data import Data
    from edgeport.stages.sequence import Stage

TRACE_PACKAGES = ("torch", "numpy")
TAUGHT = ("distill", "finetune")  # stages that learn from teachers
FOR_INT8 = ("equalize", "calibrate", "correct", "finetune")
OF_INT8_FILES = ("calibrate", "correct", "finetune")  # the float network that is lowered does not depend on them


@dataclass(frozen=True, kw_only=True)
class FloatStep:
    """A float network of the chain.

    Attributes:
        name: `float` for the network that came in, else the stage that made it.
        key: store key.
        model: makes or restores it.
    """

    name: str
    key: str
    model: Callable[[], Model]


@dataclass(frozen=True, kw_only=True)
class _Step:
    stage: Stage
    key: str


class Chain:
    """The stages of one build."""

    def __init__(  # noqa: PLR0913  # what a build has, one of it each
        self,
        plan: Plan,
        network: Network,
        data: Data,
        store: Store,
        progress: Progress,
        *,
        teachers: Sequence[Network] = (),
        latency: Callable[[Model], float] | None = None,
        runtimes: str = "",
    ) -> None:
        """Set up; nothing is computed yet.

        Args:
            plan: what to do.
            network: what came in.
            data: the samples.
            store: where results lie.
            progress: where to show progress.
            teachers: what a student learns from instead of `network`.
            latency: tells a network's latency as a share of the original's (see `Context`).
            runtimes: names what that is measured on, and where.
        """
        self.latency, self.runtimes = latency, runtimes
        self.plan, self.network, self.data, self._named_teachers = plan, network, data, teachers
        self.store, self.progress = store, progress
        self._models: dict[int, Model] = {}

    @cached_property
    def trace_key(self) -> str:
        """Key of the network as it came in."""
        samples = self.data.calibrate or self.data.evaluate
        interface = [list(samples.shapes), list(samples.dtypes)]
        chosen = [asdict(self.data.classes)] if self.data.classes else []
        packages = package_versions(TRACE_PACKAGES)
        return digest("trace", self.network.fingerprint, interface, *chosen, packages, code_digest())

    @property
    def float_key(self) -> str:
        """Key of the float network that is the yardstick: traced, pruned, distilled."""
        keys = [step.key for step in self._steps if step.stage.name not in FOR_INT8]
        return keys[-1] if keys else self.trace_key

    @property
    def lowered_key(self) -> str:
        """Key of the float network that is lowered: equalized, which the yardstick is not."""
        keys = [step.key for step in self._steps if step.stage.name not in OF_INT8_FILES]
        return keys[-1] if keys else self.trace_key

    @property
    def key(self) -> str:
        """Key of the end of the chain."""
        return self._steps[-1].key if self._steps else self.trace_key

    @property
    def is_changed(self) -> bool:
        """Whether the network that is lowered differs from the one that came in."""
        return self.float_key != self.trace_key

    def records(self) -> tuple[StageRecord, ...]:
        """Run what has not been run, and return a record a stage."""
        found = [self._traced_record()]
        for index, step in enumerate(self._steps):
            if self.store.get(step.key) is None:
                self._model_after(index)
            found.append(read_record(self._entry(step.key)))
        return tuple(found)

    def original(self) -> Model:
        """Return the float network as it came in."""
        return self._traced[0]

    @cached_property
    def _teachers(self) -> tuple[Model, ...]:
        """What a student learns from."""
        from edgeport.stages.narrow import traced_teachers

        figures = dict(self._traced[1].metrics)
        named = traced_teachers(self._named_teachers, self._example, self.data.classes, figures)
        return named or (self.original(),)

    def float_model(self) -> Model:
        """Return the float network that is the yardstick: not equalized."""
        return self._model_after(sum(step.stage.name not in FOR_INT8 for step in self._steps) - 1)

    def float_steps(self) -> tuple[FloatStep, ...]:
        """Return the network that came in and what each stage made of it, up to the yardstick."""
        steps = [FloatStep(name="float", key=self.trace_key, model=self.original)]
        for index, step in enumerate(self._steps):
            if step.stage.name not in FOR_INT8:
                made = partial(self._model_after, index)
                steps.append(FloatStep(name=step.stage.name, key=step.key, model=made))
        return tuple(steps)

    def model(self) -> Model:
        """Return the end of the chain."""
        return self._model_after(len(self._steps) - 1)

    def weight_folders(self) -> tuple[Path, ...]:
        """Return the store entries of the chain, first to last."""
        return tuple(self._entry(key) for key in (self.trace_key, *(step.key for step in self._steps)))

    def _entry(self, key: str) -> Path:
        folder = self.store.get(key)
        if folder is None:
            raise FileNotFoundError(f"store entry {key} vanished while a build used it")
        return folder

    @cached_property
    def _example(self) -> tuple[torch.Tensor, ...]:
        """One real sample."""
        import torch

        samples = self.data.calibrate or self.data.evaluate
        first = next(samples.batches(1))
        return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in first.inputs)

    @cached_property
    def _traced(self) -> tuple[Model, StageRecord]:
        from edgeport.stages.narrow import traced

        start = time.perf_counter()
        model, metrics = traced(self.network, self._example, self.data.classes)
        self.data.check_labels(model)
        if self.plan.repair_bias:  # what it lacks is told before hours of training
            find_damage(model, self.data.train, self.data.tune)
        return model, StageRecord(name="trace", options={}, seconds=time.perf_counter() - start, metrics=metrics)

    def _traced_record(self) -> StageRecord:
        if self.store.get(self.trace_key) is None:
            self.progress.log("trace")
            model, record = self._traced
            with self.store.put(self.trace_key) as fresh:
                save_stage(fresh, model, record)
        return read_record(self._entry(self.trace_key))

    @cached_property
    def _steps(self) -> tuple[_Step, ...]:
        taught = [network.fingerprint for network in self._named_teachers]
        chosen = sequence(self.plan, self.data, teachers=taught, runtimes=self.runtimes)
        steps: list[_Step] = []
        key = self.trace_key
        for stage, digests in chosen:
            key = digest(key, stage.name, asdict(stage), digests, self.plan.seed)
            steps.append(_Step(stage=stage, key=key))
        return tuple(steps)

    def _model_after(self, index: int) -> Model:
        if index < 0:
            return self._traced[0]
        if index not in self._models:
            step = self._steps[index]
            before = self._model_after(index - 1)
            folder = self.store.get(step.key)
            restored = restore_stage(step.stage.name, before, folder) if folder is not None else None
            self._models[index] = restored or self._run(step, before)
        return self._models[index]

    def _run(self, step: _Step, before: Model) -> Model:
        context = Context(
            seed=self.plan.seed,
            threads=self.plan.threads,
            scratch=self.store.scratch(step.key),
            teachers=self._teachers if step.stage.name in TAUGHT else (),
            calibrate=self.data.calibrate,
            train=self.data.train,
            tune=self.data.tune,
            original=self.original() if step.stage.name == "prune" else None,
            latency=self.latency,
            classes_elsewhere=self.data.classes_elsewhere,
            progress=self.progress,
        )
        versions = tensor_versions(before)
        start = time.perf_counter()
        model, metrics = step.stage(before, context)
        seconds = time.perf_counter() - start
        check_stage(step.stage.name, before, versions, model)
        record = StageRecord(name=step.stage.name, options=asdict(step.stage), seconds=seconds, metrics=metrics)
        with self.store.put(step.key) as fresh:
            save_stage(fresh, model, record)
        self.store.drop_scratch(step.key)
        return model
