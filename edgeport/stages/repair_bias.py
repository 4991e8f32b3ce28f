"""Repair: shifts the scores of classes that the training samples lack, after distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeport.errors import ConfigError, StageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeport.dataset import Dataset
    from edgeport.graph.head import Head
    from edgeport.stages.context import Context
    from edgeport.types import Model


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What there is to repair.

    Attributes:
        head: the layer of the class scores.
        bias: its bias, a state-dict name.
        rare: classes that the training samples lack or hold too rarely.
        names: what these are called.
        train_samples: how many the training samples hold of each.
        tune: labelled samples to choose on.
    """

    head: Head
    bias: str
    rare: tuple[int, ...]
    names: tuple[str, ...]
    train_samples: tuple[int, ...]
    tune: Dataset


def find_damage(model: Model, train: Dataset | None, tune: Dataset | None) -> Damage:
    """Return the classes that are rare in the training samples, once everything is there to repair them.

    Raises:
        ConfigError: the training or the tune samples have no labels, or the tune samples none of the rare classes.
        StageError: the class scores do not come from a layer with a bias.
    """
    from edgeport.graph.head import find_head
    from edgeport.training.bias_repair import rare_classes

    if train is None or not train.has_labels:
        raise ConfigError("--repair-bias needs labels in --train: they tell which classes are rare")
    if tune is None or not tune.has_labels:
        raise ConfigError("--repair-bias needs labelled samples to choose on; give --tune DATA with labels")
    head = find_head(model.module, model.example_inputs, flag="--repair-bias")
    if head.bias is None:
        raise StageError(
            f"--repair-bias: the layer '{head.layer}' that makes the class scores has no bias; give it one, or drop"
            " --repair-bias"
        )
    for samples in (train, tune):
        samples.check_labels(head.classes)
    labels, called = _labels(train), train.classes or tune.classes
    rare = rare_classes(labels, head.classes)
    names = tuple(called[label] if label < len(called) else str(label) for label in rare)
    if rare and not np.isin(_labels(tune), rare).any():
        raise ConfigError(
            f"--repair-bias: the tune samples have none of the classes that --train lacks ({', '.join(names)}); give"
            " --tune DATA that has"
        )
    counts = tuple(int(np.sum(labels == label)) for label in rare)
    return Damage(head=head, bias=head.bias, rare=rare, names=names, train_samples=counts, tune=tune)


@dataclass(frozen=True, kw_only=True)
class RepairBias:
    """Add one offset to the biases of all classes that are rare in the training samples.

    The offset is the one that names most of the labelled tune samples rightly (`edgeport.training.bias_repair`).
    """

    name: ClassVar[str] = "repair"

    def __call__(self, model: Model, context: Context) -> tuple[Model, dict[str, object]]:
        """Return the repaired network and figures: the classes, the offset, top-1 before and after.

        Raises:
            ConfigError: as `find_damage`.
            StageError: as `find_damage`.
        """
        from edgeport.training.bias_repair import best_offset
        from edgeport.training.modes import tensors_of, with_tensors

        damage = find_damage(model, context.train, context.tune)
        figures: dict[str, object] = {
            "classes": list(damage.names),
            "train_samples": list(damage.train_samples),
            "tune_samples": len(damage.tune),
        }
        if not damage.rare:
            return model, figures
        labels = _labels(damage.tune)
        logits = _logits(model, damage.head, damage.tune)
        found = best_offset(logits, labels, damage.rare)
        tensors = tensors_of(model.module)
        bias = tensors[damage.bias].clone()
        bias[list(damage.rare)] += found.offset
        repaired = model.with_(module=with_tensors(model.module, {**tensors, damage.bias: bias}), calibration=None)
        before = logits.argmax(axis=1) == labels
        after = _logits(repaired, damage.head, damage.tune).argmax(axis=1) == labels
        is_rare = np.isin(labels, damage.rare)
        return repaired, {
            **figures,
            "offset": found.offset,
            "tune_top1_before": 100 * float(before.mean()),
            "tune_top1_after": 100 * float(after.mean()),
            "tune_recall_before": 100 * float(before[is_rare].mean()),
            "tune_recall_after": 100 * float(after[is_rare].mean()),
        }


def _labels(samples: Dataset) -> NDArray[np.int64]:
    labels = samples.labels()
    if labels is None:
        raise ValueError(f"{samples.name} has no labels")
    return labels


def _logits(model: Model, head: Head, samples: Dataset) -> NDArray[np.float32]:
    """Return the scores before any softmax, (samples, classes)."""
    import torch

    from edgeport.graph.canonical import canonicalize
    from edgeport.graph.execute import Executor, batch_size
    from edgeport.graph.head import logits_of

    executor = Executor(canonicalize(logits_of(model.module, head), model.example_inputs), model.example_inputs)
    size = batch_size([spec.shape for spec in model.inputs]) if model.has_dynamic_batch else 1
    parts = [
        executor.run([torch.from_numpy(np.ascontiguousarray(array)) for array in batch.inputs])[0]
        for batch in samples.batches(size)
    ]
    return torch.cat(parts).detach().float().numpy()
