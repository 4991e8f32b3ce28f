"""Stand-ins for the files that MLPerf's rounds ran, with random weights; a part of power_counts.py.

The metered files are not published. A network of the same layers (`power_networks.py`) is written the way a build
writes any network, in float32 and in int8. Random weights do: no kernel looks at what it multiplies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from power_layers import INPUT, Layer
from torch import nn
from torch.nn import functional

from edgeport.backends import backend
from edgeport.dataset import open_dataset
from edgeport.formats.tflite import read_costs
from edgeport.graph.float_graph import FloatGraph
from edgeport.graph.network import Network
from edgeport.profile import load
from edgeport.quant import tflite_file
from edgeport.quant.scheme import Scheme
from edgeport.stages.calibrate import Calibrate
from edgeport.stages.context import Context
from edgeport.stages.trace import Trace

SAMPLES = 2  # that int8 ranges are taken from; what they are does not matter
TARGET = "arm64"  # whose TFLite files are written: int8 with 8-bit weights, a scale a channel
SAME = 0  # of TFLite's `Padding`
CHANNELS = 3  # of a picture
WINDOWED = ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D")


@dataclass(frozen=True, kw_only=True)
class Files:
    """A network in both number formats."""

    float32: Path
    int8: Path


class StandIn(nn.Module):
    """A network of layers as `power_networks` describes them: pictures (n, 3, h, w) to probabilities (n, classes)."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Make the layers, with PyTorch's initial weights."""
        super().__init__()
        self.plan = tuple(layers)
        self.parts = nn.ModuleList(_part(layer, self._channels(layer)) for layer in self.plan)

    def _channels(self, layer: Layer) -> int:
        """Return the channels of what a layer reads."""
        place = layer.reads[0]
        return CHANNELS if place == INPUT else self.plan[place].channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return probabilities."""
        found: list[torch.Tensor] = []
        for layer, part in zip(self.plan, self.parts, strict=True):
            first, *others = (x if place == INPUT else found[place] for place in layer.reads)
            if layer.cost.kind in WINDOWED:
                first = _padded(first, layer)
            y = part(first)
            for other in others:
                y = y + other if layer.cost.kind == "ADD" else y * other
            found.append(functional.relu6(y) if layer.is_clamped else y)
        return found[-1]


def _part(layer: Layer, channels: int) -> nn.Module:
    """Return what a layer does to the first thing that it reads, padding and clamping apart."""
    kind, kernel, stride = layer.cost.kind, layer.kernel, layer.stride
    parts = {
        "CONV_2D": lambda: nn.Conv2d(channels, layer.channels, kernel, stride),
        "DEPTHWISE_CONV_2D": lambda: nn.Conv2d(channels, channels, kernel, stride, groups=channels),
        "MAX_POOL_2D": lambda: nn.MaxPool2d(kernel, stride),
        "AVERAGE_POOL_2D": lambda: nn.AdaptiveAvgPool2d(1),
        "FULLY_CONNECTED": lambda: nn.Sequential(nn.Flatten(), nn.Linear(channels, layer.channels)),
        "SOFTMAX": lambda: nn.Softmax(1),
        "HARD_SWISH": nn.Hardswish,
        "HARD_SIGMOID": nn.Hardsigmoid,
        "ADD": nn.Identity,
        "MUL": nn.Identity,
    }
    return parts[kind]()


def _padded(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    """Pad as TensorFlow's SAME does, more at the end where the amount is odd."""
    total = max(0, (layer.size - 1) * layer.stride + layer.kernel - int(x.shape[-1]))
    first = total // 2
    return functional.pad(x, (first, total - first, first, total - first)) if total else x


def write(layers: Sequence[Layer], size: int, folder: Path) -> Files:
    """Write a network's files into a folder.

    Args:
        layers: of it.
        size: height and width of its pictures.
        folder: that exists.

    Raises:
        ValueError: a file has other multiply-adds than the layers.
    """
    torch.manual_seed(0)
    pictures = np.random.default_rng(0).standard_normal((SAMPLES, CHANNELS, size, size)).astype(np.float32)
    network = Network(name="stand-in", module=StandIn(layers).eval(), example_inputs=None, fingerprint="")
    model, _ = Trace()(network, (torch.from_numpy(pictures[:1]),))
    np.savez(folder / "calibrate.npz", x=pictures)
    model, _ = Calibrate()(model, Context(calibrate=open_dataset(str(folder / "calibrate.npz"))))
    graph = FloatGraph.from_model(model)
    target = load(TARGET)
    lowering = backend("tflite")
    whole = lowering.lower_float(graph, target, folder / "float32.tflite")
    quantized = lowering.lower_int8(graph, Scheme.of(target), whole, folder / "int8.tflite")
    wanted = sum(layer.cost.macs for layer in layers)
    for path in (whole.path, quantized.path):
        path.write_bytes(without_pads(path.read_bytes()))
        macs = sum(cost.macs for cost in read_costs(path))
        if macs != wanted:
            raise ValueError(f"{path.name} has {macs} multiply-adds, its layers {wanted}")
    return Files(float32=whole.path, int8=quantized.path)


def without_pads(content: bytes) -> bytes:
    """Return a TFLite file in which windows pad as TensorFlow's files do: by themselves, without an operator for it.

    Holds for files that `write` makes, where each PAD is one that `SAME` stands for.
    """
    model = tflite_file.read(content)
    graph = model.subgraphs[tflite_file.MAIN]
    kinds = [op.kind for op in tflite_file.operators(model)]
    source = {
        int(op.outputs[0]): int(op.inputs[0])
        for op, kind in zip(graph.operators, kinds, strict=True)
        if kind in ("PAD", "PADV2")
    }
    kept: list[Any] = []
    for op, kind in zip(graph.operators, kinds, strict=True):
        if kind in ("PAD", "PADV2"):
            continue
        if int(op.inputs[0]) in source:
            op.inputs = [source[int(op.inputs[0])], *op.inputs[1:]]
            op.builtinOptions.padding = SAME
        kept.append(op)
    graph.operators = kept
    return tflite_file.write(model)
