"""What a file says of itself: its interface, its operators and what they cost, read without edgeport's help.

One module a format, found by the file's suffix and imported when used. Every module has `read_costs`,
`read_interface` and `executed_operators` (see `Reader`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from edgeport.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeport.types import OpCost

MODULES = {".tflite": "tflite", ".xml": "openvino", ".onnx": "onnx"}


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One input or output of a file.

    Attributes:
        name: what the runtime calls it.
        shape: with the batch dimension, in the file's own layout; -1 where the file leaves a size open.
        dtype: numpy's name of it, e.g. `float32`.
        quantization: (scale, zero_point) of an integer tensor, real = scale x (integer - zero_point); None when the
            file gives none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: tuple[float, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What goes into a file and what comes out, in the file's order."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True, kw_only=True)
class ExecutedOp:
    """One operator that the runtime really runs, after its own graph optimization.

    Attributes:
        name: the instance's name in the optimized graph.
        kind: the runtime's operator type.
        dtype: number format it runs in: `int8` (signed or unsigned), `float32`, `bfloat16`, ...
        layers: names of the file's operators that went into it, when the runtime tells.
        implementation: the kernel chosen, when the runtime tells (OpenVINO: `brgconv_avx512_I8`, ...).
        provenance: torch module path, when the file tells.
    """

    name: str
    kind: str
    dtype: str
    layers: tuple[str, ...] = ()
    implementation: str = ""
    provenance: str | None = None


@dataclass(frozen=True, kw_only=True)
class OpTime:
    """One operator that a runtime ran.

    Attributes:
        name: what the runtime calls it; ONNX Runtime puts `_nchwc` or `_token_7` behind the name in the file.
        kind: the runtime's operator type.
        kernel: which implementation, where the runtime tells (TFLite: `xnnpack` or `builtin`).
        ms: median milliseconds; None where the runtime does not tell (TFLite).
    """

    name: str
    kind: str
    kernel: str
    ms: float | None


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over the operators of a file.

    Attributes:
        macs: multiply-adds by the number format they are computed in; only formats that have any.
        weight_bytes: constants read; one that two operators read counts twice.
        activation_bytes: activations read and written.
        counts: operators by kind.
    """

    macs: Mapping[str, int]
    weight_bytes: int
    activation_bytes: int
    counts: Mapping[str, int]

    @property
    def total_macs(self) -> int:
        """Multiply-adds in every format together."""
        return sum(self.macs.values())

    @property
    def bytes_moved(self) -> int:
        """Weights and activations together."""
        return self.weight_bytes + self.activation_bytes


class Reader(Protocol):
    """What every module of this package offers.

    Each function raises `ConfigError` for a file that is missing, damaged or of another format, and
    `MissingPackageError` when the package that reads the format is not installed.
    """

    def read_costs(self, path: Path) -> tuple[OpCost, ...]:
        """Return a row an operator, in execution order, with batch one."""

    def read_interface(self, path: Path) -> Interface:
        """Return inputs and outputs."""

    def executed_operators(self, path: Path) -> tuple[ExecutedOp, ...]:
        """Return what the runtime runs, in order."""


def format_of(path: Path) -> str:
    """Return the name of the module that reads this file (`tflite`, `openvino`, `onnx`), from its suffix.

    Raises:
        ConfigError: no module reads such a file.
    """
    suffix = path.suffix.lower()
    if suffix == ".bin":
        raise ConfigError(f"'{path}' holds only weights; name the .xml beside it")
    if suffix not in MODULES:
        raise ConfigError(f"cannot tell the format of '{path}'; known suffixes: {', '.join(sorted(MODULES))}")
    return MODULES[suffix]


def reader_of(path: Path) -> Reader:
    """Return the module that reads this file.

    Raises:
        ConfigError: no module reads such a file.
    """
    return cast("Reader", import_module(f"edgeport.formats.{format_of(path)}"))


def file_bytes(path: Path) -> bytes:
    """Return the content of a file that the user named.

    Raises:
        ConfigError: it cannot be read, or it is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror or error}") from error
    if not content:
        raise ConfigError(f"'{path}' is empty")
    return content


def summarize(costs: Iterable[OpCost]) -> Totals:
    """Return the sums over operators."""
    rows = tuple(costs)
    macs: Counter[str] = Counter()
    for row in rows:
        if row.macs:
            macs[row.dtype] += row.macs
    return Totals(
        macs=dict(macs),
        weight_bytes=sum(row.weight_bytes for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        counts=dict(Counter(row.kind for row in rows)),
    )
