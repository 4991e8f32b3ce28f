"""What else a runtime offers where int8 is slow, and what a try of it costs in agreement."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.devices import host
from edgeport.devices.agent import agreement_percent, class_scores_index, cosines
from edgeport.formats.slow_spots import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeport.dataset import Dataset
    from edgeport.formats import OpTime
    from edgeport.graph.float_graph import FloatGraph

SECONDS = 1.0  # of timing, three files together
SAMPLES = 200  # of the tune data at most: agreement in steps of half a percent
LOST_COSINE = 0.002  # that much lower a lowest cosine is within what any change of rounding does
SLOWER = 1.25  # a layer counts as slower in int8 from this ratio on: times of single operators are noisy
WORTH_A_TRY = 0.07  # share of all layers' time that float32 for the slower ones must promise to save
FOLLOWERS = ("Relu", "Clip", "Add")  # ONNX operators that a float kernel takes along, and is then named after
LAYERS = ("Conv", "Gemm", "MatMul")
SIGNED = frozenset({"onnxruntime", "openvino"})  # runtimes whose files may have either sign


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One file on the tune data.

    Attributes:
        p50_ms: median latency, interleaved with the file that it is compared with.
        min_ms: the fastest inference.
        agreement: percent of samples with the float file's top-1; None without class scores.
        cosine_min: lowest cosine with the float file's outputs.
    """

    p50_ms: float
    min_ms: float
    agreement: float | None
    cosine_min: float

    def is_faster_than(self, other: Measured, share: float) -> bool:
        """Whether it takes at most that share of another file's time, in the median and at its best."""
        return self.p50_ms <= share * other.p50_ms and self.min_ms <= share * other.min_ms

    def agrees_as_well_as(self, other: Measured) -> bool:
        """Whether no agreement is lost against another file."""
        if self.agreement is not None and other.agreement is not None and self.agreement < other.agreement:
            return False
        return self.cosine_min >= other.cosine_min - LOST_COSINE


def alternatives(
    backend: str, times: Mapping[str, tuple[float, float]], *, has_wide_weights: bool = True
) -> list[tuple[str, dict[str, Any]]]:
    """Return what to try, in order: a sentence, and the fields of the scheme that change.

    Args:
        backend: `onnxruntime`, `openvino` or `tflite`.
        times: layer -> milliseconds in int8 and in float32, where the runtime tells (`layer_times`).
        has_wide_weights: weights have 7 or 8 bits; fewer need a scale a channel.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    slower = sorted(key for key, (integer, floating) in times.items() if integer > SLOWER * floating)
    saved = sum(times[key][0] - times[key][1] for key in slower)
    all_time = sum(integer for integer, _ in times.values())
    if slower and len(slower) < len(times) and saved >= WORTH_A_TRY * all_time:
        named = ", ".join(slower[:3]) + (f" and {len(slower) - 3} more" if len(slower) > 3 else "")
        raised = dict.fromkeys(slower, "float32")
        found.append((f"float32 for what is slower in int8 ({named})", {"raised": raised}))
    if backend in SIGNED:
        found.append(("int8 instead of uint8 activations", {"activation": "int8"}))
    if has_wide_weights:
        found.append(("one weight scale a layer instead of one a channel", {"per_channel": False}))
    return found


def layer_times(
    graph: FloatGraph, ran: Sequence[OpTime], float_ran: Sequence[OpTime]
) -> dict[str, tuple[float, float]]:
    """Return layer (provenance key) -> its milliseconds in int8 and in float32; only layers found in both.

    Names are those of the float ONNX graph: a kernel is named after its layer, or after what it took along.
    """
    layers: dict[str, str] = {}
    owner: dict[str, str] = {}
    for node in graph.onnx.graph.node:
        if node.op_type in LAYERS and node.output[0] in graph.provenance:
            owner[node.output[0]] = graph.provenance[node.output[0]]
        elif node.op_type in FOLLOWERS:
            before = next((owner[name] for name in reversed(node.input) if name in owner), None)
            if before is not None:
                owner[node.output[0]] = before
    for name, key in owner.items():
        layers[name] = layers[f"node_{name}"] = key
    found: list[dict[str, float]] = []
    for rows in (ran, float_ran):
        times: dict[str, float] = {}
        for row in rows:
            layer = layers.get(plain(row.name).split("/")[0])
            if layer is not None and row.ms is not None and _multiplies(row.kind):
                times[layer] = times.get(layer, 0.0) + row.ms
        found.append(times)
    return {key: (found[0][key], found[1][key]) for key in found[0] if key in found[1]}


def _multiplies(kind: str) -> bool:
    return any(word in kind for word in ("Conv", "Gemm", "MatMul", "FullyConnected"))


def measure(paths: tuple[Path, Path, Path], tune: Dataset, *, threads: int) -> tuple[Measured, Measured]:
    """Return figures of two int8 files side by side; the third path is the float file that they are held against."""
    samples = tune if len(tune) <= SAMPLES else tune.subset(slice(0, SAMPLES))
    with tempfile.TemporaryDirectory(prefix="edgeport-") as folder:
        inputs = _written(samples, Path(folder))
        results = host.run_together(paths, inputs, threads=threads)
    timings = host.bench(paths[:2], threads=threads, seconds=SECONDS)
    expected = results[2].outputs
    scores = class_scores_index([output.shape for output in expected])
    first, second = (
        Measured(
            p50_ms=timing.p50_ms,
            min_ms=timing.min_ms,
            agreement=None if scores is None else agreement_percent(result.outputs[scores], expected[scores]),
            cosine_min=min(
                float(np.min(cosines(ours, theirs))) for ours, theirs in zip(result.outputs, expected, strict=True)
            ),
        )
        for timing, result in zip(timings, results, strict=False)
    )
    return first, second


def _written(samples: Dataset, folder: Path) -> tuple[Path, ...]:
    columns = zip(*(batch.inputs for batch in samples.batches(32)), strict=True)
    paths = []
    for index, arrays in enumerate(columns):
        paths.append(folder / f"in{index}.npy")
        np.save(paths[-1], np.concatenate(arrays))
    return tuple(paths)
