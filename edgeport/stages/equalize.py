"""Scale channels between layers before calibration, so that the int8 network uses its integers better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgeport.errors import StageError
from edgeport.graph.canonical import canonicalize
from edgeport.graph.execute import batch_size
from edgeport.quant.equalize import Observed, Pair, equalized, find_pairs, observe, pair_factors, ranges_after, spread
from edgeport.quant.trial import Trial, first_batches, stream_batches, trial_samples

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule

    from edgeport.stages.context import Context
    from edgeport.types import Model, WeightBits

BADLY_SPREAD = 8.0  # three of eight bits lost in half of the channels


@dataclass(frozen=True, kw_only=True)
class Equalize:
    """Cross-layer equalization; the float network computes the same as before.

    With a weight scale an output channel, which every target has, the paper's reason is gone; left is that channels of
    an activation share a scale. `auto` therefore tries it only where an activation between two layers is badly spread
    (half of its channels use less than an eighth of the integers), and keeps it where it helps on tune samples.

    Attributes:
        mode: `auto`, or `always`: as asked for.
        weight_bits: of the simulated int8 network that `auto` decides by.
    """

    name: ClassVar[str] = "equalize"
    mode: Literal["auto", "always"] = "auto"
    weight_bits: WeightBits = 8

    def __call__(self, model: Model, context: Context) -> tuple[Model, dict[str, object]]:
        """Return the model, canonical and equalized where that is kept, and figures about it.

        Raises:
            StageError: there are no calibration samples, or an activation is NaN or infinite on them.
        """
        if context.calibrate is None:
            raise StageError("equalize: no calibration samples")
        if self.mode == "auto" and context.tune is None:
            return _as_it_was(model, "no samples to tune on")
        module = canonicalize(model.module, model.example_inputs)
        pairs = find_pairs(module)
        if not pairs:
            return _as_it_was(model, "no two layers with only channelwise operators between them")
        shapes = [spec.shape for spec in model.inputs]
        size, count = batch_size(shapes) if model.has_dynamic_batch else 1, trial_samples(shapes)
        figures: dict[str, object] = {"pairs": len(pairs)}
        if self.mode == "auto":
            few = first_batches(context.calibrate, count, size=size)
            first_look = observe(module, model.example_inputs, few, pairs)
            worst = max((spread(*ends) for ends in first_look.channels.values()), default=1.0)
            figures["worst_spread"] = worst
            if worst < BADLY_SPREAD:
                return _as_it_was(model, f"not tried: channels are spread {worst:.1f}x at most", figures)
        # all samples: a channel that wakes on a later one may be moved across a clip
        samples = stream_batches(context.calibrate, size=size)
        seen = observe(module, model.example_inputs, samples, pairs)
        factors = pair_factors(module, pairs, seen.channels)
        result = equalized(module, pairs, factors)
        if context.tune is None:
            return model.with_(module=result), {**figures, "kept": True, "why": "asked for"}
        trial = Trial(module, model.example_inputs, first_batches(context.tune, count, size=size))
        figures |= self._tried(trial, module, result, pairs, factors, seen)
        if not figures["kept"]:
            return model, figures
        return model.with_(module=result), figures

    def _tried(  # noqa: PLR0913, PLR0917  # two networks and what is known of them
        self,
        trial: Trial,
        module: GraphModule,
        result: GraphModule,
        pairs: tuple[Pair, ...],
        factors: dict[str, torch.Tensor],
        seen: Observed,
    ) -> dict[str, object]:
        before = trial.distance(module, seen.tensors, self.weight_bits)
        after = trial.distance(result, ranges_after(module, pairs, factors, seen), self.weight_bits)
        helps = after.is_better_than(before)
        why = "asked for" if self.mode == "always" else "it helps" if helps else "it does not help"
        return {
            "tune_samples": trial.samples,
            "before": before.figures(),
            "after": after.figures(),
            "kept": helps or self.mode == "always",
            "why": why,
        }


def _as_it_was(model: Model, why: str, figures: dict[str, object] | None = None) -> tuple[Model, dict[str, object]]:
    return model, {**(figures or {}), "kept": False, "why": why}
