"""Prune: cuts whole filters out of the network, so that it is smaller and faster on every runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np

from edgeport.errors import ConfigError, StageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch.fx import GraphModule

    from edgeport.dataset import Dataset
    from edgeport.pruning.groups import ChannelGroup, Groups
    from edgeport.pruning.importance import Measured
    from edgeport.stages.context import Context
    from edgeport.types import Model

RECALIBRATION_SAMPLES = 512
RECALIBRATION_BATCH = 32
TAYLOR_SAMPLES = 512
BLOCK_SAMPLES = 64  # on which blocks are compared


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Cut the least important channels of every group of coupled layers.

    Attributes:
        ratio: share of each layer's filters to cut, 0 to below 1.
        blocks: residual blocks to leave out before that, those that change the outputs least.
        channel_multiple: layer widths are rounded to multiples of it.
        importance: how filters are scored; a name in `edgeport.pruning.importance.NAMES`. `taylor` takes gradients on
            training or calibration samples.
    """

    name: ClassVar[str] = "prune"

    ratio: float
    blocks: int = 0
    channel_multiple: int = 8
    importance: str = "l1"

    def __call__(self, model: Model, context: Context) -> tuple[Model, dict[str, object]]:
        """Return the smaller network and what was cut.

        Batch-norm statistics are measured again on training samples, or else calibration samples, when there are any.

        Raises:
            ConfigError: an option out of range, or samples that do not fit the network.
            StageError: nothing can be cut; the message says why.
        """
        from edgeport.pruning.groups import find_groups
        from edgeport.pruning.macs import count_macs, count_parameters
        from edgeport.pruning.structure import describe
        from edgeport.pruning.surgery import prune_channels

        self._check_options()
        shorter, removed = self._without_blocks(model, context)
        groups = find_groups(shorter, model.example_inputs)
        kept = self._kept(shorter, groups, model, context)
        left_whole = [*groups.left_whole, *self._rounded_away(groups, kept)]
        if not removed and all(len(kept[group.name]) == group.channels for group in groups.groups):
            more = f"; and {len(left_whole) - 3} more" if len(left_whole) > 3 else ""
            reasons = "; ".join(left_whole[:3]) or "it has no convolution or linear layer"
            raise StageError(f"prune: nothing can be cut from this network: {reasons}{more}")
        pruned = prune_channels(shorter, groups, kept)
        pruned, recalibration = recalibrated(pruned, model, context)
        metrics: dict[str, object] = {
            "macs_before": count_macs(model.module, model.example_inputs),
            "macs_after": count_macs(pruned, model.example_inputs),
            "parameters_before": count_parameters(model.module),
            "parameters_after": count_parameters(pruned),
            "blocks": [{"block": key, "error": error} for key, error in removed.items()],
            "groups": [
                {"layers": list(group.layers), "channels": group.channels, "kept": len(kept[group.name])}
                for group in groups.groups
            ],
            "left_whole": left_whole,
            "recalibration": recalibration,
            "structure": msgspec.to_builtins(describe(groups, kept, model.inputs, removed=tuple(removed))),
        }
        return model.with_(module=pruned, calibration=None), metrics

    def _check_options(self) -> None:
        from edgeport.pruning.importance import NAMES

        if self.blocks < 0:
            raise ConfigError(f"prune: blocks is {self.blocks}; it must be at least 0")
        if not (0 < self.ratio < 1 or (self.blocks and self.ratio == 0)):
            raise ConfigError(f"prune: ratio is {self.ratio}; it must be above 0 and below 1")
        if self.channel_multiple < 1:
            raise ConfigError(f"prune: channel_multiple is {self.channel_multiple}; it must be at least 1")
        if self.importance not in NAMES:
            known = list(NAMES)
            raise ConfigError(
                f"prune: unknown importance '{self.importance}'; known: {', '.join(known)}"
                f"{did_you_mean(self.importance, known)}"
            )

    def _without_blocks(self, model: Model, context: Context) -> tuple[GraphModule, dict[str, float]]:
        """Return the network without the blocks that do least, and their keys with the error after each."""
        from edgeport.pruning.blocks import find_blocks, least_needed, without_blocks
        from edgeport.quant.trial import first_batches

        if not self.blocks:
            return model.module, {}
        there = len(find_blocks(model.module, model.example_inputs))
        if self.blocks > there:
            raise StageError(f"prune: layer:{self.blocks}, but the network has {there} residual blocks to leave out")
        data = context.calibrate or context.train
        if data is None:
            raise ConfigError("prune: layer needs samples to tell which blocks do least; give --calibrate DATA")
        size = RECALIBRATION_BATCH if model.has_dynamic_batch else 1
        batches = first_batches(data, BLOCK_SAMPLES, size=size)
        removed = least_needed(model.module, model.example_inputs, batches, self.blocks)
        return without_blocks(model.module, model.example_inputs, list(removed)), removed

    def _kept(self, module: GraphModule, groups: Groups, model: Model, context: Context) -> dict[str, tuple[int, ...]]:
        from edgeport.pruning.allocation import allocate, choose
        from edgeport.pruning.importance import channel_scores

        counts = allocate(groups.groups, ratio=self.ratio, channel_multiple=self.channel_multiple)
        measured = None
        if self.importance == "taylor" and self.ratio:
            measured = _taylor(module, groups, model, context)
        return {
            group.name: choose(channel_scores(module, group, self.importance, measured), counts[group.name])
            for group in groups.groups
        }

    def _rounded_away(self, groups: Groups, kept: Mapping[str, Sequence[int]]) -> list[str]:
        return [
            f"left whole: layer '{group.name}' because {group.channels} channels at {_rate(group, self.ratio)} round to"
            f" {group.channels} with channel multiple {self.channel_multiple}"
            for group in groups.groups
            if self.ratio and len(kept[group.name]) == group.channels
        ]


def _taylor(module: GraphModule, groups: Groups, model: Model, context: Context) -> Measured:
    """Return the first-order importance of every filter on samples.

    Raises:
        ConfigError: no samples, samples that do not fit the network, or an output that is not class scores.
    """
    import torch

    from edgeport.pruning.importance import taylor

    flag, data = ("--train", context.train) if context.train is not None else ("--calibrate", context.calibrate)
    if data is None:
        raise ConfigError("--importance taylor needs samples: give --calibrate DATA")
    _check_fit(flag, data, model)
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 1 or model.outputs[0].shape[0] < 2:
        raise ConfigError("--importance taylor needs class scores; the network returns something else")
    data.check_labels(model.outputs[0].shape[0])
    chosen = data.evenly(TAYLOR_SAMPLES)

    def batches() -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        for batch in chosen.batches(RECALIBRATION_BATCH if model.has_dynamic_batch else 1):
            inputs = [torch.from_numpy(np.ascontiguousarray(array)) for array in batch.inputs]
            if batch.labels is not None:
                yield inputs, torch.from_numpy(np.asarray(batch.labels, dtype=np.int64))
            else:
                with torch.no_grad():  # ends before the yield: whoever takes the batch wants gradients
                    answers = model.module(*inputs).argmax(1)
                yield inputs, answers

    return taylor(module, groups.groups, batches())


def _rate(group: ChannelGroup, ratio: float) -> str:
    return f"half the ratio {ratio}, as a residual stream," if group.is_stream else f"ratio {ratio}"


def recalibrated(module: GraphModule, model: Model, context: Context) -> tuple[GraphModule, dict[str, object]]:
    """Return the network with fresh batch-norm statistics, and what they were measured on (or why they were not)."""
    from edgeport.pruning.recalibrate import batch_norms, recalibrate_batch_norm

    if not batch_norms(module):
        return module, {"skipped": "the network has no batch norm"}
    flag, data = ("--train", context.train) if context.train is not None else ("--calibrate", context.calibrate)
    if data is None:
        return module, {"skipped": "no training or calibration samples; batch-norm statistics are those before pruning"}
    if not model.has_dynamic_batch:
        return module, {"skipped": "the network takes batches of one only"}
    if len(data) < 2:
        return module, {"skipped": f"{flag} has one sample only"}
    _check_fit(flag, data, model)
    count = min(len(data), RECALIBRATION_SAMPLES)
    chosen = data.subset([index * len(data) // count for index in range(count)])  # spread: files may be sorted by class
    batches = (batch.inputs for batch in chosen.batches(RECALIBRATION_BATCH) if len(batch) > 1)
    done = recalibrate_batch_norm(module, batches)
    return done, {"data": flag, "samples": count if count % RECALIBRATION_BATCH != 1 else count - 1}


def _check_fit(flag: str, data: Dataset, model: Model) -> None:
    wanted = tuple(spec.shape for spec in model.inputs)
    if data.shapes != wanted:
        raise ConfigError(f"{flag}: samples of shape {data.shapes}; the network takes {wanted}")
