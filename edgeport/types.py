"""The vocabulary: frozen values that pass from step to step. Imports nothing heavy."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule

    from edgeport.quant.calibration import Calibration
    from edgeport.quant.corrections import Corrections

Origin = Literal["measured", "emulated", "modelled"]
Precision = Literal["int8", "dynamic_int8", "float16", "float32"]
WeightBits = Literal[1, 2, 4, 7, 8]
FEW_BITS: tuple[WeightBits, ...] = (4, 2, 1)  # fewer than any processor computes with
TRAINED_BITS: tuple[WeightBits, ...] = (2, 1)  # so few that weights must be trained for them


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a network.

    Attributes:
        name: the name in the traced graph.
        shape: without the batch dimension, as PyTorch has it (channels first).
        dtype: numpy's name of it, e.g. `float32`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What one stage did: its options, wall seconds and figures (JSON values only)."""

    name: str
    options: Mapping[str, object]
    seconds: float
    metrics: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network between two stages.

    Attributes:
        module: the traced network, a `GraphModule` of ATen operators with inference behaviour. Parameters keep the
            names of the user's `state_dict`. Stages never change it in place: they return a new `Model`.
        example_inputs: one real sample as a batch of one, an array a network input.
        inputs: what goes in.
        outputs: what comes out.
        has_dynamic_batch: whether the batch dimension may take any size.
        calibration: activation statistics, once `calibrate` has run.
        corrections: weights and biases of int8 files, once `correct` has run.
        history: a record a stage, in the order they ran.
    """

    module: GraphModule
    example_inputs: tuple[torch.Tensor, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    has_dynamic_batch: bool = True
    calibration: Calibration | None = None
    corrections: Corrections | None = None
    history: tuple[StageRecord, ...] = ()

    def with_(self, **changes: object) -> Model:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]  # dataclasses.replace checks the names at run time


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file that a runtime loads.

    Attributes:
        path: the file (an OpenVINO .xml has its weights beside it as .bin).
        backend: name of the backend that wrote it.
        precision: number format of the convolutions and linear layers in it. `float16` and `dynamic_int8` are how
            their weights are kept; they compute in float32, or as the runtime likes.
        files: every file that belongs to it, `path` first.
        notes: what was skipped, left in float, widened or clamped while it was made: a sentence each.
    """

    path: Path
    backend: str
    precision: Precision
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of all its files together."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def compressed_bytes(self) -> int:
        """Bytes of all its files deflated, as app packages and downloads hold them (zlib's best level)."""
        return sum(len(zlib.compress(file.read_bytes(), 9)) for file in self.files)


@dataclass(frozen=True, kw_only=True)
class OpCost:
    """One operator of an artifact, read from the file itself.

    Attributes:
        name: the operator instance's name in the file.
        kind: the runtime's operator type, e.g. `CONV_2D`, `Convolution`, `QLinearConv`.
        dtype: number format that the operator computes in: `int8`, `float16`, `float32`, ...
        macs: multiply-adds of one inference with batch one (0 for operators without multiply-add).
        weight_bytes: bytes of constants that the operator reads.
        weight_dtype: number format that the weights of a convolution or product are kept in; empty for other operators.
        activation_bytes: bytes of activations read and written.
        is_depthwise: a grouped convolution with one input channel a group.
        provenance: torch module path this operator came from, when the file tells.
    """

    name: str
    kind: str
    dtype: str
    macs: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    is_depthwise: bool = False
    provenance: str | None = None
    weight_dtype: str = ""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure of the report (field meanings are the contract of `report.json`).

    Attributes:
        name: `top1`, `agreement`, ...; a figure of one core, runtime or file has that behind an `@`.
        value: the figure.
        unit: `percent`, `points`, `ms`, `bytes`, `x`, `macs`, `cosine`, ...
        origin: `measured` (on hardware of the target, or read from the file), `emulated` or `modelled` (taken on
            another machine as a stand-in, or computed).
        interval: low and high end, where the origin has one.
        limit: what the figure was judged against; None when it was not judged.
        passed: the judgement; None when it was not judged.
    """

    name: str
    value: float
    unit: str
    origin: Origin
    interval: tuple[float, float] | None = None
    limit: float | None = None
    passed: bool | None = None


@dataclass(frozen=True, kw_only=True)
class TargetResult:
    """Everything known of one target after validation.

    Attributes:
        artifact: path of the shipped file, relative to the output folder.
        metrics: figures, in the order they are shown.
        notes: sentences for the report (what was left in float, what was not verified, ...).
    """

    artifact: str
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...] = field(default=())
