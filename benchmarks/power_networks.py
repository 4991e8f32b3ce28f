"""The networks of MLPerf Inference's edge rounds, operator by operator, from their papers; a part of power.py.

No weights: shapes tell what a network computes and moves. Sources: MobileNetV1 (Howard et al. 2017, table 1), V2
(Sandler et al. 2018, table 2), V3 (Howard et al. 2019, tables 1 and 2; the minimalistic form has no
squeeze-and-excitation, no hard swish and 3x3 kernels), EfficientNet-Lite (TensorFlow's efficientnet/lite), ResNet-50
v1.5 (He et al. 2015). All but EfficientNet-Lite classify 1,001 classes, as TensorFlow's files do.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from edgeport.types import OpCost

BYTES = {"int8": 1, "float32": 4}
CLASSES = 1001


@dataclass
class Builder:
    """Collects operators while it keeps track of the running activation, (height, width, channels)."""

    dtype: str
    size: int
    channels: int = 3
    ops: list[OpCost] = field(default_factory=list)

    def _add(self, kind: str, *, macs: int = 0, weights: int = 0, moved: int = 0, is_depthwise: bool = False) -> None:
        width = BYTES[self.dtype]
        cost = OpCost(
            name=f"{kind}_{len(self.ops)}",
            kind=kind,
            dtype=self.dtype,
            macs=macs,
            weight_bytes=weights * width,
            activation_bytes=moved * width,
            is_depthwise=is_depthwise,
        )
        self.ops.append(cost)

    @property
    def elements(self) -> int:
        """Elements of the running activation."""
        return self.size * self.size * self.channels

    def conv(self, outputs: int, kernel: int = 1, stride: int = 1) -> Builder:
        """Add a convolution."""
        before = self.elements
        weights = kernel * kernel * self.channels * outputs
        self.size = math.ceil(self.size / stride)
        self.channels = outputs
        macs = self.size * self.size * weights
        self._add("CONV_2D", macs=macs, weights=weights + outputs, moved=before + self.elements)
        return self

    def depthwise(self, kernel: int, stride: int) -> Builder:
        """Add a depthwise convolution."""
        before = self.elements
        weights = kernel * kernel * self.channels
        self.size = math.ceil(self.size / stride)
        macs = self.size * self.size * weights
        moved = before + self.elements
        self._add("DEPTHWISE_CONV_2D", macs=macs, weights=weights + self.channels, moved=moved, is_depthwise=True)
        return self

    def elementwise(self, kind: str, *, inputs: int = 1) -> Builder:
        """Add an operator of one or two whole activations."""
        self._add(kind, moved=(inputs + 1) * self.elements)
        return self

    def scaled(self) -> Builder:
        """Add a product with a number a channel."""
        self._add("MUL", moved=2 * self.elements + self.channels)
        return self

    def pool(self, kind: str = "AVERAGE_POOL_2D", size: int = 1) -> Builder:
        """Add pooling down to `size`, by default over the whole activation."""
        before = self.elements
        self.size = size
        self._add(kind, moved=before + self.elements)
        return self

    def squeeze(self, reduced: int) -> Builder:
        """Add squeeze-and-excitation with a hard sigmoid."""
        size, channels = self.size, self.channels
        self.pool().conv(reduced).conv(channels).elementwise("HARD_SIGMOID")
        self.size = size
        return self.scaled()

    def head(self, classes: int = CLASSES) -> tuple[OpCost, ...]:
        """Add the classifier and return all operators."""
        inputs = self.channels
        self.channels = classes
        self._add("FULLY_CONNECTED", macs=inputs * classes, weights=(inputs + 1) * classes, moved=inputs + classes)
        self.elementwise("SOFTMAX")
        return tuple(self.ops)


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
    before = (net.size, net.channels)
    if wide != net.channels:
        net.conv(wide)
        if swish:
            net.elementwise("HARD_SWISH")
    net.depthwise(kernel, stride)
    if swish:
        net.elementwise("HARD_SWISH")
    if squeeze:
        net.squeeze(squeeze)
    net.conv(outputs)
    if (net.size, net.channels) == before:
        net.elementwise("ADD", inputs=2)


def mobilenet_v1(alpha: float, size: int, dtype: str, classes: int = CLASSES) -> tuple[OpCost, ...]:
    """Return MobileNetV1's operators."""
    net = Builder(dtype, size).conv(divisible(32 * alpha), 3, 2)
    for outputs, stride in [
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)
    ]:  # fmt: skip
        net.depthwise(3, stride).conv(divisible(outputs * alpha))
    return net.pool().head(classes)


def mobilenet_v2(alpha: float, size: int, dtype: str) -> tuple[OpCost, ...]:
    """Return MobileNetV2's operators."""
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


def mobilenet_v3(size: int, alpha: float, dtype: str, *, is_large: bool, is_minimalistic: bool) -> tuple[OpCost, ...]:
    """Return MobileNetV3's operators."""
    net = Builder(dtype, size).conv(16, 3, 2)
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
    net.conv(divisible((960 if is_large else 576) * alpha))
    if not is_minimalistic:
        net.elementwise("HARD_SWISH")
    net.pool().conv(1280 if is_large else 1024)
    if not is_minimalistic:
        net.elementwise("HARD_SWISH")
    return net.head()


LITE = {0: (1.0, 1.0, 224), 1: (1.0, 1.1, 240), 2: (1.1, 1.2, 260), 3: (1.2, 1.4, 280), 4: (1.4, 1.8, 300)}


def efficientnet_lite(version: int, dtype: str) -> tuple[OpCost, ...]:
    """Return EfficientNet-Lite's operators; stem, head, first and last block keep width and depth."""
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


def resnet50(dtype: str) -> tuple[OpCost, ...]:
    """Return ResNet-50's operators, with the stride in the 3x3 convolutions (v1.5)."""
    net = Builder(dtype, 224).conv(64, 7, 2).pool("MAX_POOL_2D", size=56)
    for width, count, stride in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        for index in range(count):
            step = stride if index == 0 else 1
            if index == 0:
                branch = Builder(dtype, net.size, net.channels).conv(4 * width, 1, step)
                net.ops += branch.ops
            net.conv(width).conv(width, 3, step).conv(4 * width).elementwise("ADD", inputs=2)
    return net.pool().head()


def operators(model: str, dtype: str) -> tuple[OpCost, ...]:
    """Return the operators of a network as MLPerf's logs name it.

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
