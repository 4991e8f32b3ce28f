"""What a file loses on the tune samples, and how much of that `--max-drop` allows.

*Lost* is how many samples fewer the file names rightly than the float network, which is what the verdict judges on the
evaluation samples. Allowed are `max_drop` percent of the samples, rounded down: a limit finer than one sample means
none. Without labels every changed answer counts as lost, which is an upper bound.

Where float and file differ on d samples, chance alone makes a difference of sqrt(d) (McNemar, "Note on the Sampling
Error of the Difference Between Correlated Proportions or Percentages", 1947); the report states it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeport.devices.agent import class_scores_index
from edgeport.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeport.types import StageRecord

MOST_SAMPLES = 2000  # of the tune data that each file runs; one of them is 0.05 points


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a file costs on the tune samples.

    Attributes:
        lost: samples fewer that it names rightly than the float network; negative: more.
        changed: samples that only one of the two names rightly (without labels: with another answer).
        chance: samples that chance alone makes of `lost`, one standard error; without labels 0, as nothing cancels.
    """

    lost: int
    changed: int
    chance: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Samples on which layers are chosen, and what float answers on them.

    Attributes:
        inputs: an .npy file a network input, `(N, ...)`, channels first.
        output: index of the network output with class scores.
        scores: `(N, classes)` of the float network that is lowered.
        labels: `(N,)` class indices; None: unknown.
        top1_float: percent that the network that came in names rightly, before any pruning; None: unknown.
    """

    inputs: tuple[Path, ...]
    output: int
    scores: NDArray[np.float32]
    labels: NDArray[np.int64] | None = None
    top1_float: float | None = None

    def loss(self, scores: NDArray[np.float32]) -> Loss:
        """Return what a file with these scores, `(N, classes)`, loses; scores that are not finite are no answer."""
        answers = np.where(np.isfinite(scores).all(axis=1), scores.argmax(axis=1), -1)
        expected = self.scores.argmax(axis=1)
        if self.labels is None:
            changed = int(np.sum(answers != expected))
            return Loss(lost=changed, changed=changed)
        right, right_before = answers == self.labels, expected == self.labels
        changed = int(np.sum(right != right_before))
        return Loss(lost=int(right_before.sum() - right.sum()), changed=changed, chance=math.sqrt(changed))

    def lost_before(self) -> int:
        """Return how many fewer samples the float network names rightly than the one that came in, at least 0."""
        if self.labels is None or self.top1_float is None:
            return 0
        came_in = round(self.top1_float / 100 * len(self.labels))
        return max(0, came_in - int(np.sum(self.scores.argmax(axis=1) == self.labels)))


def scores_output(trace: StageRecord, max_drop: float | None) -> int | None:
    """Return the index of the output with class scores, where there is a limit to hold on it.

    Raises:
        ConfigError: there is a limit, and no output is class scores.
    """
    if max_drop is None:
        return None
    shapes = [(1, *dims) for _, dims, _ in trace.metrics["outputs"]]  # type: ignore[attr-defined]  # JSON rows
    output = class_scores_index(shapes)
    if output is None:
        found = ", ".join("x".join(map(str, shape[1:])) or "scalar" for shape in shapes)
        raise ConfigError(
            f"--max-drop {max_drop:g} is about class scores, and the network has none (outputs a sample: {found});"
            " leave it out"
        )
    return output


def allowed(samples: int, max_drop: float) -> int:
    """Return how many of so many samples `max_drop` percent are, rounded down."""
    return math.floor(samples * max_drop / 100 + 1e-9)  # 0.3 percent of 1000 are 3, and not 2.9999999999999996
