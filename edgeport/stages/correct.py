"""Correct the weights and biases of the int8 files, once for all targets with weights of the same number of bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgeport.errors import StageError
from edgeport.graph.canonical import canonicalize
from edgeport.graph.execute import batch_size
from edgeport.graph.moves import on_source_grids
from edgeport.quant.corrections import Corrections, LayerWeights, correctable_layers, with_layers
from edgeport.quant.sequential import Corrected, Methods, correct_layers
from edgeport.quant.trial import Distance, Trial, first_batches, trial_samples
from edgeport.types import FEW_BITS

if TYPE_CHECKING:
    from edgeport.stages.context import Context
    from edgeport.types import Model, WeightBits

Method = Literal["bias", "adaround"]
METHODS: tuple[Method, ...] = ("bias", "adaround")
Choice = tuple[Mapping[str, LayerWeights], dict[str, object]]  # layers, and figures for the report

CLEARLY_OFF_ERROR = 0.01  # of the outputs, relative and squared: 20 dB
CLEARLY_OFF_AGREEMENT = 99.0  # percent
FEWEST_FOR_AGREEMENT = 100  # samples; of fewer, one makes more than a point
MOST_LAYERS = 16  # that `auto` gives to AdaRound
NOISE_SHARE = 0.9  # of all noise that these layers make


@dataclass(frozen=True, kw_only=True)
class Correct:
    """Bias correction and AdaRound, on calibration samples; `auto` keeps what helps on tune samples.

    `auto` always tries bias correction: it costs one run of a few samples. AdaRound costs more and is tried only where
    the int8 network is still clearly off: outputs more than 1 % off (squared), or agreement below 99 %. It then rounds
    the layers that add most noise, noisiest first, without the relaxation; with 4 bits, all layers.

    Attributes:
        methods: `auto`, or what to do.
        weight_bits: of the targets' files.
    """

    name: ClassVar[str] = "correct"
    methods: Literal["auto"] | tuple[Method, ...] = "auto"
    weight_bits: tuple[WeightBits, ...] = (8,)

    def __call__(self, model: Model, context: Context) -> tuple[Model, dict[str, object]]:
        """Return the model with its `corrections`, and what was tried, found and kept for each number of bits.

        Raises:
            StageError: the network is not calibrated.
        """
        if model.calibration is None or context.calibrate is None:
            raise StageError("correct: the network is not calibrated")
        work = _Work(model, context, self.weight_bits)
        if self.methods != "auto":
            found = _asked(work, self.methods)
        elif work.trial is not None:
            found = _automatic(work, work.trial)
        else:
            return model.with_(corrections=Corrections()), {"bits": {}, "why": "no samples to tune on"}
        layers = {bits: made for bits, (made, _) in found.items() if made}
        return model.with_(corrections=Corrections(layers=layers)), {
            "samples": work.samples,
            "tune_samples": work.trial.samples if work.trial is not None else 0,
            "bits": {str(bits): figures for bits, (_, figures) in found.items()},
        }


class _Work:
    """What every try needs."""

    def __init__(self, model: Model, context: Context, weight_bits: tuple[WeightBits, ...]) -> None:
        if model.calibration is None or context.calibrate is None:
            raise ValueError("not calibrated")
        shapes = [spec.shape for spec in model.inputs]
        size = batch_size(shapes) if model.has_dynamic_batch else 1
        count = trial_samples(shapes)
        self.module = canonicalize(model.module, model.example_inputs)
        self.ranges = on_source_grids(self.module, model.calibration.ranges)
        self.correctable = correctable_layers(self.module, self.ranges)
        self.batches = first_batches(context.calibrate, count, size=size)
        self.samples = sum(len(batch[0]) for batch in self.batches)
        tune = context.tune
        self.trial = (
            Trial(self.module, model.example_inputs, first_batches(tune, count, size=size))
            if tune is not None
            else None
        )
        self.weight_bits = weight_bits

    def correct(self, methods: Methods, weight_bits: tuple[WeightBits, ...]) -> Corrected:
        """Return the layers that the methods make."""
        return correct_layers(self.module, self.batches, self.ranges, weight_bits=weight_bits, methods=methods)

    def distance(self, bits: WeightBits, layers: Mapping[str, LayerWeights]) -> Distance | None:
        """Return how far the int8 network with these layers is from float; None without tune samples."""
        if self.trial is None:
            return None
        return self.trial.distance(with_layers(self.module, layers), self.ranges, bits)


def _asked(work: _Work, methods: tuple[Method, ...]) -> dict[WeightBits, Choice]:
    """Make what was asked for."""
    adaround = frozenset(work.correctable) if "adaround" in methods else frozenset()
    made = work.correct(Methods(bias="bias" in methods, adaround=adaround), work.weight_bits)
    result: dict[WeightBits, Choice] = {}
    for bits, layers in made.corrections.layers.items():
        figures: dict[str, object] = {"kept": list(methods), "why": "asked for", "skipped": list(made.skipped)}
        before, after = work.distance(bits, {}), work.distance(bits, layers)
        if before is not None and after is not None:
            figures |= {"none": before.figures(), "+".join(methods): after.figures()}
        result[bits] = layers, figures
    return result


def _automatic(work: _Work, trial: Trial) -> dict[WeightBits, Choice]:
    """Try, and keep what helps on the tune samples."""
    made = work.correct(Methods(), work.weight_bits)
    return {bits: _kept(work, trial, bits, made) for bits in work.weight_bits}


def _kept(work: _Work, trial: Trial, bits: WeightBits, made: Corrected) -> Choice:
    def distance(layers: Mapping[str, LayerWeights]) -> Distance:
        return trial.distance(with_layers(work.module, layers), work.ranges, bits)

    layers = made.corrections.layers[bits]
    before, after = distance({}), distance(layers)
    figures: dict[str, object] = {"none": before.figures(), "bias": after.figures()}
    has_bias = after.is_better_than(before)
    kept, best, methods = (layers, after, ["bias"]) if has_bias else ({}, before, [])
    if not _is_clearly_off(best):
        return kept, {**figures, "kept": methods, "why": "adaround not tried: the int8 network is close to float"}
    noisiest = frozenset(made.noise[bits]) if bits in FEW_BITS else _noisiest(made.noise[bits])
    if not noisiest:
        return kept, {**figures, "kept": methods, "why": "adaround not tried: what is off does not come from weights"}
    rounded = work.correct(Methods(bias=has_bias, adaround=noisiest, iterations=0), (bits,)).corrections.layers[bits]
    found = distance(rounded)
    figures["+".join([*methods, "adaround"])] = found.figures()
    why = f"adaround tried on {len(noisiest)} layers"
    if found.is_better_than(best):
        kept, methods = rounded, [*methods, "adaround"]
    return kept, {**figures, "kept": methods, "why": why}


def _is_clearly_off(found: Distance) -> bool:
    few = found.agrees is None or len(found.agrees) < FEWEST_FOR_AGREEMENT
    return found.error > CLEARLY_OFF_ERROR or (not few and (found.agreement or 0.0) < CLEARLY_OFF_AGREEMENT)


def _noisiest(noise: Mapping[str, float]) -> frozenset[str]:
    """Return the fewest layers that make `NOISE_SHARE` of all noise, at most `MOST_LAYERS`."""
    order = sorted(noise, key=lambda key: -noise[key])[:MOST_LAYERS]
    total, so_far = sum(noise.values()), 0.0
    chosen: list[str] = []
    for key in order:
        if so_far >= NOISE_SHARE * total:
            break
        chosen.append(key)
        so_far += noise[key]
    return frozenset(chosen)
