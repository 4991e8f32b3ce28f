"""int8 files against those of each runtime's stock toolchain, side by side in one run; writes docs/int8.md.

    python benchmarks/int8.py --data ../shared/data --peers ../shared/lab/peers.py [--peers-python PYTHON] [--quick]

`--data` is a folder with `zoo.py` and `recipes/`; `--peers` builds a network with the three stock toolchains and
compares files; `--peers-python` is an interpreter that has them (nncf is no dependency of edgeport). Everything runs
with one thread. Agreement, accuracy and latency are what `peers.py table` prints for all files in turn; cosines are of
the same samples, through the agent that ships with every bundle. Ends with 1 when a stated floor is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from int8_page import Row, page

from edgeport.dataset import open_dataset
from edgeport.devices import qemu
from edgeport.devices.agent import cosines
from edgeport.devices.host import run as run_file
from edgeport.validation import isa

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {
    "resnet20_jpeg": ("cifar10", 4_000),
    "resnet56": ("cifar10", 4_000),
    "resnet8_jpeg": ("cifar10-255", 4_000),
    "efficientnet_lite0": ("imagenet", 800),
}
RUNTIMES = {"tflite": ("arm64", ".tflite"), "openvino": ("intel", ".xml"), "onnx": ("cpu", ".onnx")}
SAFE = ("cpu", "intel-avx2")  # targets whose files must answer alike on processors without VNNI
CALIBRATION_SAMPLES, VERDICT_SAMPLES = 200, 400
KERNELS = {  # benchmarks/kernels.py -> its input shape
    "conv3x3": (64, 16, 16),
    "conv3x3_narrow": (16, 32, 32),
    "conv1x1": (40, 28, 28),
    "depthwise": (240, 28, 28),
}


def call(command: list[str], environment: Mapping[str, str] | None = None, *, allowed: tuple[int, ...] = (0,)) -> str:
    """Run a command with one thread and return what it printed."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1", **(environment or {})}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode not in allowed:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def samples(data: Path, name: str, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the first samples of a recipe as the network takes them, and their labels."""
    opened = open_dataset(str(data / "recipes" / f"{name}.toml"))
    chosen = opened.subset(slice(0, count))
    return np.concatenate([batch.inputs[0] for batch in chosen.batches(64)]), chosen.labels()


class Bench:
    """One network's files, stock and ours, and everything that is measured of them."""

    def __init__(self, arguments: argparse.Namespace, network: str, work: Path) -> None:
        """Write the arrays that both sides start from."""
        self.arguments, self.network, self.work = arguments, network, work
        base, count = NETWORKS[network]
        self.count = min(count, 400) if arguments.quick else count
        self.spec = f"{arguments.data / 'zoo.py'}:{network}"
        self.arrays = work / f"{network}.npz"
        calibration, _ = samples(arguments.data, f"{base}-calibrate", CALIBRATION_SAMPLES)
        inputs, labels = samples(arguments.data, f"{base}-evaluate", self.count)
        np.savez(self.arrays, calib=calibration, x=inputs, y=np.asarray(labels))
        np.savez(work / f"{network}-calibrate.npz", x=calibration)
        np.savez(work / f"{network}-evaluate.npz", x=inputs[:VERDICT_SAMPLES], y=np.asarray(labels)[:VERDICT_SAMPLES])
        np.save(work / f"{network}.npy", inputs)
        self.stock, self.ours = work / f"{network}-stock", work / f"{network}-ours"

    def build(self) -> None:
        """Build both sides from the same calibration samples."""
        peers = [str(self.arguments.peers_python), str(self.arguments.peers)]
        call([*peers, "build", "--model", self.spec, "--data", str(self.arrays), "--out", str(self.stock)])
        targets = ",".join(dict.fromkeys([*(target for target, _ in RUNTIMES.values()), *SAFE]))
        command = [sys.executable, "-m", "edgeport", "build", self.spec, "--target", targets]
        command += ["--calibrate", str(self.work / f"{self.network}-calibrate.npz")]
        command += ["--evaluate", str(self.work / f"{self.network}-evaluate.npz"), "--output", str(self.ours)]
        call(command, {"EDGEPORT_STORE": str(self.work / "store")}, allowed=(0, 6))
        # one signature of the same names: the map of our file fits the stock one
        (self.stock / "io.json").write_bytes((self.ours / "arm64" / "io.json").read_bytes())

    def files(self, runtime: str) -> tuple[Path, Path, Path]:
        """Return the stock float file, the stock int8 file and ours."""
        target, suffix = RUNTIMES[runtime]
        return self.stock / f"float{suffix}", self.stock / f"int8{suffix}", self.ours / target / f"model{suffix}"

    def rows(self) -> list[Row]:
        """Compare all files in turn."""
        paths = [str(path) for runtime in RUNTIMES for path in self.files(runtime)]
        reference = str(self.files("onnx")[0])
        rounds = "10" if self.arguments.quick else "40"
        command = [str(self.arguments.peers_python), str(self.arguments.peers), "table", "--data", str(self.arrays)]
        printed = call([*command, "--limit", str(self.count), "--rounds", rounds, "--json", *paths])
        found = {row["file"]: row for row in json.loads(printed)}
        expected = self.outputs(Path(reference))
        rows = []
        for runtime in RUNTIMES:
            floating, stock, ours = self.files(runtime)
            table = [found[str(path)] for path in (floating, stock, ours)]
            lowest = [float(np.min(cosines(self.outputs(path), expected))) for path in (stock, ours)]
            rows.append(
                Row(
                    network=self.network,
                    runtime=runtime,
                    agreement=(table[1]["agreement"], table[2]["agreement"]),
                    cosine=(lowest[0], lowest[1]),
                    top1=(table[0]["top1"], table[1]["top1"], table[2]["top1"]),
                    p50_ms=(table[0]["p50_ms"], table[1]["p50_ms"], table[2]["p50_ms"]),
                )
            )
        return rows

    def outputs(self, path: Path) -> np.ndarray:
        """Return what a file gives for the samples, through the agent."""
        own = path.with_name("io.json")
        if path.suffix != ".tflite" and path.parent == self.stock:  # the map there is of the TFLite files
            own = self.work / "plain.json"
            own.write_text("{}", encoding="utf-8")
        found: np.ndarray = run_file(path, [self.work / f"{self.network}.npy"], io=own).outputs[0]
        return found

    def haswell(self) -> list[dict[str, object]]:
        """Run the files that must be safe on an emulated Haswell, and compare with exact arithmetic."""
        count = 16 if self.arguments.quick else min(VERDICT_SAMPLES, self.count)
        few = self.work / f"{self.network}-haswell.npy"
        np.save(few, np.load(self.work / f"{self.network}.npy")[:count])

        def row(target: str) -> dict[str, object]:
            path = next(file for file in (self.ours / target).glob("model.*") if file.suffix in (".onnx", ".xml"))
            proof = isa.prove(path, [few], device=qemu.device(isa.HASWELL))
            found = {"flips": proof.emulated.flips, "difference": proof.emulated.logit_difference}
            return {"network": self.network, "target": target, "samples": proof.samples, **found}

        with ThreadPoolExecutor() as pool:  # nothing is timed here
            return list(pool.map(row, SAFE))

    def cost(self) -> tuple[dict[str, float], float]:
        """Return CPU seconds of calibrating and quantizing: stock a runtime, and ours for all three."""
        script = str(ROOT / "benchmarks" / "int8_steps.py")
        shared = ["--model", self.spec, "--data", str(self.arrays)]
        stock = {
            runtime: float(
                call(
                    [
                        str(self.arguments.peers_python),
                        script,
                        "stock",
                        "--peers",
                        str(self.arguments.peers),
                        *shared,
                        "--runtime",
                        runtime,
                    ]
                ).splitlines()[-1]
            )
            for runtime in RUNTIMES
        }
        ours = float(call([sys.executable, script, "edgeport", *shared]).splitlines()[-1])
        return stock, ours


def kernel_lines(work: Path) -> list[str]:
    """Return a table of what single kinds of layers gain in int8, a runtime each."""
    lines = [f"| layers | {' | '.join(RUNTIMES)} |", "|---" * (1 + len(RUNTIMES)) + "|"]
    for name, shape in KERNELS.items():
        noise = np.random.default_rng(0).normal(size=(32, *shape)).astype(np.float32)
        np.savez(work / f"{name}.npz", x=noise)
        command = [sys.executable, "-m", "edgeport", "build", f"{ROOT / 'benchmarks' / 'kernels.py'}:{name}"]
        command += ["--target", ",".join(target for target, _ in RUNTIMES.values()), "--correction", "none", "--json"]
        command += ["--calibrate", str(work / f"{name}.npz"), "--output", str(work / name)]
        report = json.loads(call(command, {"EDGEPORT_STORE": str(work / "store")}, allowed=(0, 6)))
        gains = []
        for target, _ in RUNTIMES.values():
            metrics = {metric["name"]: metric["value"] for metric in report["targets"][target]["metrics"]}
            gains.append(f"{metrics['speedup']:.2f}")
        lines.append(f"| {name} | {' | '.join(gains)} |")
    return lines


def fragile_lines(data: Path, work: Path) -> list[str]:
    """Build the fragile network with and without `--max-drop 0.1`, and return a table."""
    lines = ["| target | drop in int8, points | with `--max-drop 0.1` | layers raised |", "|---" * 4 + "|"]
    reports = []
    shared = ["--target", "arm64,intel,cpu", "--correction", "none"]
    shared += ["--calibrate", str(data / "recipes" / "cifar10-calibrate.toml")]
    shared += ["--tune", str(data / "recipes" / "cifar10-tune.toml")]
    shared += ["--evaluate", str(data / "recipes" / "cifar10-report.toml")]
    for name, options in (("plain", []), ("held", ["--max-drop", "0.1"])):
        command = [sys.executable, "-m", "edgeport", "build", f"{ROOT / 'benchmarks' / 'fragile.py'}:net", *shared]
        command += [*options, "--output", str(work / name), "--json"]
        environment = {"EDGEPORT_STORE": str(work / "store"), "EDGEPORT_ZOO": str(data / "zoo.py")}
        reports.append(json.loads(call(command, environment, allowed=(0, 6))))
    lowered = next(stage for stage in reports[1]["stages"] if stage["name"] == "lower")["metrics"]
    for target in reports[0]["targets"]:
        drops = [
            next(metric["value"] for metric in report["targets"][target]["metrics"] if metric["name"] == "top1_drop")
            for report in reports
        ]
        raised = list(lowered[target]["control"]["raised"])
        names = f"{len(raised)}: {', '.join(raised)}" if raised else "0"
        lines.append(f"| {target} | {drops[0]:.2f} | {drops[1]:.2f} | {names} |")
    return lines


def main() -> None:
    """Measure and write the page; ends with 1 when a floor is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--peers-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--quick", action="store_true", help="400 samples and few rounds: to try the script")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "int8.md")
    arguments = parser.parse_args()
    arguments.data, arguments.peers = arguments.data.resolve(), arguments.peers.resolve()
    with TemporaryDirectory(prefix="edgeport-int8-") as folder:
        work = Path(folder)
        benches = [Bench(arguments, network, work) for network in arguments.network]
        for bench in benches:
            bench.build()
        rows = [row for bench in benches for row in bench.rows()]
        flips = [row for bench in benches for row in bench.haswell()]
        tables = {"fragile": fragile_lines(arguments.data, work), "kernels": kernel_lines(work)}
        text = page(rows, flips, tables, benches[-1].cost(), calibration_samples=CALIBRATION_SAMPLES)
    arguments.output.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    sys.exit(any(row.missed() for row in rows) or any(row["flips"] for row in flips))


if __name__ == "__main__":
    main()
