"""What a cut network is given back without training: the channels' common part, and statistics of batch norms."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from edgeport.errors import ConfigError
from edgeport.stages.prune_scores import check_fit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.fx import GraphModule

    from edgeport.dataset import Dataset
    from edgeport.pruning.compensate import Compensation
    from edgeport.pruning.groups import Groups
    from edgeport.stages.context import Context
    from edgeport.types import Model

    Facts = dict[str, object]

SAMPLES = 512
BATCH = 32
STATIC = "the network takes batches of one only"


class Repair:
    """Repairs any cut of one network; samples run through it once, when the first cut is repaired."""

    def __init__(self, module: GraphModule, groups: Groups, model: Model, context: Context) -> None:
        """Set up.

        Args:
            module: the network that `groups` was found in; it stays as it is.
            groups: what may be pruned.
            model: the network that came in: its inputs.
            context: samples.
        """
        self.module, self._groups, self._model, self._context = module, groups, model, context

    @cached_property
    def _compensation(self) -> tuple[Compensation, Facts] | None:
        from edgeport.pruning.compensate import Compensation

        named = _samples(self._model, self._context)
        if named is None:
            return None
        flag, data = named
        batches = (batch.inputs for batch in data.batches(BATCH if self._model.has_dynamic_batch else 1))
        return Compensation(self.module, self._groups, batches), {"data": flag, "samples": len(data)}

    def compensation(self) -> tuple[Compensation, Facts]:
        """Return what channels have in common, and which samples say so.

        Raises:
            ConfigError: there are no samples.
        """
        if self._compensation is None:
            raise ConfigError("what channels have in common is measured on samples: give --calibrate DATA")
        return self._compensation

    def compensated(self, pruned: GraphModule, kept: Mapping[str, Sequence[int]]) -> Facts:
        """Change what `prune_channels` made of the network with this `kept`; return what there is to say of it."""
        if self._compensation is None:
            return {"skipped": "no training or calibration samples; what cut channels carried is lost"}
        compensation, facts = self._compensation
        return {**facts, "layers": compensation.apply(pruned, kept)}


def recalibrated(module: GraphModule, model: Model, context: Context) -> tuple[GraphModule, Facts]:
    """Return the network with fresh batch-norm statistics, and what they were measured on (or why they were not)."""
    from edgeport.pruning.recalibrate import batch_norms, recalibrate_batch_norm

    if not batch_norms(module):
        return module, {"skipped": "the network has no batch norm"}
    if not model.has_dynamic_batch:
        return module, {"skipped": STATIC}
    named = _samples(model, context)
    if named is None:
        return module, {"skipped": "no training or calibration samples; batch-norm statistics are those before pruning"}
    flag, data = named
    if len(data) < 2:
        return module, {"skipped": f"{flag} has one sample only"}
    batches = (batch.inputs for batch in data.batches(BATCH) if len(batch) > 1)
    done = recalibrate_batch_norm(module, batches)
    return done, {"data": flag, "samples": len(data) if len(data) % BATCH != 1 else len(data) - 1}


def _samples(model: Model, context: Context) -> tuple[str, Dataset] | None:
    """Return samples spread over the data, for files may be sorted by class, and the flag that they came by."""
    flag, data = ("--train", context.train) if context.train is not None else ("--calibrate", context.calibrate)
    if data is None:
        return None
    check_fit(flag, data, model)
    return flag, data.evenly(SAMPLES)
