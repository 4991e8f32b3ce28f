"""Which samples come when, and how fast the student learns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHUFFLE, AUGMENT, DROPOUT = 0, 1, 2  # streams of chance: the last word of a generator's seed


def generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """Return the source of chance of one epoch; nothing that came before matters, so a resumed run has the same."""
    return np.random.Generator(np.random.PCG64([seed, epoch, stream]))


def epoch_order(count: int, batch_size: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the shuffled sample indices of an epoch, (used,) int64.

    A last batch shorter than half of the others (or of a single sample, of which batch norm has no variance) is left
    out; the next epoch's shuffle gives its samples another turn.
    """
    rest = count % batch_size
    used = count - rest if count > batch_size and rest < max(2, math.ceil(batch_size / 2)) else count
    return generator(seed, epoch, SHUFFLE).permutation(count)[:used].astype(np.int64)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return how many batches `epoch_order` makes."""
    return math.ceil(len(epoch_order(count, batch_size, seed=0, epoch=0)) / batch_size)


def learning_rate(step: int, total: int, *, peak: float, warmup: float) -> float:
    """One cycle: linear from `peak` / 20 to `peak` over the first `warmup` share of the steps, then a cosine to 0.

    Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", equation 5, without restart.

    Args:
        step: 0..total - 1.
        total: steps of the whole training.
        peak: highest learning rate.
        warmup: share of the steps, 0..1.
    """
    rising = round(total * warmup)
    if step < rising:
        return peak * (0.05 + 0.95 * step / rising)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
