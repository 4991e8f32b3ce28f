"""Watch every activation once, over the calibration samples, for all targets together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeport.errors import ConfigError, StageError
from edgeport.graph.canonical import canonicalize
from edgeport.graph.execute import Executor, batch_size
from edgeport.quant.calibration import Calibration, Method
from edgeport.quant.observer import Observer

if TYPE_CHECKING:
    import torch

    from edgeport.dataset import Dataset
    from edgeport.stages.context import Context
    from edgeport.types import Model


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Stream the calibration samples through the float network and make ranges of its activations.

    Attributes:
        method: one estimator for all activations, or `auto`: for each the one with the least error downstream.
    """

    name: ClassVar[str] = "calibrate"
    method: Method = "minmax"

    def __call__(self, model: Model, context: Context) -> tuple[Model, dict[str, object]]:
        """Return the model with its `calibration`, and figures about it.

        Raises:
            ConfigError: no calibration data.
            StageError: an activation is NaN or infinite; the layer is named.
        """
        from edgeport.quant.choice import Chooser, Chosen, fixed_choices

        dataset = context.calibrate
        if dataset is None:
            raise ConfigError("int8 needs --calibrate DATA; without samples use --precision float32")
        module = canonicalize(model.module, model.example_inputs)
        executor = Executor(module, model.example_inputs)
        size = batch_size([spec.shape for spec in model.inputs]) if model.has_dynamic_batch else 1
        observers = _observe(executor, dataset, size, context)
        statistics = {key: observer.statistics() for key, observer in observers.items()}
        if self.method == "auto":
            chooser = Chooser(
                module=module,
                executor=executor,
                samples=dataset,
                held_out=context.tune,
                batch_size=size,
                seed=context.seed,
            )
            chosen = chooser.choose(observers)
        else:
            chosen = Chosen(choices=fixed_choices(statistics, self.method), how=self.method, errors={})
        calibration = Calibration(
            statistics=statistics, samples=len(dataset), method=self.method, choices=chosen.choices
        )
        return model.with_(calibration=calibration), {
            "samples": len(dataset),
            "activations": len(observers),
            "estimators": calibration.estimators(),
            "chosen": chosen.how,
            "errors": dict(chosen.errors),
            "always_zero": sorted(key for key, seen in statistics.items() if seen.low == seen.high == 0.0),
            "outliers": sorted(key for key, seen in statistics.items() if seen.is_set_by_outliers),
        }


def _observe(executor: Executor, dataset: Dataset, size: int, context: Context) -> dict[str, Observer]:
    """Return an observer an activation that has seen all samples."""
    import torch

    observers: dict[str, Observer] = {}
    seen = 0

    def observe(key: str, value: torch.Tensor) -> None:
        if not value.is_floating_point():
            return
        try:
            observers.setdefault(key, Observer()).update(value)
        except ValueError as error:
            raise StageError(
                f"calibrate: activation '{key}' is {error}, samples {seen} to {seen + size - 1} of '{dataset.name}'"
            ) from error

    with context.progress.task("calibrate", len(dataset)) as task:
        for batch in dataset.batches(size):
            executor.run([torch.from_numpy(array) for array in batch.inputs], observe)
            seen += len(batch.inputs[0])
            task.advance(len(batch.inputs[0]))
    return observers
