"""A few figures and a thumbnail of every sample; and from them: constant, outlying and repeated samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeport.examination.finding import Finding, listed
from edgeport.examination.samples import batch_length, is_picture, spread

if TYPE_CHECKING:
    from edgeport.dataset import Dataset

THUMBNAIL = 12  # pixels a side
LONGEST_VECTOR = 4096  # values of a sample that is no picture that are compared
ALIKE = 0.98  # cosine of two thumbnails; highest of 2,000 CIFAR-10 pictures: 0.94
REPEATED_SHARE = 0.02  # of the samples; below, repetition does no harm (CIFAR-10 itself repeats some)
OUTLIER_FACTOR = 6.0  # times the usual largest value; normalised photographs stay within 1.5
OUTLIER_DEVIATIONS = 8.0  # median absolute deviations, scaled to a normal distribution's standard deviation
MIXED_SHARE = 0.1  # outliers beyond this share are a second scale


@dataclass(frozen=True, kw_only=True)
class Census:
    """Figures of one input over many samples.

    Attributes:
        numbers: `(n,)` int64, numbers of the samples in the data set.
        largest: `(n,)` float64, largest absolute value of each sample.
        lows: `(n, channels)` float64, smallest value; a channel of pictures, else one.
        highs: `(n, channels)` float64, largest value.
        means: `(n, channels)` float64.
        squares: `(n, channels)` float64, mean of the squares.
        thumbnails: `(n, values)` float32, each channel without its mean, of length one; zeros for a constant sample.
    """

    numbers: np.ndarray
    largest: np.ndarray
    lows: np.ndarray
    highs: np.ndarray
    means: np.ndarray
    squares: np.ndarray
    thumbnails: np.ndarray

    @property
    def is_constant(self) -> np.ndarray:
        """`(n,)` bool: every channel of the sample is a single value."""
        return np.asarray((self.lows == self.highs).all(1))

    @property
    def deviation(self) -> float:
        """Standard deviation of all values together, about their channel's mean."""
        return float(np.sqrt(np.maximum(self.squares.mean(0) - self.means.mean(0) ** 2, 0).mean()))


def census(data: Dataset, index: int, count: int) -> Census:
    """Look at input `index` of at most `count` samples, evenly spread over the data; one batch is held at a time."""
    numbers = spread(len(data), count)
    as_picture = is_picture(data.shapes[index], data.dtypes[index])
    rows: list[tuple[np.ndarray, ...]] = []
    for batch in data.subset(numbers.tolist()).batches(batch_length(data)):
        values = batch.inputs[index]
        channels = values.reshape(len(values), values.shape[1] if as_picture else 1, -1)
        squares = np.einsum("ncv,ncv->nc", channels, channels, dtype=np.float64) / channels.shape[2]
        rows.append(
            (
                channels.min(2).astype(np.float64),
                channels.max(2).astype(np.float64),
                channels.mean(2, dtype=np.float64),
                squares,
                _thumbnails(values, as_picture=as_picture),
            )
        )
    lows, highs, means, squares, thumbnails = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return Census(
        numbers=numbers,
        largest=np.maximum(np.abs(lows), np.abs(highs)).max(1),
        lows=lows,
        highs=highs,
        means=means,
        squares=squares,
        thumbnails=thumbnails,
    )


def _thumbnails(values: np.ndarray, *, as_picture: bool) -> np.ndarray:
    """Return `(n, values)` float32: block means of pictures, evenly strided values of anything else."""
    if as_picture:
        height, width = values.shape[2:]
        rows, columns = (np.arange(min(side, THUMBNAIL)) * side // min(side, THUMBNAIL) for side in (height, width))
        sums = np.add.reduceat(np.add.reduceat(values, rows, axis=2), columns, axis=3)
        counts = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
        blocks = sums / counts
        flat = (blocks - blocks.mean((2, 3), keepdims=True)).reshape(len(values), -1)
    else:
        flat = values.reshape(len(values), -1)
        flat = flat[:, :: max(1, flat.shape[1] // LONGEST_VECTOR)]
        flat = flat - flat.mean(1, keepdims=True)
    length = np.sqrt((flat.astype(np.float64) ** 2).sum(1, keepdims=True))
    return np.asarray(flat / np.where(length > 0, length, 1), np.float32)


def constant_samples(found: Census) -> list[Finding]:
    """Return a finding when samples are one single value (a channel)."""
    is_constant = found.is_constant
    if not is_constant.any():
        return []
    numbers = found.numbers[is_constant].tolist()
    is_zero = found.largest[is_constant] == 0
    what = "all zeros" if is_zero.all() else "a single value"
    every = "every sample is" if is_constant.all() else f"{len(numbers)} of {len(is_constant)} samples are"
    which = "" if is_constant.all() else f" (samples {listed(numbers)})"
    fix = (
        "check how they are read: nothing can be calibrated with them"
        if is_constant.all()
        else "remove them, or check how they were made: ranges learn nothing from them"
    )
    sentence = f"{every} {what}{which}; {fix}"
    return [Finding(kind="constant", sentence=sentence, evidence={"samples": numbers, "zeros": int(is_zero.sum())})]


def outlying_samples(found: Census) -> list[Finding]:
    """Return a finding when the values of some samples are far larger or smaller than those of the others."""
    usual = found.largest[~found.is_constant]
    if len(usual) < 8:
        return []
    size = np.log(np.maximum(found.largest, np.finfo(np.float32).tiny))
    middle = float(np.median(np.log(usual)))
    spread_ = 1.4826 * float(np.median(np.abs(np.log(usual) - middle)))  # a normal distribution's standard deviation
    limit = max(np.log(OUTLIER_FACTOR), OUTLIER_DEVIATIONS * spread_)
    is_outlier = (np.abs(size - middle) > limit) & ~found.is_constant
    if not is_outlier.any():
        return []
    numbers = found.numbers[is_outlier].tolist()
    factor = float(np.exp(np.median(size[is_outlier]) - middle))
    times = f"{factor:.3g} times larger" if factor > 1 else f"{1 / factor:.3g} times smaller"
    evidence = {"samples": numbers, "factor": factor, "usual_largest": float(np.exp(middle))}
    if is_outlier.mean() > MIXED_SHARE:
        sentence = (
            f"values of {is_outlier.mean():.0%} of the samples are {times} than those of the others (samples"
            f" {listed(numbers)}): two scalings are mixed, such as 0..1 and 0..255; prepare all samples the same way"
        )
        return [Finding(kind="scale", sentence=sentence, evidence=evidence)]
    sentence = (
        f"values of {len(numbers)} of {len(size)} samples (samples {listed(numbers)}) are {times} than usual"
        f" (largest value {np.exp(middle):.3g}); remove or repair them, one such sample coarsens every int8 range,"
        " or build with --calibration percentile"
    )
    return [Finding(kind="outliers", sentence=sentence, evidence=evidence)]


def repeated_samples(found: Census) -> list[Finding]:
    """Return a finding when many samples show the same thing as an earlier one."""
    different = np.flatnonzero(~found.is_constant)
    pairs: list[tuple[int, int]] = []
    thumbnails = found.thumbnails[different]
    for start in range(0, len(different), 512):
        block = thumbnails[start : start + 512] @ thumbnails[: start + 512].T
        for row in range(len(block)):
            earlier = block[row, : start + row]
            if len(earlier) and earlier.max() >= ALIKE:
                pairs.append((int(different[int(earlier.argmax())]), int(different[start + row])))
    if len(pairs) < max(1, REPEATED_SHARE * len(found.numbers)):
        return []
    named = [(int(found.numbers[first]), int(found.numbers[second])) for first, second in pairs]
    sentence = (
        f"{len(pairs)} of {len(found.numbers)} samples nearly repeat an earlier one (samples"
        f" {listed(f'{second} = {first}' for first, second in named)}); replace them: they add cost, no information"
    )
    return [Finding(kind="duplicates", sentence=sentence, evidence={"pairs": [list(pair) for pair in named]})]
