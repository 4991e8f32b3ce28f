"""Whether the labels cover the classes."""

from __future__ import annotations

import numpy as np

from edgeport.examination.finding import Finding, listed

ENOUGH_A_CLASS = 4  # samples a class on average; a random draw then misses a class with a chance of e^-4 = 2 %
LEAST_OF_EXPECTED = 0.6  # share of the classes that a random draw of this size would have shown
LARGEST_OF_TWO = 0.95
LARGEST_SHARE = 0.6
MOST_CLASSES = 100_000
LARGEST_FACTOR = 5.0  # times an even share


def class_coverage(labels: np.ndarray | None, classes: int, names: tuple[str, ...]) -> list[Finding]:
    """Return a finding when classes are missing, or one outweighs the others.

    Args:
        labels: `(n,)` int64 of all samples, or None.
        classes: how many there are; 0: as many as the labels show.
        names: their names; may be empty.
    """
    if labels is None or not len(labels):
        return []
    classes = max(classes, int(labels.max()) + 1)
    if classes > MOST_CLASSES:
        return []  # numbers of something else
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    if classes < 2:
        return []
    present = int((counts > 0).sum())
    expected = classes * (1 - (1 - 1 / classes) ** len(labels))
    evidence: dict[str, object] = {"samples": len(labels), "classes": classes, "present": present}

    def name(number: int) -> str:
        return names[number] if number < len(names) else str(number)

    if present < classes and (
        len(labels) >= ENOUGH_A_CLASS * classes or present < max(2.0, LEAST_OF_EXPECTED * expected)
    ):
        missing = np.flatnonzero(counts == 0).tolist()
        sentence = (
            f"{len(missing)} of {classes} classes have no sample ({listed(name(number) for number in missing)}); draw"
            " the samples at random from all classes: ranges are wrong for what was never seen"
        )
        return [Finding(kind="classes", sentence=sentence, evidence=evidence | {"missing": missing})]
    largest = int(counts.argmax())
    share = float(counts[largest] / len(labels))
    limit = LARGEST_OF_TWO if classes == 2 else min(LARGEST_SHARE, LARGEST_FACTOR / classes)
    if share > limit and counts[largest] >= 10 and len(labels) >= ENOUGH_A_CLASS * classes:
        sentence = (
            f"class {name(largest)} has {share:.0%} of the samples, an even share is {1 / classes:.1%}; draw about"
            f" {max(1, len(labels) // classes)} samples of each class"
        )
        return [Finding(kind="classes", sentence=sentence, evidence=evidence | {"largest": largest, "share": share})]
    return []
