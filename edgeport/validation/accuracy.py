"""Share of samples whose highest class score is at their label."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeport.errors import StageError


def top1_percent(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the percent of samples whose largest score is at their label, 0..100; of equal scores the first counts.

    Args:
        scores: (N, K).
        labels: (N,), integers in 0..K-1.

    Raises:
        StageError: a label is out of range, or there is not one label a sample.
    """
    if len(scores) != len(labels):
        raise StageError(f"{len(labels)} labels for {len(scores)} samples; give one label a sample")
    classes = scores.shape[1]
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        index = int(wrong[0])
        raise StageError(f"label {labels[index]} of sample {index} is out of range: the network has {classes} classes")
    return float(np.mean(scores.argmax(axis=1) == labels) * 100.0)
