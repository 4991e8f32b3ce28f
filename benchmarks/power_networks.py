"""The networks of MLPerf Inference's edge rounds, operator by operator, from their papers; a part of power.py.

No weights: shapes tell what a network computes and moves, and which layer reads which (`power_files.py` makes files of
them). Sources: MobileNetV1 (Howard et al. 2017, table 1), V2 (Sandler et al. 2018, table 2), V3 (Howard et al. 2019,
tables 1 and 2; the minimalistic form has no squeeze-and-excitation, no hard swish and 3x3 kernels), EfficientNet-Lite
(TensorFlow's efficientnet/lite), ResNet-50 v1.5 (He et al. 2015). All but EfficientNet-Lite classify 1,001 classes, as
TensorFlow's files do.
"""

from __future__ import annotations

import math
import re

from power_layers import CLASSES, Builder, Layer

from edgeport.types import OpCost


def divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple, but not down by more than a tenth (the papers' `make_divisible`)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def inverted(  # noqa: PLR0913  keyword-only past the second
    net: Builder,
    outputs: int,
    *,
    wide: int,
    kernel: int = 3,
    stride: int = 1,
    squeeze: int = 0,
    swish: bool = False,
) -> None:
    """Add an inverted residual block with `wide` channels inside."""
    before, place = (net.size, net.channels), net.place
    if wide != net.channels:
        net.conv(wide, is_clamped=not swish)
        if swish:
            net.elementwise("HARD_SWISH")
    net.depthwise(kernel, stride, is_clamped=not swish)
    if swish:
        net.elementwise("HARD_SWISH")
    if squeeze:
        net.squeeze(squeeze)
    net.conv(outputs, is_clamped=False)
    if (net.size, net.channels) == before:
        net.plus(place)


def mobilenet_v1(alpha: float, size: int, dtype: str, classes: int = CLASSES) -> tuple[Layer, ...]:
    """Return MobileNetV1's layers."""
    net = Builder(dtype, size).conv(divisible(32 * alpha), 3, 2)
    for outputs, stride in [
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)
    ]:  # fmt: skip
        net.depthwise(3, stride).conv(divisible(outputs * alpha))
    return net.pool().head(classes)


def mobilenet_v2(alpha: float, size: int, dtype: str) -> tuple[Layer, ...]:
    """Return MobileNetV2's layers."""
    net = Builder(dtype, size).conv(divisible(32 * alpha), 3, 2)
    for factor, outputs, count, stride in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ]:  # fmt: skip
        for index in range(count):
            inverted(net, divisible(outputs * alpha), wide=factor * net.channels, stride=stride if index == 0 else 1)
    return net.conv(max(1280, divisible(1280 * alpha))).pool().head()


# kernel, expansion of the channels that come in, outputs, squeeze-and-excitation, hard swish, stride
V3_LARGE = (
    (3, 1, 16, 0, 0, 1), (3, 4, 24, 0, 0, 2), (3, 3, 24, 0, 0, 1), (5, 3, 40, 1, 0, 2), (5, 3, 40, 1, 0, 1),
    (5, 3, 40, 1, 0, 1), (3, 6, 80, 0, 1, 2), (3, 2.5, 80, 0, 1, 1), (3, 2.3, 80, 0, 1, 1), (3, 2.3, 80, 0, 1, 1),
    (3, 6, 112, 1, 1, 1), (3, 6, 112, 1, 1, 1), (5, 6, 160, 1, 1, 2), (5, 6, 160, 1, 1, 1), (5, 6, 160, 1, 1, 1),
)  # fmt: skip
V3_SMALL = (
    (3, 1, 16, 1, 0, 2), (3, 72 / 16, 24, 0, 0, 2), (3, 88 / 24, 24, 0, 0, 1), (5, 4, 40, 1, 1, 2), (5, 6, 40, 1, 1, 1),
    (5, 6, 40, 1, 1, 1), (5, 3, 48, 1, 1, 1), (5, 3, 48, 1, 1, 1), (5, 6, 96, 1, 1, 2), (5, 6, 96, 1, 1, 1),
    (5, 6, 96, 1, 1, 1),
)  # fmt: skip


def mobilenet_v3(size: int, alpha: float, dtype: str, *, is_large: bool, is_minimalistic: bool) -> tuple[Layer, ...]:
    """Return MobileNetV3's layers."""
    net = Builder(dtype, size).conv(16, 3, 2, is_clamped=is_minimalistic)
    if not is_minimalistic:
        net.elementwise("HARD_SWISH")
    table = V3_LARGE if is_large else V3_SMALL
    for kernel, expansion, outputs, squeeze, swish, stride in table:
        full = divisible(net.channels * expansion)
        inverted(
            net,
            divisible(outputs * alpha),
            wide=full,
            kernel=3 if is_minimalistic else kernel,
            stride=stride,
            squeeze=divisible(full / 4) if squeeze and not is_minimalistic else 0,
            swish=bool(swish) and not is_minimalistic,
        )
    net.conv(divisible((960 if is_large else 576) * alpha), is_clamped=is_minimalistic)
    if not is_minimalistic:
        net.elementwise("HARD_SWISH")
    net.pool().conv(1280 if is_large else 1024, is_clamped=is_minimalistic)
    if not is_minimalistic:
        net.elementwise("HARD_SWISH")
    return net.head()


LITE = {0: (1.0, 1.0, 224), 1: (1.0, 1.1, 240), 2: (1.1, 1.2, 260), 3: (1.2, 1.4, 280), 4: (1.4, 1.8, 300)}


def efficientnet_lite(version: int, dtype: str) -> tuple[Layer, ...]:
    """Return EfficientNet-Lite's layers; stem, head, first and last block keep width and depth."""
    width, depth, size = LITE[version]
    net = Builder(dtype, size).conv(32, 3, 2)
    stages = [
        (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 3, 6, 80, 2), (5, 3, 6, 112, 1), (5, 4, 6, 192, 2),
        (3, 1, 6, 320, 1),
    ]  # fmt: skip
    for place, (kernel, count, factor, outputs, stride) in enumerate(stages):
        repeats = count if place in (0, len(stages) - 1) else math.ceil(count * depth)
        for index in range(repeats):
            wide = factor * net.channels
            inverted(net, divisible(outputs * width), wide=wide, kernel=kernel, stride=stride if index == 0 else 1)
    return net.conv(1280).pool().head(1000)


RESNET_SIZE = 224


def resnet50(dtype: str) -> tuple[Layer, ...]:
    """Return ResNet-50's layers, with the stride in the 3x3 convolutions (v1.5)."""
    net = Builder(dtype, RESNET_SIZE).conv(64, 7, 2).pool("MAX_POOL_2D", size=56, window=(3, 2))
    for width, count, stride in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        for index in range(count):
            step = stride if index == 0 else 1
            before, shortcut = (net.size, net.channels, net.place), net.place
            if index == 0:
                shortcut = net.conv(4 * width, 1, step, is_clamped=False).place
                net.size, net.channels, net.place = before
            net.conv(width).conv(width, 3, step).conv(4 * width, is_clamped=False).plus(shortcut, is_clamped=True)
    return net.pool().head()


def operators(model: str, dtype: str) -> tuple[OpCost, ...]:
    """Return the operators of a network, as `layers` has them."""
    return tuple(layer.cost for layer in layers(model, dtype))


def picture_size(model: str) -> int:
    """Return height and width of the pictures that a network of MLPerf's logs takes.

    Raises:
        ValueError: the name tells none.
    """
    if model == "resnet50":
        return RESNET_SIZE
    if found := re.match(r"efficientnet-lite(\d)", model):
        return LITE[int(found[1])][2]
    if found := re.search(r"(?:-[0-9.]+-|_)(\d{2,3})(?:[-_]|$)", model):
        return int(found[1])
    raise ValueError(f"'{model}' tells no size of pictures")


def layers(model: str, dtype: str) -> tuple[Layer, ...]:
    """Return the layers of a network as MLPerf's logs name it.

    Args:
        model: e.g. `mobilenet-v2-0.35-128-quantized`, `efficientnet-lite0-non-quantized`, `resnet50`.
        dtype: `int8` or `float32`.

    Raises:
        ValueError: no such network.
    """
    if model == "resnet50":
        return resnet50(dtype)
    if found := re.match(r"mobilenet-v([12])-([0-9.]+)-(\d+)", model):
        make = mobilenet_v1 if found[1] == "1" else mobilenet_v2
        return make(float(found[2]), int(found[3]), dtype)
    if found := re.match(r"mobilenet-v3-(large|small)(-minimalistic)?_(\d+)_([0-9.]+)", model):
        size, alpha = int(found[3]), float(found[4])
        return mobilenet_v3(size, alpha, dtype, is_large=found[1] == "large", is_minimalistic=bool(found[2]))
    if found := re.match(r"efficientnet-lite(\d)", model):
        return efficientnet_lite(int(found[1]), dtype)
    raise ValueError(f"no network '{model}'")
