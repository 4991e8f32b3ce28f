"""How many channels stay: a ratio or a budget, by one of the allocations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgeport.errors import ConfigError, StageError
from edgeport.pruning.budget import WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import GraphModule

    from edgeport.pruning.budget import Budget, Kind
    from edgeport.pruning.groups import Groups
    from edgeport.pruning.search import Knob
    from edgeport.pruning.sensitivity import Curve
    from edgeport.quant.trial import Batches, Outputs
    from edgeport.stages.context import Context
    from edgeport.stages.prune import Prune
    from edgeport.stages.prune_scores import Scores
    from edgeport.types import Model

Allocation = Literal["uniform", "even", "global", "sensitivity"]
ALLOCATIONS: tuple[Allocation, ...] = ("uniform", "even", "global", "sensitivity")
FINENESS = 1000  # settings of a ratio that is searched for
TRIALS = 4  # times the samples of an int8 trial: pruned networks lie further from float, and fewer are compared


class Yardstick:
    """The unpruned network's outputs on tune samples."""

    def __init__(self, model: Model, context: Context, why: str) -> None:
        """Run the network that came in.

        Raises:
            ConfigError: there are no tune samples; `why` says which option needs them.
        """
        from edgeport.quant.trial import first_batches, trial_samples

        if context.tune is None:
            raise ConfigError(f"{why} compares networks on samples: give --tune DATA, or more --calibrate DATA")
        size = 32 if model.has_dynamic_batch else 1
        count = TRIALS * trial_samples([spec.shape for spec in model.inputs])
        self.batches: Batches = first_batches(context.tune, count, size=size)
        self.samples = sum(len(batch[0]) for batch in self.batches)
        self.exact = self.outputs(model.module)

    def outputs(self, module: GraphModule) -> list[Outputs]:
        """Return a network's outputs, batch by batch; ResNet-20 takes half the time with channels last."""
        import copy

        import torch

        from edgeport.graph.execute import flat_outputs
        from edgeport.quant.trial import outputs_of
        from edgeport.training.teacher import laid_out

        ready = laid_out(copy.deepcopy(module))
        with torch.no_grad():
            return outputs_of(lambda inputs: flat_outputs(ready(*inputs)), self.batches)


class Widths:
    """Decides widths for one network, and cuts it; costs are counted once."""

    def __init__(  # noqa: PLR0913  # keyword-only past the fourth
        self,
        module: GraphModule,
        groups: Groups,
        model: Model,
        context: Context,
        *,
        options: Prune,
        yardstick: Yardstick | None,
    ) -> None:
        """Set up; nothing is computed yet.

        Args:
            module: the network that `groups` was found in.
            groups: what may be pruned.
            model: the network that came in.
            context: what budgets are shares of, and how latency is measured.
            options: of the stage.
            yardstick: what sensitivity needs.
        """
        from edgeport.stages.prune_repair import Repair

        self.module, self.groups, self.model, self.context = module, groups, model, context
        self.repair = Repair(module, groups, model, context)
        self.options, self.yardstick = options, yardstick
        self.channel_multiple, self.allocation = options.channel_multiple, options.allocation
        self._costs: dict[tuple[str, tuple[tuple[str, int], ...]], float] = {}

    def cut(self, kept: Mapping[str, tuple[int, ...]]) -> tuple[GraphModule, dict[str, object]]:
        """Return the network with these channels, group name -> indices, and what was made up for of the others."""
        from edgeport.pruning.surgery import prune_channels

        pruned = prune_channels(self.module, self.groups, kept)
        return pruned, self.repair.compensated(pruned, kept)

    def by_ratio(self, ratio: float, scores: Scores) -> dict[str, int]:
        """Return group name -> channels for a share of the filters.

        For `sensitivity` it is the multiply-adds that the uniform allocation of this ratio leaves.
        """
        from edgeport.pruning.allocation import allocate_each, global_wanted

        multiple = self.channel_multiple
        if self.allocation == "global":
            wanted = global_wanted(self.groups.groups, scores, ratio=ratio)
            return allocate_each(self.groups.groups, wanted, channel_multiple=multiple)
        by_width = self._by_width(ratio)
        if self.allocation != "sensitivity":
            return by_width
        return self._fitted({"macs": self.cost("macs", by_width)}, scores, f"ratio {ratio:g}")

    def _by_width(self, ratio: float) -> dict[str, int]:
        from edgeport.pruning.allocation import allocate

        return allocate(
            self.groups.groups,
            ratio=ratio,
            channel_multiple=self.channel_multiple,
            spares_streams=self.allocation != "even",
        )

    def by_budgets(self, scores: Scores) -> dict[str, int]:
        """Return group name -> channels for the budgets.

        Raises:
            ConfigError: the latency is to be held, and nothing measures it.
            StageError: this allocation cannot meet them; the message says the least that it comes to.
        """
        budgets = self.options.budgets
        limits = {budget.kind: self._limit(budget) for budget in budgets}
        return self._fitted(limits, scores, " ".join(map(str, budgets)))

    def _limit(self, budget: Budget) -> float:
        """Return what may be left after this cut: the budget, or where others follow an equal share of the way."""
        limit = budget.limit(self.whole(budget.kind))
        now = self._count(budget.kind, self.module)
        return limit if limit >= now else now * (limit / now) ** (1 / self.options.rounds_left)

    def whole(self, kind: Kind) -> float:
        """Return what the network that a build started from costs."""
        if kind == "latency":
            return 1.0
        return self._count(kind, (self.context.original or self.model).module)

    def cost(self, kind: Kind, counts: Mapping[str, int]) -> float:
        """Return what the network cut to these counts costs, by cutting it: multiply-adds and bytes are exact."""
        from edgeport.pruning.surgery import prune_channels

        key = (kind, tuple(sorted(counts.items())))
        if key not in self._costs:
            kept = {name: tuple(range(count)) for name, count in counts.items()}
            self._costs[key] = self._count(kind, prune_channels(self.module, self.groups, kept))
        return self._costs[key]

    def _count(self, kind: Kind, module: GraphModule) -> float:
        from edgeport.pruning.budget import weight_bytes
        from edgeport.pruning.macs import count_macs

        if kind == "macs":
            return count_macs(module, self.model.example_inputs)
        if kind == "size":
            return weight_bytes(module, bytes_a_weight=self.options.bytes_a_weight)
        if self.context.latency is None:
            raise ConfigError("--latency is measured on the targets' runtimes, and nothing here can do that")
        return self.context.latency(self.model.with_(module=module))

    def _fitted(self, limits: Mapping[Kind, float], scores: Scores, asked: str) -> dict[str, int]:
        from edgeport.pruning.search import UnmetError, fit

        kind = next(iter(limits))
        try:
            return fit(
                self.groups.groups,
                self._knob(kind, scores),
                cost=lambda counts: max(self.cost(kind, counts) / limit for kind, limit in limits.items()),
                limit=1.0,
                channel_multiple=self.channel_multiple,
                fills="latency" not in limits,  # each trial is a measurement
            )
        except UnmetError as error:
            least = [f"{self.cost(kind, error.counts) / self.whole(kind):.3f} of the {WORDS[kind]}" for kind in limits]
            raise StageError(
                f"prune: {asked} cannot be met: the least with {self.allocation} allocation and channel multiple"
                f" {self.channel_multiple} is {' and '.join(least)}"
            ) from error

    def _knob(self, kind: Kind, scores: Scores) -> Knob:
        from edgeport.pruning.allocation import allocate_each, global_wanted
        from edgeport.pruning.search import Knob
        from edgeport.pruning.sensitivity import after, steps

        groups, multiple = self.groups.groups, self.channel_multiple
        if self.allocation in ("uniform", "even"):
            return Knob(last=FINENESS - 1, counts=lambda at: self._by_width(at / FINENESS))
        if self.allocation == "global":
            return Knob(
                last=FINENESS - 1,
                counts=lambda at: allocate_each(
                    groups, global_wanted(groups, scores, ratio=at / FINENESS), channel_multiple=multiple
                ),
            )
        curves = self._curves(kind, scores)
        order = steps(curves)
        whole = {group.name: float(group.channels) for group in groups}
        return Knob(
            last=len(order),
            counts=lambda at: allocate_each(groups, whole | after(curves, order[:at]), channel_multiple=multiple),
        )

    def _curves(self, kind: Kind, scores: Scores) -> dict[str, Curve]:
        from edgeport.pruning.allocation import choose
        from edgeport.pruning.sensitivity import measure
        from edgeport.quant.trial import distance

        yardstick = self.yardstick
        if yardstick is None:
            raise ValueError("sensitivity needs a yardstick")

        def damage(counts: Mapping[str, int]) -> float:
            kept = {name: choose(scores[name], count) for name, count in counts.items()}
            return distance(yardstick.exact, yardstick.outputs(self.cut(kept)[0])).error

        def cost(counts: Mapping[str, int]) -> float:
            return self.cost("macs" if kind == "latency" else kind, counts)  # one cut layer is less than noise

        return measure(self.groups.groups, self.channel_multiple, damage=damage, cost=cost)
