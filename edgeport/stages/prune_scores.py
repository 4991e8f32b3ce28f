"""Scores of every channel group by one criterion, on samples where it needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeport.errors import ConfigError, EdgeportError, StageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from numpy.typing import NDArray
    from torch.fx import GraphModule

    from edgeport.dataset import Dataset
    from edgeport.pruning.groups import Groups
    from edgeport.pruning.votes import Vote
    from edgeport.stages.context import Context
    from edgeport.stages.prune_repair import Repair
    from edgeport.types import Model

    Scores = Mapping[str, NDArray[np.float64]]  # group name -> (channels,)

SAMPLES = 512
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Importance of every channel.

    Attributes:
        scores: group name -> (channels,).
        facts: for the report: the samples, the loss, where another criterion stood in.
    """

    scores: Scores
    facts: Mapping[str, object]


def unavailable(importance: str, model: Model, context: Context) -> EdgeportError | None:
    """Return why a criterion cannot be had, as the error that it is where it was asked for; None where it can."""
    from edgeport.pruning.importance import BATCH_NORM, ON_SAMPLES
    from edgeport.pruning.operation import arguments, operator_name

    if importance in ON_SAMPLES and context.train is None and context.calibrate is None:
        return ConfigError(f"--importance {importance} needs samples: give --calibrate DATA")
    if importance == BATCH_NORM and not any(
        operator_name(node) == "batch_norm" and arguments(node).get("weight") is not None
        for node in model.module.graph.nodes
    ):
        return StageError("prune: --importance bn: the network has no batch norm with a scale; take another one")
    return None


def score(importance: str, groups: Groups, model: Model, context: Context, *, repair: Repair) -> Scored:
    """Return the scores by one criterion, one of `edgeport.pruning.importance.NAMES`.

    Args:
        importance: the criterion.
        groups: what may be pruned.
        model: the network that came in: its inputs and outputs.
        context: samples and seed.
        repair: of the network that `groups` was found in.

    Raises:
        ConfigError: it needs samples, and there are none that fit.
        StageError: it needs batch norms, and there are none.
    """
    from edgeport.pruning.importance import BATCH_NORM, GROUP, RECONSTRUCTION, channel_scores
    from edgeport.pruning.votes import batch_norm_votes, group_norms, weight_votes

    if (error := unavailable(importance, model, context)) is not None:
        raise error
    module = repair.module
    if importance == RECONSTRUCTION:
        return _by_reconstruction(groups, repair)
    if importance == BATCH_NORM:
        return _voted(module, groups, batch_norm_votes(module, groups), {})
    if importance == GROUP:
        votes = weight_votes(module, groups)
        return Scored(scores={group.name: group_norms(group, votes) for group in groups.groups}, facts={})
    if importance == "activation":
        return _by_activation(module, groups, model, context)
    measured, facts = _taylor(module, groups, model, context) if importance == "taylor" else (None, {})
    return Scored(
        scores={group.name: channel_scores(module, group, importance, measured) for group in groups.groups},
        facts=facts,
    )


def _by_reconstruction(groups: Groups, repair: Repair) -> Scored:
    from edgeport.pruning.elimination import elimination_scores
    from edgeport.pruning.votes import group_norms, weight_votes

    compensation, facts = repair.compensation()
    scores, others = {}, []
    for group in groups.groups:
        readings = compensation.readings(group)
        if readings is None:
            others.append(list(group.layers))
            scores[group.name] = group_norms(group, weight_votes(repair.module, groups))
        else:
            scores[group.name] = elimination_scores(readings, group.channels)
    return Scored(scores=scores, facts={**facts, "by_group": others})


def _by_activation(module: GraphModule, groups: Groups, model: Model, context: Context) -> Scored:
    from edgeport.pruning.votes import activation_votes

    flag, data = _samples(model, context)
    size = BATCH if model.has_dynamic_batch else 1
    votes = activation_votes(module, groups, (inputs for inputs, _ in _batches(data, size)))
    return _voted(module, groups, votes, {"data": flag, "samples": len(data)})


def _voted(module: GraphModule, groups: Groups, votes: Sequence[Vote], facts: dict[str, object]) -> Scored:
    """Score by votes, and by l1 where nothing votes on a group; the facts name the layers of those."""
    from edgeport.pruning.importance import channel_scores
    from edgeport.pruning.votes import voted_scores

    scores, others = {}, []
    for group in groups.groups:
        found = voted_scores(group, votes)
        if found is None:
            others.append(list(group.layers))
        scores[group.name] = found if found is not None else channel_scores(module, group, "l1")
    return Scored(scores=scores, facts={**facts, "by_l1": others})


def _taylor(
    module: GraphModule, groups: Groups, model: Model, context: Context
) -> tuple[Mapping[tuple[str, int], NDArray[np.float64]], dict[str, object]]:
    from edgeport.pruning.importance import taylor
    from edgeport.training.modes import ends_in_softmax

    flag, data = _samples(model, context)
    is_labelled = data.has_labels and _is_class_scores(model)
    if is_labelled:
        data.check_labels(model.outputs[0].shape[0])
    size = BATCH if model.has_dynamic_batch else 1
    batches = ((inputs, labels if is_labelled else None) for inputs, labels in _batches(data, size))
    are_probabilities = is_labelled and ends_in_softmax(module)
    found = taylor(module, groups.groups, batches, seed=context.seed, are_probabilities=are_probabilities)
    loss = "cross-entropy with the labels" if is_labelled else "distance to the unpruned outputs"
    return found, {"data": flag, "samples": len(data), "loss": loss}


def _is_class_scores(model: Model) -> bool:
    return len(model.outputs) == 1 and len(model.outputs[0].shape) == 1 and model.outputs[0].shape[0] >= 2


def check_fit(flag: str, data: Dataset, model: Model) -> None:
    """Raise ConfigError where samples are not of the network's input shapes."""
    wanted = tuple(spec.shape for spec in model.inputs)
    if data.shapes != wanted:
        raise ConfigError(f"{flag}: samples of shape {data.shapes}; the network takes {wanted}")


def _samples(model: Model, context: Context) -> tuple[str, Dataset]:
    flag, data = ("--train", context.train) if context.train is not None else ("--calibrate", context.calibrate)
    if data is None:
        raise ConfigError("the importance of filters is measured on samples: give --calibrate DATA")
    check_fit(flag, data, model)
    return flag, data.evenly(SAMPLES)


def _batches(data: Dataset, size: int) -> Iterator[tuple[list[torch.Tensor], torch.Tensor | None]]:
    import torch

    for batch in data.batches(size):
        inputs = [torch.from_numpy(np.ascontiguousarray(array)) for array in batch.inputs]
        labels = None if batch.labels is None else torch.from_numpy(np.asarray(batch.labels, dtype=np.int64))
        yield inputs, labels
