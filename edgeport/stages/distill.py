"""Distill: fine-tunes the student, usually pruned, to give the outputs of the float network that came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgeport.errors import ConfigError, StageError

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from edgeport.dataset import Dataset
    from edgeport.stages.context import Context
    from edgeport.training.loop import Recipe, Trained
    from edgeport.training.losses import ClassObjective, Objective, ValueObjective
    from edgeport.types import Model


LEAST_SHARE = 0.9  # of the classes: labels of a few hundred samples of 1000 classes seldom show the last one
CHECKPOINT = "{}.safetensors"  # in the stage's scratch folder


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Train the student against the traced teachers.

    One output of class scores, (classes,), with labels or class names in the training data or, for as many classes, in
    another data set of the build: softened divergence plus cross-entropy where there are labels (`ClassObjective`). Any
    other network: relative squared error of every output (`ValueObjective`).
    SGD with Nesterov momentum 0.9 and a one-cycle learning rate.

    Attributes:
        epochs: passes over the training data, >= 1.
        temperature: softens both distributions, > 0.
        hard_labels: share of the loss that comes from the labels, where there are labels, 0..1; 1 asks no teacher.
        features: weight of the distance between attention maps (`FeatureObjective`); 0: outputs alone.
        learning_rate: highest learning rate of the schedule, > 0.
        warmup: share of the steps in which the learning rate rises, 0..1.
        batch_size: samples a step, >= 2.
        weight_decay: L2 penalty of convolution and linear weights, >= 0.
        clip_norm: longest gradient, > 0.
        augment: flip colour images and shift images of at least 16 x 16 pixels; student and teacher see the same.
        keep_zeros: weights that are zero when training starts stay zero.
        dtype: number format of convolutions and products while training. `auto` is bfloat16 for class scores where the
            processor is faster in it, else float32; values of a regression need float32's digits.
    """

    name: ClassVar[str] = "distill"

    epochs: int
    temperature: float = 4.0
    hard_labels: float = 0.1
    features: float = 0.0
    learning_rate: float = 0.02
    warmup: float = 0.1
    batch_size: int = 128
    weight_decay: float = 5e-4
    clip_norm: float = 5.0
    augment: bool = True
    keep_zeros: bool = False
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"

    def __call__(self, model: Model, context: Context) -> tuple[Model, dict[str, object]]:
        """Return the trained model and figures: losses, samples, seconds, number format, threads, where it resumed.

        Raises:
            ConfigError: an option out of range, no training data, or data that do not fit the network.
            StageError: teacher and student differ in what they return, or the training diverged.
        """
        self._check_options()
        data = checked_data("--distill", model, context)
        if not model.has_dynamic_batch:
            raise StageError("distill: the network takes batches of one only, so it cannot be trained; drop --distill")
        teachers = context.teachers if self.hard_labels < 1 else ()
        if not teachers and self.hard_labels < 1:
            raise ValueError("context has no teachers; distill needs the traced float network")
        check_teachers(model, teachers, self.name)

        from edgeport.training.modes import with_tensors

        on_outputs = objective(model, context, temperature=self.temperature, hard_labels=self.hard_labels)
        chosen: Objective = on_outputs
        networks = (*(teacher.module for teacher in teachers), model.module)
        if self.features:
            networks, chosen = with_features(networks, model, on_outputs, self.features)
        recipe = self._recipe(chosen, model.module, context.seed)
        trained = fit(networks, data, recipe, context, name=self.name)
        result = model.with_(module=with_tensors(model.module, trained.state.tensors), calibration=None)
        return result, training_figures(trained, recipe, samples=len(data), threads=context.threads)

    def _check_options(self) -> None:
        limits = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "temperature": (self.temperature > 0, "above 0"),
            "hard_labels": (0 <= self.hard_labels <= 1, "between 0 and 1"),
            "features": (self.features >= 0, "at least 0"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "warmup": (0 <= self.warmup <= 1, "between 0 and 1"),
            "batch_size": (self.batch_size >= 2, "at least 2"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "clip_norm": (self.clip_norm > 0, "above 0"),
        }
        for name, (is_allowed, allowed) in limits.items():
            if not is_allowed:
                raise ConfigError(f"distill: {name} is {getattr(self, name)}; it must be {allowed}")

    def _recipe(self, objective: Objective, module: GraphModule, seed: int) -> Recipe:
        from edgeport.training.loop import Recipe
        from edgeport.training.losses import ClassObjective, FeatureObjective

        inner = objective.on_outputs if isinstance(objective, FeatureObjective) else objective
        automatic = fastest_dtype(module) if isinstance(inner, ClassObjective) else "float32"
        return Recipe(
            objective=objective,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            augment=self.augment,
            keep_zeros=self.keep_zeros,
            seed=seed,
            dtype=automatic if self.dtype == "auto" else self.dtype,
        )


def fastest_dtype(module: GraphModule) -> Literal["bfloat16", "float32"]:
    """Return bfloat16 where the processor trains this network faster in it, else float32.

    That is so with matrix units (AMX), and with AVX-512 BF16 on AMD's processors for networks without grouped
    convolutions: forward and backward of ResNet-56, a batch of 128, took 0.67 s instead of 1.18 on one core of an EPYC,
    of a network of inverted residuals 0.59 s instead of 0.48. Intel's AVX-512 BF16 alone is not enough: ResNet-20's
    convolutions took 368 ms with oneDNN's avx512_core_bf16 kernels and 228 ms with its float32 ones on a Xeon without
    AMX.
    """
    import torch

    from edgeport.devices.processor import is_amd
    from edgeport.pruning.operation import arguments, operator_name

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # untyped in torch
        return "float32"
    if torch.cpu._is_amx_tile_supported():
        return "bfloat16"
    is_grouped = any(
        operator_name(node).startswith("conv") and arguments(node).get("groups", 1) > 1 for node in module.graph.nodes
    )
    is_faster = torch.cpu._is_avx512_bf16_supported() and is_amd() and not is_grouped
    return "bfloat16" if is_faster else "float32"


def checked_data(flag: str, model: Model, context: Context) -> Dataset:
    """Return the training samples of a stage that a flag switched on.

    Raises:
        ConfigError: there are none, or they do not fit the network.
    """
    data = context.train
    if data is None:
        raise ConfigError(f"{flag} needs --train DATA")
    wanted = tuple(spec.shape for spec in model.inputs)
    if data.shapes != wanted:
        raise ConfigError(f"--train: samples of shape {_shown(data.shapes)}; the network takes {_shown(wanted)}")
    dtypes = tuple(spec.dtype for spec in model.inputs)
    if data.dtypes != dtypes:
        raise ConfigError(f"--train: samples are {', '.join(data.dtypes)}; the network takes {', '.join(dtypes)}")
    if len(data) < 2:
        raise ConfigError(f"--train: {len(data)} sample; training needs at least 2")
    if _is_class_scores(model) and data.has_labels:
        data.check_labels(model.outputs[0].shape[0])
    return data


def objective(
    model: Model, context: Context, *, temperature: float, hard_labels: float
) -> ClassObjective | ValueObjective:
    """Return what a student of this network learns from the training samples (see `Distill`).

    Raises:
        ConfigError: labels alone are to be learned from, and there are none.
    """
    from edgeport.training.losses import ClassObjective, ValueObjective
    from edgeport.training.modes import ends_in_softmax

    data = context.train
    if data is None:
        raise ValueError("context has no training samples")
    if hard_labels == 1 and not data.has_labels:
        raise ConfigError("--hard-labels 1 learns from labels alone, and the samples of --train have none")
    if hard_labels == 1 and not _is_class_scores(model):
        raise ConfigError("--hard-labels 1 learns from class labels, and the network does not give class scores")

    is_told = data.has_labels or bool(data.classes)
    if _is_class_scores(model) and (is_told or _are_as_many(context.classes_elsewhere, model.outputs[0].shape[0])):
        return ClassObjective(
            temperature=temperature, hard_labels=hard_labels, are_probabilities=ends_in_softmax(model.module)
        )
    return ValueObjective()


def with_features(
    networks: tuple[GraphModule, ...], model: Model, on_outputs: ClassObjective | ValueObjective, weight: float
) -> tuple[tuple[GraphModule, ...], Objective]:
    """Return teachers and student with attention maps after their outputs, and the objective that compares them.

    Raises:
        ConfigError: nobody is asked, or no stages of teachers and student end in feature maps of one size.
    """
    from edgeport.training.features import shared_sizes, with_attention
    from edgeport.training.losses import FeatureObjective

    if len(networks) == 1:
        raise ConfigError("--features learns from a teacher, and --hard-labels 1 asks none; drop one of them")
    sizes = shared_sizes(networks, model.example_inputs)
    if not sizes:
        raise ConfigError("--features: teacher and student have no feature maps of one size; drop it")
    watched = tuple(with_attention(network, model.example_inputs, sizes) for network in networks)
    return watched, FeatureObjective(on_outputs=on_outputs, maps=len(sizes), weight=weight)


def fit(networks: tuple[GraphModule, ...], data: Dataset, recipe: Recipe, context: Context, *, name: str) -> Trained:
    """Train the last network by the others with a progress bar and, where there is a scratch folder, checkpoints."""
    from edgeport.training import loop, schedule
    from edgeport.training.checkpoint import fingerprint

    keep = loop.Keep()
    if context.scratch is not None:
        options = {**asdict(recipe), "kind": type(recipe.objective).__name__, "threads": context.threads}
        mark = fingerprint(options, networks, data.digest)
        keep = loop.Keep(path=context.scratch / CHECKPOINT.format(name), fingerprint=mark)
    total = recipe.epochs * schedule.steps_per_epoch(len(data), recipe.batch_size)
    done = 0
    with context.progress.task(name, total) as task:

        def show(step: loop.Step) -> None:
            nonlocal done
            task.note(f"epoch {step.epoch}/{recipe.epochs} loss {step.loss:.3f}")
            task.advance(step.step - done)  # more than one after a resume
            done = step.step

        with loop.threads(context.threads):
            trained = loop.fit(networks, data, recipe, keep=keep, on_step=show)
        task.advance(total - done)
    if trained.was_discarded:
        context.progress.log(f"{name}: a checkpoint of another training was replaced")
    return trained


def training_figures(trained: Trained, recipe: Recipe, *, samples: int, threads: int) -> dict[str, object]:
    """Return what a report says of a training."""
    state = trained.state
    return {
        "epochs": state.epochs,
        "samples": samples,
        "objective": type(recipe.objective).__name__,
        "loss_per_epoch": list(state.losses),
        "loss": state.losses[-1],
        "seconds": sum(state.seconds),
        "seconds_per_epoch": list(state.seconds),
        "dtype": recipe.dtype,
        "threads": threads,
        "resumed_from_epoch": trained.resumed_from_epoch,
        "diverged": trained.diverged,
    }


def check_teachers(model: Model, teachers: Sequence[Model], name: str) -> None:
    """Run one sample through all networks and compare what comes out.

    Raises:
        StageError: another number of outputs, another shape, or probabilities on one side only.
    """
    import torch

    from edgeport.training.modes import ends_in_softmax
    from edgeport.training.teacher import outputs_of

    def shapes(network: Model) -> list[tuple[int, ...]]:
        with torch.no_grad():
            found = outputs_of(network.module, model.example_inputs, "float32")
        return [tuple(output.shape) for output in found]

    given = shapes(model)
    for teacher in teachers:
        wanted = shapes(teacher)
        if given != wanted:
            raise StageError(
                f"{name}: the student returns {_shown(given)}, the teacher {_shown(wanted)}; they must match"
            )
        if ends_in_softmax(model.module) != ends_in_softmax(teacher.module):
            raise StageError(f"{name}: one of student and teacher ends in a softmax and the other does not")


def _is_class_scores(model: Model) -> bool:
    """Whether the network returns one vector a sample, of two values or more."""
    return len(model.outputs) == 1 and len(model.outputs[0].shape) == 1 and model.outputs[0].shape[0] >= 2


def _are_as_many(classes: int, scores: int) -> bool:
    """Whether labels or names that speak of so many classes are of these scores: as many, or nearly."""
    return LEAST_SHARE * scores < classes <= scores


def _shown(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join("x".join(str(size) for size in shape) or "scalar" for shape in shapes)
