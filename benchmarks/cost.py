"""What a build costs, against the three stock toolchains in the same run; writes docs/cost.md.

    python benchmarks/cost.py --data ../shared/data --peers ../shared/lab/peers.py [--network resnet20_jpeg ...]

`--data` is a folder with `zoo.py` and `recipes/`; `--peers` builds one network with each runtime's stock toolchain
(float and int8, no evaluation). Both run with one thread and nothing cached, one after the other. CPU seconds are user
plus system of the process and everything it started, from the kernel's accounting.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edgeport.dataset import open_dataset

ROOT = Path(__file__).resolve().parents[1]
TARGETS = "arm64,intel,cpu"
RECIPES = {"resnet20_jpeg": "cifar10", "resnet8_jpeg": "cifar10-255", "efficientnet_lite0": "imagenet"}
CALIBRATION_SAMPLES, EVALUATION_SAMPLES = 200, 400


@dataclass(frozen=True, kw_only=True)
class Cost:
    """CPU seconds, wall seconds and the largest process's peak resident bytes of one command."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


def run(command: list[str], environment: dict[str, str]) -> Cost:
    """Run a command to its end and return what it cost; `wait4` counts everything below it."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return Cost(
        cpu_s=usage.ru_utime + usage.ru_stime, wall_s=time.perf_counter() - start, peak_bytes=usage.ru_maxrss * 1024
    )


def write_recipe(folder: Path, data: Path, name: str, split: str) -> Path:
    """Write the recipe `name` of the data folder again with another split, and return its path."""
    lines = (data / "recipes" / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    source = next(line.split('"')[1] for line in lines if line.startswith("source"))
    kept = [line for line in lines if not line.startswith(("source", "split"))]
    path = folder / f"{name}-{split.replace(':', '-')}.toml"
    text = [f'source = "{(data / "recipes" / source).resolve()}"', f'split = "{split}"', *kept]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def edgeport(network: Path, factory: str, options: list[str], folder: Path) -> Cost:
    """Build for all three runtimes into `folder` with the store beside it."""
    command = [
        sys.executable,
        "-m",
        "edgeport",
        "build",
        f"{network}:{factory}",
        *options,
        "--output",
        str(folder / "out"),
    ]
    return run(command, {"EDGEPORT_STORE": str(folder / "store")})


def compare(data: Path, peers: Path, factory: str, work: Path) -> tuple[Cost, Cost, Cost]:
    """Return the cost of the stock toolchains, of edgeport, and of edgeport again with nothing changed."""
    base = RECIPES[factory]
    start = {"cifar10": 45000, "cifar10-255": 45000, "imagenet": 0}[base]
    calibrate = write_recipe(work, data, f"{base}-calibrate", f"{start}:{start + CALIBRATION_SAMPLES}")
    evaluate = write_recipe(work, data, f"{base}-evaluate", f"0:{EVALUATION_SAMPLES}")
    samples = [
        np.concatenate([batch.inputs[0] for batch in open_dataset(str(path)).batches(64)])
        for path in (calibrate, evaluate)
    ]
    arrays = work / f"{factory}.npz"
    np.savez(arrays, calib=samples[0], x=samples[1], y=np.asarray(open_dataset(str(evaluate)).labels()))
    spec = f"{data / 'zoo.py'}:{factory}"
    stock = run(
        [sys.executable, str(peers), "build", "--model", spec, "--data", str(arrays), "--out", str(work / "stock")], {}
    )
    options = ["--target", TARGETS, "--calibrate", str(calibrate), "--evaluate", str(evaluate)]
    folder = work / factory
    first = edgeport(data / "zoo.py", factory, options, folder)
    files = digests(folder / "out")
    again = edgeport(data / "zoo.py", factory, options, folder)
    if digests(folder / "out") != files:
        raise SystemExit(f"{factory}: the second build changed a file")
    other = work / f"{factory}-other"
    edgeport(data / "zoo.py", factory, options, other)
    artifacts = {name: found for name, found in files.items() if "model" in name}
    if {name: found for name, found in digests(other / "out").items() if "model" in name} != artifacts:
        raise SystemExit(f"{factory}: two builds in two empty stores differ")
    return stock, first, again


def digests(folder: Path) -> dict[str, bytes]:
    """Return relative path -> content of every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def memory(data: Path, work: Path) -> list[tuple[int, int]]:
    """Return calibration samples -> peak resident bytes of a build, for few and many samples."""
    found = []
    for count in (128, 4096):
        calibrate = write_recipe(work, data, "cifar10-train", f"0:{count}")
        evaluate = write_recipe(work, data, "cifar10-evaluate", "0:64")
        options = ["--target", "cpu", "--calibrate", str(calibrate), "--evaluate", str(evaluate)]
        found.append((count, edgeport(data / "zoo.py", "resnet20_jpeg", options, work / f"memory-{count}").peak_bytes))
    return found


def start_up() -> list[tuple[str, float]]:
    """Return command -> CPU seconds of commands that must answer at once (the best of five)."""
    rows = []
    for arguments in (["--help"], ["targets"]):
        costs = [run([sys.executable, "-m", "edgeport", *arguments], {}).cpu_s for _ in range(5)]
        rows.append((f"edgeport {' '.join(arguments)}", min(costs)))
    return rows


def page(rows: list[tuple[str, Cost, Cost, Cost]], peaks: list[tuple[int, int]], quick: list[tuple[str, float]]) -> str:
    """Return the text of docs/cost.md."""
    lines = [
        "# What a build costs",
        "",
        "Written by `python benchmarks/cost.py`; measured, one run, one thread, empty store. Both sides build float",
        f"and int8 files for TFLite, OpenVINO and ONNX Runtime from {CALIBRATION_SAMPLES} calibration samples;",
        f"edgeport's figure includes running every file on {EVALUATION_SAMPLES} evaluation samples, stock does not.",
        "",
        "| network | stock, CPU s | edgeport, CPU s | ratio | edgeport, wall s | nothing changed, CPU s | wall s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, stock, first, again in rows:
        ratio = first.cpu_s / stock.cpu_s
        lines.append(
            f"| {name} | {stock.cpu_s:.1f} | {first.cpu_s:.1f} | {ratio:.2f} | {first.wall_s:.1f} "
            f"| {again.cpu_s:.2f} | {again.wall_s:.2f} |"
        )
    lines += [
        "",
        "A build with nothing changed left every file byte-identical; a second build in another empty store gave",
        "the same model files byte for byte.",
        "",
        "| calibration samples | peak resident memory of the largest process, MB |",
        "|---|---|",
        *(f"| {count} | {peak / 1e6:.0f} |" for count, peak in peaks),
        "",
        "| command | CPU s |",
        "|---|---|",
        *(f"| `{name}` | {seconds:.2f} |" for name, seconds in quick),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--network", nargs="+", default=["resnet20_jpeg", "efficientnet_lite0"], choices=RECIPES)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "cost.md")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with TemporaryDirectory(prefix="edgeport-cost-") as folder:
        work, data, peers = Path(folder), arguments.data.resolve(), arguments.peers.resolve()
        rows = [(name, *compare(data, peers, name, work)) for name in arguments.network]
        peaks = memory(data, work)
    arguments.output.write_text(page(rows, peaks, start_up()), encoding="utf-8")
    sys.stdout.write(arguments.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
