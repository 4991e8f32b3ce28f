"""Examine sample data: by itself, and with the network that is to be calibrated with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from edgeport.examination.census import Census, census, constant_samples, outlying_samples, repeated_samples
from edgeport.examination.coverage import class_coverage
from edgeport.examination.finding import Finding, listed
from edgeport.examination.layout import channels_last, mislabelled_axes
from edgeport.examination.samples import Samples, is_picture, main_input, take
from edgeport.examination.stability import Curve, range_curve, too_few

if TYPE_CHECKING:
    from edgeport.dataset import Dataset
    from edgeport.dataset.decode import Preprocess
    from edgeport.types import Model

FEWEST_TENSORS = 10  # whose ranges tell how they grow; the mean of fewer depends on chance
VALUES = 2_500_000  # of all samples that a network sees; many small pictures cost what few large ones do
SET_APART = 5.0  # factor between the standard deviations of two data sets for one network that is called a scale error


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much to look at.

    Attributes:
        looked_at: samples whose values are looked at.
        probed: samples that the first layers see.
        asked: samples that the whole network sees.
        large: most samples for either where pictures are large (224 x 224).
        is_thorough: run the whole network without suspicion too, for range stability, dead layers and channel order.
    """

    looked_at: int
    probed: int
    asked: int
    large: int
    is_thorough: bool


BUILD = Effort(looked_at=512, probed=64, asked=32, large=32, is_thorough=False)
DOCTOR = Effort(looked_at=4096, probed=200, asked=200, large=64, is_thorough=True)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was seen.

    Attributes:
        samples: in the data set.
        looked_at: of them.
        findings: what is wrong; empty: nothing was found.
        curve: (samples, share of the final range): how ranges grow with the number of samples; may be empty.
        curve_of: what the ranges are of.
        notes: what could not be tested, and why.
    """

    samples: int
    looked_at: int
    findings: tuple[Finding, ...]
    curve: Curve = ()
    curve_of: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reacted:
    """What the network showed; lows and highs: `(tensors, n)`."""

    findings: list[Finding]
    notes: list[str]
    lows: np.ndarray
    highs: np.ndarray


def examine(
    data: Dataset, model: Model | None = None, *, evaluate: Dataset | None = None, effort: Effort = DOCTOR
) -> Examination:
    """Examine a data set.

    Args:
        data: calibration samples.
        model: the traced network, with its batch norms; None: only the data is looked at.
        evaluate: other samples for the same network, to hold against these.
        effort: how much to look at.

    Raises:
        ConfigError: a sample cannot be read.
    """
    of_recipe = _of_recipe(data.preprocess)
    findings = class_coverage(data.labels(), _class_count(data, model), data.classes)
    index = main_input(data.shapes, data.dtypes)
    if index is None:
        few = too_few(len(data), ())
        return Examination(samples=len(data), looked_at=0, findings=(*findings, *few))
    seen = census(data, index, effort.looked_at)
    findings += [*constant_samples(seen), *outlying_samples(seen), *repeated_samples(seen)]
    if evaluate is not None and evaluate.shapes == data.shapes:
        findings += _set_apart(seen, census(evaluate, index, effort.probed))
    curve, curve_of = range_curve(seen.lows.T, seen.highs.T), "the inputs"
    notes: tuple[str, ...] = ()
    if model is None:
        if len(data.shapes[index]) == 3:
            findings += _of_layout(take(data, effort.probed), index)
        findings += too_few(len(data), ())
    else:
        reacted = _with_network(data, index, model, effort)
        if any(finding.kind == "scale" for finding in reacted.findings):
            of_recipe = []  # it says the same with less in hand
        findings += reacted.findings
        notes = tuple(reacted.notes)
        if reacted.lows.size:
            curve, curve_of = range_curve(reacted.lows, reacted.highs), f"{len(reacted.lows)} activations"
        is_known = len(reacted.lows) >= FEWEST_TENSORS and curve[-1][0] == len(data)
        findings += too_few(len(data), curve if is_known else ())
    return Examination(
        samples=len(data),
        looked_at=len(seen.numbers),
        findings=(*of_recipe, *findings),
        curve=curve,
        curve_of=curve_of,
        notes=notes,
    )


def _class_count(data: Dataset, model: Model | None) -> int:
    if model is not None and len(model.outputs) == 1 and len(model.outputs[0].shape) == 1:
        return model.outputs[0].shape[0]
    return len(data.classes)


def _of_recipe(preprocess: Preprocess | None) -> list[Finding]:
    """Return a finding when mean and std were written for pixels of 0..255."""
    if preprocess is None or not any(abs(value) > 1.5 for value in (*preprocess.mean, *preprocess.std)):
        return []
    keys = [
        f"{key} = [{', '.join(f'{value / 255:.4g}' for value in values)}]"
        for key, values in (("mean", preprocess.mean), ("std", preprocess.std))
        if any(abs(value) > 1.5 for value in values)
    ]
    sentence = (
        "mean and std of the recipe are of pixels in 0..255, edgeport's are of values in 0..1: divide by 255 and write"
        f" {' and '.join(keys)}"
    )
    return [Finding(kind="scale", sentence=sentence, evidence={"mean": preprocess.mean, "std": preprocess.std})]


def _of_layout(samples: Samples, index: int) -> list[Finding]:
    values = samples.inputs[index]
    shape = values.shape[1:]
    if is_picture(shape, values.dtype.name):
        return mislabelled_axes(values)[0]
    return channels_last(shape, values)


def _set_apart(seen: Census, other: Census) -> list[Finding]:
    one, two = seen.deviation, other.deviation
    if min(one, two) <= 0 or max(one / two, two / one) < SET_APART:
        return []
    sentence = (
        f"the samples for evaluation are spread {two / one:.3g} times as wide as these (standard deviation {two:.3g}"
        f" and {one:.3g}): the two were scaled differently; prepare both the same way (mean and std of their recipes)"
    )
    return [Finding(kind="scale", sentence=sentence, evidence={"deviations": [one, two]})]


def _with_network(data: Dataset, index: int, model: Model, effort: Effort) -> _Reacted:
    from edgeport.examination.preprocessing import FEWEST, Trial, wrong_preprocessing
    from edgeport.examination.reaction import Answers, Probe, answer, executor

    most = max(effort.large, VALUES // max(1, int(np.prod(data.shapes[index]))))
    samples, asked = take(data, min(effort.probed, most)), min(effort.asked, most)
    probe = Probe(model, index)
    given = probe.react(samples.inputs) if probe.is_usable else None
    packed = cache(lambda: executor(model))

    def ask(inputs: tuple[np.ndarray, ...]) -> Answers:
        return answer(packed(), model, [array[:asked] for array in inputs])

    findings: list[Finding] = []
    notes: list[str] = []
    if is_picture(data.shapes[index], data.dtypes[index]):
        trial = Trial(samples=samples, index=index, probe=probe, ask=ask, given=given, is_thorough=effort.is_thorough)
        findings += wrong_preprocessing(trial)
        if given is None:
            by = "by the labels only" if effort.is_thorough and samples.labels is not None else "not at all"
            notes.append(f"the network has no trained batch norm: the scaling of the data was tested {by}")
        if len(samples) < FEWEST:
            notes.append(f"scaling and channel order were not tested: that needs {FEWEST} samples or more")
    if not effort.is_thorough:
        nothing = np.zeros((0, 0))
        lows, highs = (nothing, nothing) if given is None else (given.lows, given.highs)
        return _Reacted(findings, notes, lows, highs)
    seen = ask(samples.inputs)
    keys = [key for key, values in seen.lows.items() if values.shape == (len(seen.outputs),)]
    lows, highs = (np.stack([side[key] for key in keys]) for side in (seen.lows, seen.highs))
    dead = [key for key, low, high in zip(keys, lows, highs, strict=True) if not low.any() and not high.any()]
    return _Reacted([*findings, *_dead_layers(dead, len(seen.outputs))], notes, lows, highs)


def _dead_layers(keys: list[str], samples: int) -> list[Finding]:
    if not keys:
        return []
    sentence = (
        f"{len(keys)} activations are zero for all {samples} samples ({listed(keys)}): int8 has no range for them; if"
        " the layers work on other data, give samples that reach them, else remove the layers"
    )
    return [Finding(kind="dead_layers", sentence=sentence, evidence={"activations": keys})]
