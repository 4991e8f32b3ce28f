"""How much a file's outputs have in common with those of the float network it was made from.

`agreement` is about decisions: the percent of samples whose largest class score is at the same place. Class scores are
the first output of shape (N, K) with K >= 2, labels or not. A network without such an output (images, sequences, one
number) makes no such decision: it has no agreement, and `cosine_min` is its parity. A vector of measurements looks the
same as class scores; its agreement says whether its largest entry stays the largest.

`cosine_min` is about values: over all outputs and samples the lowest cosine between the flattened arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeport.devices.agent import agreement_percent, class_scores_index, cosines
from edgeport.errors import StageError
from edgeport.types import Metric, Origin


def class_scores(outputs: Sequence[NDArray[Any]]) -> NDArray[Any] | None:
    """Return the output that is taken for class scores, (N, K); None where there is none."""
    index = class_scores_index([output.shape for output in outputs])
    return None if index is None else outputs[index]


def check_outputs(outputs: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]], *, name: str) -> None:
    """Check that a file's outputs can be compared: shapes as expected, every value finite.

    Args:
        outputs: of the file, (N, ...) each.
        expected: of the float network.
        name: the file, for the message.

    Raises:
        StageError: they differ in number or shape, or a value is NaN or infinite; names file, output and sample.
    """
    found, wanted = [output.shape for output in outputs], [output.shape for output in expected]
    if found != wanted:
        raise StageError(f"{name} gives outputs of shapes {found}, the network {wanted}")
    for place, output in enumerate(outputs):
        finite = np.isfinite(output.reshape(len(output), -1)).all(axis=1)
        if not finite.all():
            count = int(np.sum(~finite))
            raise StageError(
                f"{name} gives NaN or infinity in output {place} for sample {int(np.argmin(finite))} "
                f"({count} of {len(output)} samples)"
            )


def cosine_min(outputs: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """Return the lowest cosine over samples and outputs, -1..1.

    cos(a, b) = a.b / (|a| |b|), in float64. Two zero vectors count as 1, a zero vector and another one as 0.
    """
    return min(float(np.min(cosines(ours, theirs))) for ours, theirs in zip(outputs, expected, strict=True))


def metrics(
    outputs: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]], *, origin: Origin, suffix: str = ""
) -> list[Metric]:
    """Return `agreement` (where an output holds class scores) and `cosine_min`, their names followed by `suffix`."""
    found = []
    scores, wanted = class_scores(outputs), class_scores(expected)
    if scores is not None and wanted is not None:
        percent = agreement_percent(scores, wanted)
        found.append(Metric(name=f"agreement{suffix}", value=percent, unit="percent", origin=origin))
    lowest = cosine_min(outputs, expected)
    found.append(Metric(name=f"cosine_min{suffix}", value=lowest, unit="cosine", origin=origin))
    return found
