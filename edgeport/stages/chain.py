"""The stages trace, prune, sparsify, distill, equalize, calibrate, correct: which a plan switches on, and their keys.

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
from edgeport.store import Store, digest
from edgeport.types import Model, Precision, StageRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import torch

    from edgeport.graph.network import Network
    from edgeport.plan import Plan
    from edgeport.stages.calibrate import Calibrate
    from edgeport.stages.correct import Correct
    from edgeport.stages.data import Data
    from edgeport.stages.distill import Distill
    from edgeport.stages.equalize import Equalize
    from edgeport.stages.finetune import Finetune
    from edgeport.stages.prune import Prune
    from edgeport.stages.sparsify import Sparsify
    from edgeport.types import WeightBits

    Stage = Prune | Sparsify | Distill | Equalize | Calibrate | Correct | Finetune

BYTES_A_WEIGHT: Mapping[Precision, int] = {"int8": 1, "dynamic_int8": 1, "float16": 2, "float32": 4}
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
    ) -> None:
        """Set up; nothing is computed yet. `teachers`: what a student learns from instead of `network`."""
        self.plan, self.network, self.data, self._named_teachers = plan, network, data, teachers
        self.store, self.progress = store, progress
        self._models: dict[int, Model] = {}

    @cached_property
    def trace_key(self) -> str:
        """Key of the network as it came in."""
        samples = self.data.calibrate or self.data.evaluate
        interface = [list(samples.shapes), list(samples.dtypes)]
        return digest("trace", self.network.fingerprint, interface, package_versions(TRACE_PACKAGES), code_digest())

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
        from edgeport.stages.trace import Trace

        traced = tuple(Trace()(network, self._example)[0] for network in self._named_teachers)
        return traced or (self.original(),)

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
        from edgeport.stages.trace import Trace

        start = time.perf_counter()
        model, metrics = Trace()(self.network, self._example)
        self._check_labels(model)
        return model, StageRecord(name="trace", options={}, seconds=time.perf_counter() - start, metrics=metrics)

    def _traced_record(self) -> StageRecord:
        if self.store.get(self.trace_key) is None:
            self.progress.log("trace")
            model, record = self._traced
            with self.store.put(self.trace_key) as fresh:
                save_stage(fresh, model, record)
        return read_record(self._entry(self.trace_key))

    def _check_labels(self, model: Model) -> None:
        if len(model.outputs) == 1 and len(model.outputs[0].shape) == 1:
            for samples in (self.data.evaluate, self.data.train):
                if samples is not None and samples.has_labels:
                    samples.check_labels(model.outputs[0].shape[0])

    @cached_property
    def _steps(self) -> tuple[_Step, ...]:
        from edgeport.stages.calibrate import Calibrate
        from edgeport.stages.correct import METHODS, Correct
        from edgeport.stages.distill import Distill
        from edgeport.stages.equalize import Equalize
        from edgeport.stages.finetune import Finetune
        from edgeport.stages.prune import Prune
        from edgeport.stages.sparsify import Sparsify

        plan, train, calibrate = self.plan, self.data.train, self.data.calibrate
        lessons = [train.digest, *(network.fingerprint for network in self._named_teachers)] if train else []
        chosen: list[tuple[Stage, list[str]]] = []
        if plan.prune or plan.prune_blocks or plan.budget:
            prune = Prune(
                ratio=plan.prune,
                blocks=plan.prune_blocks,
                channel_multiple=plan.channel_multiple,
                importance=plan.importance,
                allocation=plan.allocation,
                budget=plan.budget,
                bytes_a_weight=BYTES_A_WEIGHT[plan.precision],
            )
            judges = self.data.tune if plan.importance == "auto" or plan.allocation == "sensitivity" else None
            chosen.append((prune, [samples.digest for samples in (train, calibrate, judges) if samples is not None]))
        if plan.sparsity:
            sparsify = Sparsify(sparsity=plan.sparsity)
            chosen.append((sparsify, [samples.digest for samples in (train, calibrate) if samples is not None]))
        if plan.distill and train is not None:
            distill = Distill(
                epochs=plan.distill,
                temperature=plan.temperature,
                hard_labels=plan.hard_labels,
                keep_zeros=bool(plan.sparsity),
            )
            chosen.append((distill, lessons))
        if calibrate is not None:
            uses = [samples.digest for samples in (calibrate, self.data.tune) if samples is not None]
            auto, corrections = plan.corrections == "auto", plan.corrections
            bits: tuple[WeightBits, ...] = tuple(
                sorted({plan.weight_bits or target.int8.weight_bits for target in plan.targets})
            )
            if auto or "equalize" in corrections:
                chosen.append((Equalize(mode="auto" if auto else "always", weight_bits=bits[0]), uses))
            chosen.append((Calibrate(method=plan.calibration), uses))
            if plan.qat and train is not None:
                finetune = Finetune(
                    epochs=plan.qat,
                    weight_bits=bits,
                    temperature=plan.temperature,
                    hard_labels=plan.hard_labels,
                    keep_zeros=bool(plan.sparsity),
                )
                chosen.append((finetune, lessons))
            elif auto:
                chosen.append((Correct(weight_bits=bits), uses))
            elif methods := tuple(name for name in METHODS if name in corrections):
                chosen.append((Correct(methods=methods, weight_bits=bits), uses))
        steps: list[_Step] = []
        key = self.trace_key
        for stage, digests in chosen:
            key = digest(key, stage.name, asdict(stage), digests, plan.seed)
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
