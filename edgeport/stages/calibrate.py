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

    from edgeport.stages.context import Context
    from edgeport.types import Model


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Stream the calibration samples through the float network and keep statistics of its activations.

    Attributes:
        method: how ranges are made of the statistics: `minmax` or `percentile`.
        percent: share of values that `percentile` keeps.
    """

    name: ClassVar[str] = "calibrate"
    method: Method = "minmax"
    percent: float = 99.99

    def __call__(self, model: Model, context: Context) -> tuple[Model, dict[str, object]]:
        """Return the model with its `calibration`, and figures about it.

        Raises:
            ConfigError: no calibration data.
            StageError: an activation is NaN or infinite; the layer is named.
        """
        import torch

        dataset = context.calibrate
        if dataset is None:
            raise ConfigError("int8 needs --calibrate DATA; without samples use --precision float32")
        executor = Executor(canonicalize(model.module, model.example_inputs), model.example_inputs)
        observers: dict[str, Observer] = {}
        size = batch_size([spec.shape for spec in model.inputs]) if model.has_dynamic_batch else 1
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
        calibration = Calibration(
            statistics={key: observer.statistics() for key, observer in observers.items()},
            samples=seen,
            method=self.method,
            percent=self.percent,
        )
        dead = sorted(key for key, found in calibration.statistics.items() if found.low == found.high == 0.0)
        return model.with_(calibration=calibration), {
            "samples": seen,
            "activations": len(observers),
            "always_zero": dead,
        }
