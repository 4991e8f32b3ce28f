"""The usual scalings of pixels, what the samples' own scaling is, and how a person changes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgeport.dataset.decode import Preprocess
    from edgeport.examination.samples import Samples

MISSCALED = 20.0  # factor between two scalings that is called a scale error; 255 and 58 (0..255 for ImageNet) are


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """(value - mean) / std of values in 0..1.

    Attributes:
        name: what people call it.
        mean: a number a channel.
        std: a number a channel.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """Return `(n, channels, h, w)` float32 pixels scaled; `raw`: 0..1."""
        mean, std = (_per_channel(values, raw.shape[1]) for values in (self.mean, self.std))
        return np.asarray((raw - mean) / std, np.float32)

    @property
    def recipe(self) -> str:
        """The keys of a recipe."""
        return f"mean = {_numbers(self.mean)} and std = {_numbers(self.std)}"


_GREY_OR_RGB = (
    Scaling(name="0..1", mean=(0.0,), std=(1.0,)),
    Scaling(name="0..255", mean=(0.0,), std=(1 / 255,)),
    Scaling(name="-1..1", mean=(0.5,), std=(0.5,)),
    Scaling(name="-128..127", mean=(128 / 255,), std=(1 / 255,)),
)
_GREY = (Scaling(name="MNIST's mean and std", mean=(0.1307,), std=(0.3081,)),)  # examples of PyTorch, mnist/main.py
_RGB = (
    # torchvision, references/classification/presets.py
    Scaling(name="ImageNet's mean and std", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    Scaling(
        name="CIFAR-10's mean and std", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
    ),  # of its training set
    # Simonyan and Zisserman 2014, "Very deep convolutional networks": 0..255 less the mean pixel, as Caffe's models
    Scaling(name="0..255 less ImageNet's mean", mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), std=(1 / 255,) * 3),
    # Radford et al. 2021, CLIP, clip/clip.py
    Scaling(
        name="CLIP's mean and std",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
)


def usual_scalings(channels: int) -> tuple[Scaling, ...]:
    """Return the scalings that networks for pictures of so many channels are trained with."""
    both = tuple(
        Scaling(name=known.name, mean=known.mean * channels, std=known.std * channels) for known in _GREY_OR_RGB
    )
    return both + (_RGB if channels == 3 else _GREY)


def scaling_of(values: np.ndarray, preprocess: Preprocess | None) -> Scaling:
    """Return how pixels of 0..1 became `values`, `(n, channels, h, w)`.

    Where a recipe says it, that; else it is told by the range: some pixels of many pictures are black and some white.
    """
    channels = values.shape[1]
    if preprocess is not None:
        mean, std = preprocess.mean or (0.0,) * channels, preprocess.std or (1.0,) * channels
        known = next((k for k in usual_scalings(channels) if _is_close(k, mean, std)), None)
        return Scaling(name=known.name if known else "the recipe's mean and std", mean=tuple(mean), std=tuple(std))
    low, high = float(values.min()), float(values.max())
    for name, shift, scale in (
        ("0..1 divided by 255", 0.0, 1 / 255),
        ("0..1", 0.0, 1.0),
        ("0..255", 0.0, 255.0),
    ):
        if low >= -1e-6 and high <= scale * 1.002 and high > scale / 255:
            return Scaling(name=name, mean=(shift,) * channels, std=(1 / scale,) * channels)
    ends = [(float(values[:, channel].min()), float(values[:, channel].max())) for channel in range(channels)]
    spans = [max(end - start, float(np.finfo(np.float32).tiny)) for start, end in ends]
    return Scaling(
        name=f"{low:.3g}..{high:.3g}",
        mean=tuple(-start / span for (start, _), span in zip(ends, spans, strict=True)),
        std=tuple(1 / span for span in spans),
    )


def raw_pixels(values: np.ndarray, given: Scaling) -> np.ndarray:
    """Return the pixels in 0..1 that `given` made `values` of."""
    mean, std = (_per_channel(numbers, values.shape[1]) for numbers in (given.mean, given.std))
    return np.asarray(values * std + mean, np.float32)


def is_misscaled(given: Scaling, wanted: Scaling) -> bool:
    """Whether the two differ by a factor such as 255, and not only by a mean and a standard deviation."""
    factor = float(np.mean(given.std) / np.mean(wanted.std))
    return max(factor, 1 / factor) > MISSCALED


def how_to_scale(samples: Samples, given: Scaling, wanted: Scaling) -> str:
    """Return the clause that says what to change so that the samples are scaled as `wanted`."""
    if samples.preprocess is not None:
        if samples.preprocess.mean or samples.preprocess.std:
            return f"write {wanted.recipe} in the recipe"
        return f"write a recipe (.toml) with source = this data, {wanted.recipe}, and give that"
    factor = given.std[0] / wanted.std[0]
    if not any(given.mean) and not any(wanted.mean) and len({*given.std}) == len({*wanted.std}) == 1:
        return f"multiply x by {factor:g}" if factor > 1 else f"divide x by {1 / factor:g}"
    start = {"0..1": "x", "0..255": "x / 255", "0..1 divided by 255": "x * 255"}.get(given.name, "pixels in 0..1")
    return f"save x as ({start} - mean) / std with {wanted.recipe}, a number a channel"


def _is_close(known: Scaling, mean: tuple[float, ...], std: tuple[float, ...]) -> bool:
    return bool(np.allclose(known.mean, mean, atol=0.004) and np.allclose(known.std, std, rtol=0.02))


def _per_channel(values: tuple[float, ...], channels: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(values, np.float32), (channels,)).reshape(1, channels, 1, 1)


def _numbers(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{value:.7g}' for value in values)}]"
