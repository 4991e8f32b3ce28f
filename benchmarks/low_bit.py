"""Weights of 8, 4, 2 and 1 bits on ResNet-20, all in one run; writes docs/low-bit.md.

    python benchmarks/low_bit.py --data ../shared/data [--work FOLDER] [--out docs/low-bit.md]

`--data` is a folder with `zoo.py`, `recipes/` and `cifar10/`. Everything runs with one thread, about ten CPU minutes;
with `--work` finished builds are kept, and a second run goes on where the first one ended.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeport.devices.processor import cpu_features

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("arm64", "intel", "cpu")
SPLITS = {"calibrate": "", "tune": "", "report": "2000:4000", "train": "0:6000"}  # empty: the recipe's own
VARIANTS = (  # name, flags
    ("8 bits", ()),
    ("4 bits", ("--weight-bits", "4")),
    ("4 bits, trained", ("--weight-bits", "4", "--qat", "1")),
    ("2 bits, trained", ("--weight-bits", "2", "--qat", "2")),
    ("1 bit, trained", ("--weight-bits", "1", "--qat", "2")),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file.

    Attributes:
        variant: name of the weights.
        target: name of the target.
        metrics: of the report, by name.
        notes: sentences of the report.
    """

    variant: str
    target: str
    metrics: Mapping[str, float]
    notes: tuple[str, ...]


def write_recipes(data: Path, folder: Path) -> None:
    """Write the recipes of CIFAR-10 with the splits of this page."""
    for name, split in SPLITS.items():
        lines = (data / "recipes" / f"cifar10-{name}.toml").read_text(encoding="utf-8").splitlines()
        source = next(line.split('"')[1] for line in lines if line.startswith("source"))
        lines = [line for line in lines if not line.startswith(("source", "split" if split else "source"))]
        lines.append(f"source = {json.dumps(str((data / 'recipes' / source).resolve()))}")
        lines += [f'split = "{split}"'] if split else []
        (folder / f"{name}.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build(data: Path, work: Path, name: str, flags: tuple[str, ...]) -> list[Row]:
    """Build one variant for all targets and return its rows."""
    out = work / name.replace(" ", "-").replace(",", "")
    command = [sys.executable, "-m", "edgeport", "build", f"{data / 'zoo.py'}:resnet20_jpeg", *flags]
    command += ["--target", ",".join(TARGETS), "--output", str(out), "--json"]
    command += ["--calibrate", str(work / "calibrate.toml"), "--tune", str(work / "tune.toml")]
    command += ["--evaluate", str(work / "report.toml")]
    command += ["--train", str(work / "train.toml")] if "--qat" in flags else []
    environment = {"OMP_NUM_THREADS": "1", "EDGEPORT_STORE": str(work / "store"), "EDGEPORT_QEMU": ""}
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 6):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    lowering = next(stage["metrics"] for stage in report["stages"] if stage["name"] == "lower")
    return [
        Row(
            variant=name,
            target=target,
            metrics={metric["name"]: metric["value"] for metric in found["metrics"]},
            notes=tuple(lowering[target]["notes"]),
        )
        for target, found in report["targets"].items()
    ]


def table(rows: list[Row]) -> list[str]:
    """Return the table of all files."""
    lines = [
        "| weights | target | top-1 lost, points | same answer, % | size, kB | deflated, kB | p50 / float p50 |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        found = row.metrics
        ratio = found["latency_p50_ms"] / found["latency_float_p50_ms"]
        sizes = (found["size_bytes"] / 1e3, found["size_compressed_bytes"] / 1e3)
        lines.append(
            f"| {row.variant} | {row.target} | {found['top1_drop']:.2f} | {found['agreement']:.2f} "
            f"| {sizes[0]:.0f} | {sizes[1]:.0f} | {ratio:.2f} |"
        )
    return lines


def mean_agreement(rows: list[Row], variant: str) -> str:
    """Return the mean over targets of the samples with the float network's answer, percent."""
    found = [row.metrics["agreement"] for row in rows if row.variant == variant]
    return f"{sum(found) / len(found):.2f}"


def page(rows: list[Row]) -> str:
    """Return docs/low-bit.md."""
    said = dict.fromkeys(note for row in rows for note in row.notes if "weight" in note)
    features = [name for name in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8") if name in cpu_features()]
    return f"""# Weights of few bits

Written by `python benchmarks/low_bit.py --data DATA`. ResNet-20 on JPEG CIFAR-10: 512 images for calibration, 2,000 to
tune on, 2,000 others for accuracy; where weights are trained (`--qat 1` with 4 bits, `--qat 2` with fewer), on the
first 6,000 of the training set. Activations have 8 bits; one thread, batch one.

Measured on an x86-64 processor with {", ".join(features) or "none of AVX2 and VNNI"}, while other programs ran. Each
latency is a ratio of medians of two files that took turns. `arm64` is the TensorFlow Lite file, run on that processor:
its accuracy is that of the same file in the same runtime, its latency only compares files. Of 2,000 images, half a
point is within chance. Sizes are those of the files, `deflated` as a compressed download.

{chr(10).join(table(rows))}

Same answer with 4 bits, mean of the targets: {mean_agreement(rows, "4 bits")} % with bias correction and AdaRound on
calibration images, {mean_agreement(rows, "4 bits, trained")} % with training in their place.

The reports say:

{chr(10).join(f"- {note}" for note in said)}

## What runs where

| runtime | weights of at most 4 bits in the file | what computes |
|---|---|---|
| ai-edge-litert 2.3 | linear layers: `INT4`, two to a byte | XNNPACK, on packed weights |
| | convolutions: a byte each | XNNPACK, as with any int8 |
| OpenVINO 2026.4 | all: `i4`, Convert to `i8`, Convert, Multiply | int8 kernels; widened once, when compiled |
| ONNX Runtime 1.32 | all: `INT4`, Cast to INT8, DequantizeLinear | int8 kernels; widened once, when loaded |

So a packed file is smaller and no faster. What was tried and rejected: packed convolutions in TensorFlow Lite, which
only LiteRT's own kernel takes (ResNet-20: 5 times the latency of int8); `i4` converted to float32 at once in OpenVINO,
whose convolutions then compute in float32; DequantizeLinear of `INT4` in ONNX Runtime, whose layers then compute in
float32 and unpack at every inference.

## Which layers keep more bits

Depthwise layers keep 8 bits. Layers that share weights keep 7, and so do first and last layers: with 2 and 1 bits
always, with 4 where they hold at most a tenth of the weights (measured on tune images: `edgeport/quant/layers.py`).

2 bits are ternary weights (Li, Zhang and Liu, "Ternary Weight Networks", 2016), 1 bit binary ones (Rastegari et al.,
"XNOR-Net", 2016; activations keep 8 bits). Both are experimental. With so little training they lose far more than any
limit allows; the papers train for tens of epochs, from the start.
"""


def main() -> None:
    """Build everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "low-bit.md")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="edgeport-") as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        write_recipes(arguments.data, work)
        rows: list[Row] = []
        for name, flags in VARIANTS:
            rows += build(arguments.data, work, name, flags)
            sys.stdout.write("\n".join(table(rows)[-len(TARGETS) :]) + "\n")
            sys.stdout.flush()
        arguments.out.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
