"""Prune: cuts whole filters out of the network, so that it is smaller and faster on every runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import msgspec

from edgeport.errors import ConfigError, StageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.fx import GraphModule

    from edgeport.pruning.budget import Budget
    from edgeport.pruning.groups import ChannelGroup, Groups
    from edgeport.quant.trial import Distance
    from edgeport.stages.context import Context
    from edgeport.stages.prune_widths import Allocation, Widths, Yardstick
    from edgeport.types import Model

BLOCK_BATCH = 32
BLOCK_SAMPLES = 64  # on which blocks are compared


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """A pruned network, group name -> channels that stay, and what there is to say of it.

    `latency_share`: of the network that came in, as measured while widths were searched; None: it was not asked for.
    """

    module: GraphModule
    kept: Mapping[str, tuple[int, ...]]
    repairs: Mapping[str, object]
    facts: Mapping[str, object]
    latency_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Cut the least important channels of every group of coupled layers.

    Attributes:
        ratio: share of each layer's filters to cut, 0 to below 1.
        blocks: residual blocks to leave out before that, those that change the outputs least.
        channel_multiple: layer widths are rounded to multiples of it.
        importance: how filters are scored; a name in `edgeport.pruning.importance.NAMES`, or `auto`, which cuts with
            each and keeps the network nearest to the unpruned one on tune samples. `taylor` and `activation` look at
            training or calibration samples.
        allocation: how the cut is shared out: `uniform` by width, residual streams half as much, `even` by width alone,
            `global` by one threshold on all scores,
            `sensitivity` by what each group's loss does to the outputs on tune samples.
        budgets: what may be left, instead of a ratio; all of them hold.
        rounds_left: cuts that are still to come, this one included; a budget is approached in equal ratios.
        bytes_a_weight: in the shipped files, for a budget of bytes.
    """

    name: ClassVar[str] = "prune"

    ratio: float
    blocks: int = 0
    channel_multiple: int = 8
    importance: str = "l1"
    allocation: Allocation = "uniform"
    budgets: tuple[Budget, ...] = ()
    rounds_left: int = 1
    bytes_a_weight: float = 1

    def __call__(self, model: Model, context: Context) -> tuple[Model, dict[str, object]]:
        """Return the smaller network and what was cut.

        On training samples, or else calibration samples, when there are any, what cut channels carried is made up for
        by those that stay, as far as they can, and batch-norm statistics are measured again.

        Raises:
            ConfigError: an option out of range, or samples that do not fit the network.
            StageError: nothing can be cut; the message says why.
        """
        from edgeport.pruning.groups import find_groups
        from edgeport.pruning.macs import count_macs, count_parameters
        from edgeport.pruning.structure import describe

        self._check_options()
        shorter, removed = self._without_blocks(model, context)
        groups = find_groups(shorter, model.example_inputs)
        if not groups.groups and not removed:
            raise _uncut(groups.left_whole)
        cut = self._chosen(shorter, groups, model, context)
        kept, pruned = cut.kept, cut.module
        left_whole = [*groups.left_whole, *self._rounded_away(groups, kept)]
        is_whole = all(len(kept[group.name]) == group.channels for group in groups.groups)
        if not removed and not self.budgets and is_whole:
            raise _uncut(left_whole)
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
            **cut.repairs,
            "importance": dict(cut.facts),
            **self._budget_figures(model, cut),
            "structure": msgspec.to_builtins(describe(groups, kept, model.inputs, removed=tuple(removed))),
        }
        return model.with_(module=pruned, calibration=None), metrics

    def _budget_figures(self, model: Model, cut: _Cut) -> dict[str, object]:
        from edgeport.pruning.budget import weight_bytes

        if not self.budgets:
            return {}
        modules = (model.module, cut.module)
        before, after = (weight_bytes(module, bytes_a_weight=self.bytes_a_weight) for module in modules)
        figures = {"budget": self._asked(), "weight_bytes_before": before, "weight_bytes_after": after}
        return figures if cut.latency_share is None else {**figures, "latency_share": cut.latency_share}

    def _asked(self) -> str:
        return " ".join(map(str, self.budgets))

    def _check_options(self) -> None:
        from edgeport.pruning.importance import AUTO, NAMES
        from edgeport.stages.prune_widths import ALLOCATIONS

        if self.blocks < 0:
            raise ConfigError(f"prune: blocks is {self.blocks}; it must be at least 0")
        if self.budgets and self.ratio:
            raise ConfigError(f"prune: {self._asked()} is instead of a ratio; give one of them")
        if self.rounds_left < 1:
            raise ConfigError(f"prune: rounds_left is {self.rounds_left}; it must be at least 1")
        if self.allocation not in ALLOCATIONS:
            known: list[str] = list(ALLOCATIONS)
            raise ConfigError(
                f"prune: unknown allocation '{self.allocation}'; known: {', '.join(known)}"
                f"{did_you_mean(self.allocation, known)}"
            )
        if not self.budgets and not (0 < self.ratio < 1 or (self.blocks and self.ratio == 0)):
            raise ConfigError(f"prune: ratio is {self.ratio}; it must be above 0 and below 1")
        if self.channel_multiple < 1:
            raise ConfigError(f"prune: channel_multiple is {self.channel_multiple}; it must be at least 1")
        if self.importance not in (*NAMES, AUTO):
            known = [*NAMES, AUTO]
            raise ConfigError(
                f"prune: unknown importance '{self.importance}'; known: {', '.join(known)}"
                f"{did_you_mean(self.importance, known)}"
            )

    def _without_blocks(self, model: Model, context: Context) -> tuple[GraphModule, dict[str, float]]:
        """Return the network without the blocks that do least, and their keys with the error after each."""
        from edgeport.pruning.blocks import find_blocks, least_needed, without_blocks
        from edgeport.quant.trial import first_batches
        from edgeport.stages.prune_repair import recalibrated

        if not self.blocks:
            return model.module, {}
        there = len(find_blocks(model.module, model.example_inputs))
        if self.blocks > there:
            raise StageError(f"prune: layer:{self.blocks}, but the network has {there} residual blocks to leave out")
        data = context.calibrate or context.train
        if data is None:
            raise ConfigError("prune: layer needs samples to tell which blocks do least; give --calibrate DATA")
        size = BLOCK_BATCH if model.has_dynamic_batch else 1
        batches = first_batches(data, BLOCK_SAMPLES, size=size)
        removed = least_needed(model.module, model.example_inputs, batches, self.blocks)
        shorter = without_blocks(model.module, model.example_inputs, list(removed))
        return recalibrated(shorter, model, context)[0], removed  # what filters are worth is measured on it

    def _chosen(self, module: GraphModule, groups: Groups, model: Model, context: Context) -> _Cut:
        """Return the cut by the criterion that was asked for, or by the best one of all."""
        from edgeport.pruning.importance import AUTO
        from edgeport.stages.prune_repair import recalibrated
        from edgeport.stages.prune_widths import Widths, Yardstick

        if not self.ratio and not self.budgets:  # blocks alone
            whole = {group.name: tuple(range(group.channels)) for group in groups.groups}
            fresh, recalibration = recalibrated(module, model, context)
            return _Cut(module=fresh, kept=whole, repairs={"recalibration": recalibration}, facts={})
        yardstick = None
        if self.importance == AUTO:
            yardstick = Yardstick(model, context, "--importance auto")
        elif self.allocation == "sensitivity":
            yardstick = Yardstick(model, context, "--allocation sensitivity")
        widths = Widths(
            module,
            groups,
            model,
            context,
            options=self,
            yardstick=yardstick,
        )
        if self.importance == AUTO and yardstick is not None:
            return self._best(widths, yardstick, context)
        return self._cut(self.importance, widths, context)

    def _cut(self, importance: str, widths: Widths, context: Context) -> _Cut:
        from edgeport.pruning.allocation import choose
        from edgeport.stages.prune_repair import recalibrated
        from edgeport.stages.prune_scores import score

        scored = score(importance, widths.groups, widths.model, context, repair=widths.repair)
        counts = widths.by_budgets(scored.scores) if self.budgets else widths.by_ratio(self.ratio, scored.scores)
        kept = {name: choose(scored.scores[name], count) for name, count in counts.items()}
        cut, compensation = widths.cut(kept)
        pruned, recalibration = recalibrated(cut, widths.model, context)
        is_timed = any(budget.kind == "latency" for budget in self.budgets)
        return _Cut(
            module=pruned,
            kept=kept,
            repairs={"compensation": compensation, "recalibration": recalibration},
            facts={"used": importance, **scored.facts},
            latency_share=widths.cost("latency", counts) if is_timed else None,
        )

    def _best(self, widths: Widths, yardstick: Yardstick, context: Context) -> _Cut:
        """Cut by every criterion, and keep the one whose network is nearest to the unpruned one.

        The first one, l1, stays where no other is better by more than chance, as `Distance.is_better_than` has it.
        """
        from edgeport.pruning.importance import NAMES
        from edgeport.quant.trial import distance
        from edgeport.stages.prune_scores import unavailable

        best: tuple[_Cut, Distance] | None = None
        figures: dict[str, object] = {}
        for name in NAMES:
            if (error := unavailable(name, widths.model, context)) is not None:
                figures[name] = {"skipped": str(error)}
                continue
            cut = self._cut(name, widths, context)
            found = distance(yardstick.exact, yardstick.outputs(cut.module))
            figures[name] = {**found.figures(), **{key: cut.facts[key] for key in cut.facts if key != "used"}}
            if best is None or found.is_better_than(best[1]):
                best = cut, found
        if best is None:
            raise ValueError("no criterion is available")
        facts = {**best[0].facts, "compared": figures, "tune_samples": yardstick.samples}
        return replace(best[0], facts=facts)

    def _rounded_away(self, groups: Groups, kept: Mapping[str, Sequence[int]]) -> list[str]:
        whole = [group for group in groups.groups if len(kept[group.name]) == group.channels]
        if self.budgets and len(whole) == len(groups.groups):
            return [f"left whole: all layers because {self._asked()} is met without a cut"]
        if self.budgets or self.allocation != "uniform":
            return [
                f"left whole: layer '{group.name}' because {self.allocation} allocation leaves all of its"
                f" {group.channels} channels, with channel multiple {self.channel_multiple}"
                for group in whole
            ]
        return [
            f"left whole: layer '{group.name}' because {group.channels} channels at {_rate(group, self.ratio)} round to"
            f" {group.channels} with channel multiple {self.channel_multiple}"
            for group in whole
            if self.ratio
        ]


def _uncut(left_whole: Sequence[str]) -> StageError:
    more = f"; and {len(left_whole) - 3} more" if len(left_whole) > 3 else ""
    reasons = "; ".join(left_whole[:3]) or "it has no convolution or linear layer"
    return StageError(f"prune: nothing can be cut from this network: {reasons}{more}")


def _rate(group: ChannelGroup, ratio: float) -> str:
    return f"half the ratio {ratio}, as a residual stream," if group.is_stream else f"ratio {ratio}"
