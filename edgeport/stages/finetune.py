"""Finetune: trains the weights of the int8 files on the grid that they are rounded to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeport.errors import ConfigError, StageError

if TYPE_CHECKING:
    from edgeport.stages.context import Context
    from edgeport.types import Model, WeightBits


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Quantization-aware training against the teachers, after calibration.

    The float network stays as it is: what is trained goes into the int8 files only, instead of bias correction and
    AdaRound. One training serves all targets: it sees weights of the fewest bits that any of them has.

    Attributes:
        epochs: passes over the training data, >= 1.
        weight_bits: of the targets' files.
        temperature: as in `Distill`.
        hard_labels: as in `Distill`.
        learning_rate: highest of the schedule; a tenth of what a float student takes.
        batch_size: samples a step.
        keep_zeros: weights that are zero stay zero.
    """

    name: ClassVar[str] = "finetune"

    epochs: int
    weight_bits: tuple[WeightBits, ...] = (8,)
    temperature: float = 4.0
    hard_labels: float = 0.1
    learning_rate: float = 0.002
    batch_size: int = 128
    keep_zeros: bool = False

    def __call__(self, model: Model, context: Context) -> tuple[Model, dict[str, object]]:
        """Return the model with its `corrections`, and figures of the training.

        Raises:
            ConfigError: no training data, or data that do not fit the network.
            StageError: the network is not calibrated, has nothing to train, or the training diverged.
        """
        from edgeport.graph.canonical import canonicalize
        from edgeport.graph.moves import on_source_grids
        from edgeport.quant.corrections import Corrections
        from edgeport.quant.straight_through import int8_student, trained_layers
        from edgeport.stages.distill import check_teachers, checked_data, fit, objective, training_figures
        from edgeport.training.loop import Recipe

        if self.epochs < 1:
            raise ConfigError(f"finetune: epochs is {self.epochs}; it must be at least 1")
        if model.calibration is None:
            raise StageError("finetune: the network is not calibrated")
        data = checked_data("--qat", model, context)
        teachers = context.teachers if self.hard_labels < 1 else ()
        check_teachers(model, teachers, self.name)
        if not model.has_dynamic_batch:
            raise StageError("finetune: the network takes batches of one only, so it cannot be trained; drop --qat")
        module = canonicalize(model.module, model.example_inputs)
        ranges = on_source_grids(module, model.calibration.ranges)
        student = int8_student(module, ranges, min(self.weight_bits))
        if not list(student.parameters()):
            raise StageError("finetune: no layer of this network is quantized, so nothing can be trained; drop --qat")
        recipe = Recipe(
            objective=objective(model, context, temperature=self.temperature, hard_labels=self.hard_labels),
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup=0.1,
            weight_decay=0.0,
            clip_norm=5.0,
            augment=True,
            seed=context.seed,
            dtype="float32",  # bfloat16 is coarser than the grid
            keep_zeros=self.keep_zeros,
        )
        networks = (*(teacher.module for teacher in teachers), student)
        trained = fit(networks, data, recipe, context, name=self.name)
        layers = {bits: trained_layers(module, trained.state.tensors, ranges, bits) for bits in self.weight_bits}
        figures = training_figures(trained, recipe, samples=len(data), threads=context.threads)
        return model.with_(corrections=Corrections(layers=layers)), {
            **figures,
            "layers": len(next(iter(layers.values()))),
            "bits": min(self.weight_bits),
        }
