"""What the networks of power_networks.py are made of: layers, and a builder that keeps track of shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edgeport.types import OpCost

BYTES = {"int8": 1, "float32": 4}
CLASSES = 1001
INPUT = -1  # place of the network's input among the layers


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operator and how it hangs together with others.

    Attributes:
        cost: what it computes and moves.
        reads: places of the layers whose results it reads; `INPUT`: the network's input.
        channels: of its result.
        size: height and width of its result.
        kernel: height and width of its window.
        stride: of its window.
        is_clamped: whether a ReLU or ReLU6 belongs to it.
    """

    cost: OpCost
    reads: tuple[int, ...]
    channels: int
    size: int
    kernel: int = 1
    stride: int = 1
    is_clamped: bool = False


@dataclass
class Builder:
    """Collects layers while it keeps track of the running activation, (height, width, channels).

    Attributes:
        dtype: number format.
        size: height and width of the running activation.
        channels: of it.
        layers: so far.
        place: of the layer that made the running activation.
    """

    dtype: str
    size: int
    channels: int = 3
    layers: list[Layer] = field(default_factory=list)
    place: int = INPUT

    def _add(  # noqa: PLR0913  keyword-only past the first
        self,
        kind: str,
        *,
        macs: int = 0,
        weights: int = 0,
        moved: int = 0,
        beside: tuple[int, ...] = (),
        window: tuple[int, int] = (1, 1),
        is_clamped: bool = False,
    ) -> None:
        """Add a layer that reads the running activation, and those of the places `beside`."""
        width = BYTES[self.dtype]
        cost = OpCost(
            name=f"{kind}_{len(self.layers)}",
            kind=kind,
            dtype=self.dtype,
            macs=macs,
            weight_bytes=weights * width,
            activation_bytes=moved * width,
            is_depthwise=kind == "DEPTHWISE_CONV_2D",
        )
        layer = Layer(
            cost=cost,
            reads=(self.place, *beside),
            channels=self.channels,
            size=self.size,
            kernel=window[0],
            stride=window[1],
            is_clamped=is_clamped,
        )
        self.place = len(self.layers)
        self.layers.append(layer)

    @property
    def elements(self) -> int:
        """Elements of the running activation."""
        return self.size * self.size * self.channels

    def conv(self, outputs: int, kernel: int = 1, stride: int = 1, *, is_clamped: bool = True) -> Builder:
        """Add a convolution."""
        before = self.elements
        weights = kernel * kernel * self.channels * outputs
        self.size = math.ceil(self.size / stride)
        self.channels = outputs
        macs = self.size * self.size * weights
        moved = before + self.elements
        self._add(
            "CONV_2D",
            macs=macs,
            weights=weights + outputs,
            moved=moved,
            window=(kernel, stride),
            is_clamped=is_clamped,
        )
        return self

    def depthwise(self, kernel: int, stride: int, *, is_clamped: bool = True) -> Builder:
        """Add a depthwise convolution."""
        before = self.elements
        weights = kernel * kernel * self.channels
        self.size = math.ceil(self.size / stride)
        macs = self.size * self.size * weights
        moved = before + self.elements
        self._add(
            "DEPTHWISE_CONV_2D",
            macs=macs,
            weights=weights + self.channels,
            moved=moved,
            window=(kernel, stride),
            is_clamped=is_clamped,
        )
        return self

    def elementwise(self, kind: str) -> Builder:
        """Add an operator of one whole activation."""
        self._add(kind, moved=2 * self.elements)
        return self

    def plus(self, place: int, *, is_clamped: bool = False) -> Builder:
        """Add the sum with the result of the layer at `place`."""
        self._add("ADD", moved=3 * self.elements, beside=(place,), is_clamped=is_clamped)
        return self

    def pool(self, kind: str = "AVERAGE_POOL_2D", size: int = 1, window: tuple[int, int] = (1, 1)) -> Builder:
        """Add pooling down to `size` with a window and stride, by default over the whole activation."""
        before = self.elements
        self.size = size
        self._add(kind, moved=before + self.elements, window=window)
        return self

    def squeeze(self, reduced: int) -> Builder:
        """Add squeeze-and-excitation with a hard sigmoid."""
        size, channels, place = self.size, self.channels, self.place
        self.pool().conv(reduced).conv(channels, is_clamped=False).elementwise("HARD_SIGMOID")
        self.size = size
        self._add("MUL", moved=2 * self.elements + channels, beside=(place,))
        return self

    def head(self, classes: int = CLASSES) -> tuple[Layer, ...]:
        """Add the classifier and return all layers."""
        inputs = self.channels
        self.channels = classes
        self._add("FULLY_CONNECTED", macs=inputs * classes, weights=(inputs + 1) * classes, moved=inputs + classes)
        self.elementwise("SOFTMAX")
        return tuple(self.layers)
