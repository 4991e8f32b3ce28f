"""Hypotheses about wrong preprocessing, judged by the network's own reaction.

A hypothesis is another reading of the same pictures. Two witnesses are heard. The first batch norms remember mean and
variance of what they saw in training: the right reading comes nearest to them. And the network's answers are better
(cross-entropy with the labels) or at least surer (entropy) on pictures it understands. Scalings differ so much that the
first witness is enough; the order of channels needs both, since a set of blue pictures looks swapped to the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeport.examination.finding import Finding, Kind
from edgeport.examination.layout import mislabelled_axes
from edgeport.examination.reaction import Answers, Probe, Reaction
from edgeport.examination.samples import Samples
from edgeport.examination.scaling import Scaling, how_to_scale, is_misscaled, raw_pixels, scaling_of, usual_scalings

# Distances measured with 64 samples on ResNet-8, -20, -56 and EfficientNet-Lite0: right recipe 0.005 to 0.06 (0.3 when
# all are aeroplanes), CIFAR-10's for ImageNet's numbers 0.06, -1..1 for ImageNet's 0.37, 0..1 for ImageNet's 0.7,
# 0..1 for 0..255 1.5, 0..255 for 0..1 thousands.
NOTICEABLE = 0.1  # distance from which another scaling is looked for
CLEARLY_NEARER = 0.5  # ratio of distances that convicts a scaling
UNDERSTOOD = 0.6  # distance above which no reading is believed: the pictures are none that the network knows
SWAP_NEARER = 0.8  # ratio of distances; right order 1.2 to 3.3 on mixed classes, but 0.4 to 0.7 on ships
SWAP_NEARER_ALONE = 0.6  # where answers say nothing
AGREEING = 1.0  # t of the paired difference of answers that supports the batch norms
CONVINCING = 3.5  # t that convicts by labels where the batch norms do not object
CONVINCING_UNLABELLED = 5.0  # t of the entropies of a network without batch norms
FEWEST = 8  # samples below which nothing is tested

Ask = Callable[[tuple[np.ndarray, ...]], Answers]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a hypothesis is judged with.

    Attributes:
        samples: the samples as given.
        index: number of the input that holds pictures.
        probe: the first batch norms.
        ask: runs the whole network on inputs like those of `samples`.
        given: the first batch norms' reaction to the samples as given; None where there are none.
        is_thorough: ask the whole network without suspicion too.
    """

    samples: Samples
    index: int
    probe: Probe
    ask: Ask
    given: Reaction | None
    is_thorough: bool

    def react(self, values: np.ndarray) -> Reaction:
        """Return what the first batch norms see of these pictures."""
        return self.probe.react(self.samples.with_input(self.index, values))

    def support(self, given: np.ndarray, other: np.ndarray) -> tuple[float, bool] | None:
        """Return t of the paired difference of the answers to two readings, above 0 for `other`; and whether by labels.

        None where the output is not one score a class.
        """
        answers = [self.ask(self.samples.with_input(self.index, values)) for values in (given, other)]
        if not answers[0].are_scores:
            return None
        classes = answers[0].outputs.shape[1]
        labels = self.samples.labels
        is_labelled = labels is not None and labels.min() >= 0 and labels.max() < classes
        before, after = (
            answer.losses(labels[: len(answer.outputs)]) if is_labelled and labels is not None else answer.entropies()
            for answer in answers
        )
        difference = before - after
        error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
        return float(difference.mean()) / max(error, 1e-9), is_labelled


def wrong_preprocessing(trial: Trial) -> list[Finding]:
    """Return findings of the kinds `axis_order`, `scale`, `normalisation` and `channel_order`."""
    given = trial.samples.inputs[trial.index]
    findings, values = mislabelled_axes(given)
    if given.dtype != np.float32 or len(given) < FEWEST or float(values.min()) == float(values.max()):
        return findings
    scaling = scaling_of(values, trial.samples.preprocess)
    raw = raw_pixels(values, scaling)
    wanted, reaction = scaling, None
    evidence: dict[str, object] = {}
    if trial.given is not None:
        reaction = trial.given if values is given else trial.react(values)
        wanted, evidence, reaction = _wanted_scaling(trial, scaling, raw, reaction)
    elif trial.is_thorough and trial.samples.labels is not None:
        wanted, evidence = _wanted_by_labels(trial, scaling, raw, values)
    swap: list[Finding] = []
    if values.shape[1] == 3:
        upright = values if wanted is scaling else wanted.apply(raw)
        swap, after = _swapped_channels(trial, (scaling, wanted), raw, upright, reaction)
        wanted = after if wanted is not scaling else wanted
    if wanted is not scaling:
        findings.append(_scaling_finding(trial, scaling, wanted, evidence))
    return findings + swap


def _wanted_scaling(
    trial: Trial, given: Scaling, raw: np.ndarray, reaction: Reaction
) -> tuple[Scaling, dict[str, object], Reaction]:
    """Return the scaling that the network expects (`given` where that is not in doubt), and its reaction to it."""
    if reaction.distance <= NOTICEABLE:
        return given, {}, reaction
    tried = {wanted: trial.react(wanted.apply(raw)) for wanted in usual_scalings(raw.shape[1])}
    wanted = min(tried, key=lambda scaling: tried[scaling].distance)
    best = tried[wanted]
    if best.distance > UNDERSTOOD or not best.is_nearer_than(reaction, ratio=CLEARLY_NEARER):
        return given, {}, reaction
    distances = {scaling.name: seen.distance for scaling, seen in tried.items()}
    return wanted, {"given": reaction.distance, "tried": distances, "samples": len(raw)}, best


def _wanted_by_labels(
    trial: Trial, given: Scaling, raw: np.ndarray, values: np.ndarray
) -> tuple[Scaling, dict[str, object]]:
    """Return the scaling with which the network knows the labels best, if that is beyond doubt, else `given`."""
    tried = {wanted: trial.support(values, wanted.apply(raw)) for wanted in usual_scalings(raw.shape[1])}
    support = {wanted: found[0] for wanted, found in tried.items() if found is not None and found[1]}
    if not support:
        return given, {}
    wanted = max(support, key=lambda scaling: support[scaling])
    if support[wanted] < CONVINCING:
        return given, {}
    return wanted, {"t": {scaling.name: t for scaling, t in support.items()}, "samples": len(raw)}


def _scaling_finding(trial: Trial, given: Scaling, wanted: Scaling, evidence: dict[str, object]) -> Finding:
    kind: Kind = "scale" if is_misscaled(given, wanted) else "normalisation"
    sentence = (
        f"the samples are scaled as {given.name}, the network was trained on {wanted.name};"
        f" {how_to_scale(trial.samples, given, wanted)}"
    )
    return Finding(kind=kind, sentence=sentence, evidence=evidence)


def _swapped_channels(
    trial: Trial, scalings: tuple[Scaling, Scaling], raw: np.ndarray, values: np.ndarray, reaction: Reaction | None
) -> tuple[list[Finding], Scaling]:
    """Return a finding when the network prefers the channels reversed, and the scaling that goes with that.

    Args:
        trial: what to judge with.
        scalings: as the samples are given, and as the network expects them.
        raw: pixels in 0..1.
        values: scaled as the network expects.
        reaction: the first batch norms' to `values`; None without any.
    """
    given, wanted = scalings
    hypotheses = usual_scalings(3) if wanted is not given and reaction is not None else (wanted,)
    swaps = [(scaling, scaling.apply(raw[:, ::-1])) for scaling in hypotheses]
    if trial.samples.preprocess is None and wanted is given:
        swaps.append((wanted, np.ascontiguousarray(values[:, ::-1])))  # swapped after they were normalised
    ratio, is_suspect, nearest = None, False, len(swaps) - 1
    if reaction is not None:
        reactions = [trial.react(swap) for _, swap in swaps]
        nearest = int(np.argmin([found.distance for found in reactions]))
        ratio = reactions[nearest].distance / max(reaction.distance, 1e-12)
        is_suspect = reactions[nearest].is_nearer_than(reaction, ratio=SWAP_NEARER)
    if not (is_suspect or trial.is_thorough):
        return [], wanted
    scaling, swapped = swaps[nearest]
    support = trial.support(values, swapped)
    if not _is_convicted(support, ratio, is_suspect=is_suspect):
        return [], wanted
    fix = (
        "save x[:, ::-1]"
        if trial.samples.preprocess is None
        else "pictures are read as RGB: put x = x.flip(1) first in the network's forward, or, where the pictures were"
        " stored by OpenCV, store images[..., ::-1]"
    )
    sentence = (
        "red and blue are swapped for this network (RGB and BGR): it understands the pictures better the other way"
        f" round; {fix}"
    )
    evidence = {"distance_ratio": ratio, "t": support[0] if support else None, "samples": len(values)}
    return [Finding(kind="channel_order", sentence=sentence, evidence=evidence)], scaling


def _is_convicted(support: tuple[float, bool] | None, ratio: float | None, *, is_suspect: bool) -> bool:
    if support is None:
        return is_suspect and ratio is not None and ratio < SWAP_NEARER_ALONE
    t, is_labelled = support
    if is_suspect and t >= AGREEING:
        return True
    if ratio is None:
        return t >= (CONVINCING if is_labelled else CONVINCING_UNLABELLED)
    return is_labelled and t >= CONVINCING and ratio < 1 / SWAP_NEARER
