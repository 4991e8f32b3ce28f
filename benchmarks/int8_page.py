"""What int8.py measured, as the text of docs/int8.md, and the floors that a row must reach; a part of int8.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeport.devices.processor import cpu_features

SPEEDUPS = {"tflite": 2.0, "openvino": 1.8, "onnx": 2.0}  # over float, on ResNet-20 and EfficientNet-Lite0
TIMED = ("resnet20_jpeg", "efficientnet_lite0")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network on one runtime: stock and ours."""

    network: str
    runtime: str
    agreement: tuple[float, float]
    cosine: tuple[float, float]
    top1: tuple[float, float, float]
    p50_ms: tuple[float, float, float]

    def missed(self) -> list[str]:
        """Return the floors of this row that are missed, a sentence each."""
        where = f"{self.network}, {self.runtime}"
        stock, own = self.p50_ms[1], self.p50_ms[2]
        speedup = self.p50_ms[0] / own
        rules = {
            f"{where}: agreement {self.agreement[1]:.2f}, stock {self.agreement[0]:.2f}": (
                self.agreement[1] >= self.agreement[0] - 0.2
            ),
            f"{where}: lowest cosine {self.cosine[1]:.4f}, stock {self.cosine[0]:.4f}": (
                self.cosine[1] >= self.cosine[0] - 0.01
            ),
            f"{where}: {own / stock:.3f} x the latency of the stock int8 file": own <= 1.03 * stock,
            f"{where}: {speedup:.2f} x faster than float, wanted {SPEEDUPS[self.runtime]}": (
                self.network not in TIMED or speedup >= SPEEDUPS[self.runtime]
            ),
        }
        return [sentence for sentence, holds in rules.items() if not holds]


def parity_lines(rows: list[Row]) -> list[str]:
    """Return the table of agreement, cosine and accuracy."""
    lines = [
        "| network | runtime | agreement, stock | ours | lowest cosine, stock | ours | top-1 float | stock | ours |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        lines.append(
            f"| {row.network} | {row.runtime} | {row.agreement[0]:.2f} | {row.agreement[1]:.2f} | {row.cosine[0]:.4f} "
            f"| {row.cosine[1]:.4f} | {row.top1[0]:.2f} | {row.top1[1]:.2f} | {row.top1[2]:.2f} |"
        )
    mean = [float(np.mean([row.agreement[side] for row in rows])) for side in (0, 1)]
    return [*lines, "", f"Mean agreement over all rows: stock {mean[0]:.2f}, ours {mean[1]:.2f}."]


def latency_lines(rows: list[Row]) -> list[str]:
    """Return the table of latencies."""
    lines = [
        "| network | runtime | float, ms | stock int8, ms | ours, ms | ours / stock | float / ours |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        floating, stock, own = row.p50_ms
        lines.append(
            f"| {row.network} | {row.runtime} | {floating:.3f} | {stock:.3f} | {own:.3f} | {own / stock:.3f} "
            f"| {floating / own:.2f} |"
        )
    return lines


def page(
    rows: list[Row],
    flips: list[dict[str, object]],
    tables: Mapping[str, list[str]],
    cost: tuple[dict[str, float], float],
    *,
    calibration_samples: int,
) -> str:
    """Return the text of docs/int8.md."""
    features = [name for name in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8") if name in cpu_features()]
    stock, ours = cost
    missed = [sentence for row in rows for sentence in row.missed()]
    lines = [
        "# int8, beside the stock toolchains",
        "",
        "Written by `python benchmarks/int8.py --data ../shared/data --peers ../shared/lab/peers.py`. Measured in one",
        f"run, one thread, batch one, {calibration_samples} calibration samples on either side, on an x86-64",
        f"processor with {', '.join(features)}. The TFLite file of `arm64` ran here too: its outputs are those of the",
        "board, its latency is not. Agreement: percent of samples with the top-1 of the float32 ONNX file.",
        "",
        "## Accuracy and agreement",
        "",
        *parity_lines(rows),
        "",
        "## Latency (interleaved medians)",
        "",
        *latency_lines(rows),
        "",
        "### What single layers gain on this processor",
        "",
        "int8 over float (p50 / p50) of networks of one kind of layer each (`benchmarks/kernels.py`): a network can",
        "hardly gain more than its layers do.",
        "",
        *tables["kernels"],
        "",
        "## The same file on a processor without VNNI (emulated Haswell)",
        "",
        "| network | target | samples | prediction flips | largest difference of a logit |",
        "|---|---|---|---|---|",
        *(
            f"| {row['network']} | {row['target']} | {row['samples']} | {row['flips']} "
            f"| {float(str(row['difference'])):.4g} |"
            for row in flips
        ),
        "",
        "## A fragile network under `--max-drop 0.1`",
        "",
        *tables["fragile"],
        "",
        "## CPU seconds of calibrating and quantizing EfficientNet-Lite0 for three runtimes",
        "",
        f"Stock: {', '.join(f'{name} {seconds:.1f}' for name, seconds in stock.items())}, together"
        f" {sum(stock.values()):.1f}; edgeport: {ours:.1f} ({ours / sum(stock.values()):.2f} x).",
        "",
        "## Floors missed in this run",
        "",
        *([f"- {sentence}" for sentence in missed] or ["None."]),
    ]
    return "\n".join(lines) + "\n"
