"""The same network in arithmetic that cannot saturate: the yardstick of processors whose integer kernels may.

x86 without VNNI multiplies uint8 activations by int8 weights with `vpmaddubsw`, which adds two neighbouring products in
16 bits and saturates. Whatever the kernel takes for neighbours, a pair of one output channel stays in range when

    -128 <= w1 + w2 <= 128    (255 * 128 = 32,640 <= 32,767)

so a layer whose two largest and two smallest weights of every output channel keep to that cannot saturate, whatever
comes in. Depthwise convolutions cannot either: their kernels multiply each channel on its own (a conformance test holds
ONNX Runtime and OpenVINO to that). The other layers are rewritten: every input channel is given twice, and the weight w
becomes two, floor(w / 2) and w - floor(w / 2), both within +-64. The sum of products is the same integer, and the
runtime adds bias, rescales and rounds it with the same kernels, so on a processor that accumulates in 32 bits both
files give the same bits.

Simulating the file in float32 instead is no yardstick: float sums round halves to the other side now and then, later
layers carry that on, and on ResNet-20 every sample differs by 0.2 in some output although nothing saturates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeport.errors import StageError
from edgeport.formats import ExecutedOp, format_of, reader_of
from edgeport.formats.quality import LAYERS

PAIR_LIMIT = 128  # of the sum of two neighbouring weights: 255 * 128 = 32,640, the largest multiple of 255 in 16 bits
_WRITERS = {"onnx": "edgeport.validation.exact_onnx", "openvino": "edgeport.validation.exact_openvino"}

_RENAMED = "/DequantizationMultiply"  # what OpenVINO 2026.4 appends to the name of a linear layer made integer


def can_saturate(weight: NDArray[Any], *, axis: int) -> bool:
    """Whether two products of one output channel can leave 16 bits, for uint8 activations of any value.

    Args:
        weight: int8, any shape.
        axis: the output channel.
    """
    rows = np.moveaxis(np.asarray(weight, np.int32), axis, 0).reshape(weight.shape[axis], -1)
    ends = np.sort(rows, axis=1)
    low, high = ends[:, :2].clip(max=0).sum(axis=1), ends[:, -2:].clip(min=0).sum(axis=1)
    return bool((low < -PAIR_LIMIT).any() or (high > PAIR_LIMIT).any())


def halves(weight: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Return two weights within +-64 whose sum is the weight (int8, any shape)."""
    first = weight >> 1
    return first, (weight.astype(np.int16) - first).astype(np.int8)


def write_exact(path: Path, out: Path) -> tuple[str, ...]:
    """Write an .onnx or .xml so that no layer can saturate, and return the names of the layers that could.

    Nothing is written where no layer can: the file itself is exact. A .tflite is: XNNPACK and LiteRT's own kernels
    multiply in 16 bits and add in 32.

    Args:
        path: the file.
        out: where the other goes; the same suffix, in a folder of its own.

    Raises:
        StageError: the runtime does not run the written file's layers in the number formats of the original.
        ConfigError: the file is missing or damaged.
        MissingPackageError: the package that reads the format is not installed.
    """
    if format_of(path) not in _WRITERS:
        return ()
    executed = reader_of(path).executed_operators(path)
    running = [name for found in executed if found.dtype == "int8" for name in (found.name, *found.layers)]
    on_integers = {name.removesuffix(_RENAMED) for name in running}
    layers: tuple[str, ...] = import_module(_WRITERS[format_of(path)]).write(path, out, on_integers)
    if layers:
        before, after = _by_format(executed, path), _by_format(reader_of(out).executed_operators(out), path)
        if before != after:
            raise StageError(f"{path.name} has no exact form: its layers run as {before}, rewritten as {after}")
    return layers


def input_ranges(path: Path) -> dict[str, tuple[float, float]]:
    """Return input name -> the range that the file quantizes it from; only inputs that are quantized at once."""
    if format_of(path) not in _WRITERS:
        return {}
    ranges: dict[str, tuple[float, float]] = import_module(_WRITERS[format_of(path)]).input_ranges(path)
    return ranges


def _by_format(executed: Iterable[ExecutedOp], path: Path) -> dict[str, int]:
    """Return e.g. `QLinearConv int8` -> how many of the convolutions and linear layers run so."""
    kinds = LAYERS[format_of(path)]
    return dict(sorted(Counter(f"{found.kind} {found.dtype}" for found in executed if found.kind in kinds).items()))
