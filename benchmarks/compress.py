"""How small a network gets at which accuracy, beside what others reach; writes docs/compress.md.

    python benchmarks/compress.py --data ../shared/data [--parts baseline,small] [--baseline model.safetensors]
        [--torch-pruning PYTHON]

`--data` is a folder with `zoo.py` and `recipes/`. Each part leaves its figures in docs/compress.json, so parts can be
run on their own; the page is written from all of them. `--baseline` takes the fine-tuned ResNet-56 of an earlier run
(part `baseline` makes it, and the store keeps it). `--torch-pruning` is an interpreter with torch-pruning, which is no
dependency of edgeport. Everything runs with one thread; core-seconds are CPU seconds of the whole build, evaluation
included. Settings were chosen on `cifar10-tune`; figures are of `cifar10-report`, which no setting saw.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import compress_peers
from compress_page import page

from edgeport.devices import host
from edgeport.devices.processor import cpu_features

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "docs" / "compress.json", ROOT / "docs" / "compress.md"
FACTORS = {  # times fewer multiply-adds -> how
    2.1: ("--allocation", "sensitivity", "--importance", "reconstruction", "--distill", "12"),
    2.6: ("--prune", "layer:10", "--allocation", "sensitivity", "--distill", "20"),
}
SMALL = ("--prune", "layer:10", "--macs", "0.375", "--weight-bits", "4", "--distill", "20", "--qat", "2")
RUNTIMES = {"arm64": "model.tflite", "intel": "model.xml", "cpu": "model.onnx"}
SPEED_CASES = {"resnet20_jpeg": "0.5", "resnet56": "0.5"}  # network -> share of the filters that is cut

Figures = dict[str, Any]


class Bench:
    """What all parts share: where data lie, and how a build is run."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        """Set up; `work` is a folder for outputs."""
        self.arguments, self.work = arguments, work
        self.data: Path = arguments.data

    def recipe(self, use: str, *, split: str = "") -> str:
        """Return a recipe of the JPEG CIFAR-10 pack, cut to a slice where one is given."""
        given = self.data / "recipes" / f"cifar10-{use}.toml"
        if not split:
            return str(given)
        source = self.data / "cifar10" / f"cifar10-{'train' if use == 'train' else 'test'}.npz"
        lines = [line for line in given.read_text().splitlines() if not line.startswith(("source", "split"))]
        place = self.work / f"{use}-{split.replace(':', '-')}.toml"
        place.write_text("\n".join([f'source = "{source}"', f'split = "{split}"', *lines]) + "\n")
        return str(place)

    def build(self, model: str, options: Sequence[str], *, name: str) -> Figures:
        """Build into `work/name`; return the report with the command and the CPU seconds that it took."""
        output = self.work / name
        command = ["edgeport", "build", model, *options, "--output", str(output)]
        places = {
            f"{ROOT}/": "",
            str(self.data): "../shared/data",
            str(self.work): "WORK",
            str(self.arguments.baseline): "BASELINE",
        }
        shown = " ".join(command)
        for place, word in places.items():
            shown = shown.replace(place, word)
        sys.stderr.write(f"{shown}\n")
        before = cpu_seconds()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        program = [sys.executable, "-m", *command, "--json"]
        done = subprocess.run(program, env=environment, stdout=subprocess.PIPE, check=False, cwd=ROOT)
        if done.returncode not in (0, 6):
            raise SystemExit(f"{shown} ended with {done.returncode}")
        report: Figures = json.loads(done.stdout)
        return {"command": shown, "core_seconds": cpu_seconds() - before, "report": report, "folder": str(output)}

    def judged(self) -> tuple[str, ...]:
        """Return the options for calibration, choices and final figures."""
        data = {"--calibrate": "calibrate", "--tune": "tune", "--evaluate": "report"}
        return tuple(word for flag, use in data.items() for word in (flag, self.recipe(use)))

    def baseline_weights(self) -> Path:
        """Return the fine-tuned ResNet-56."""
        if self.arguments.baseline is not None:
            return Path(self.arguments.baseline)
        return Path(self._baseline()["folder"]) / "model.safetensors"

    def _baseline(self) -> Figures:
        options = ("--target", "cpu", "--precision", "float32", "--evaluate", self.recipe("report"))
        learn = ("--train", self.recipe("train"), "--distill", "4", "--hard-labels", "1")
        return self.build(f"{self.data}/zoo.py:resnet56", (*options, *learn), name="baseline")

    def baseline(self) -> Figures:
        """Fine-tune ResNet-56 on the JPEG training set."""
        found = self._baseline()
        return {**_told(found), "top1": _steps(found)[-1]["top1"], "top1_before": _steps(found)[0]["top1"]}

    def fewer(self, factor: float) -> Figures:
        """Cut the baseline to that many times fewer multiply-adds."""
        options = ("--weights", str(self.baseline_weights()), "--macs", f"{1 / factor:.4f}", *FACTORS[factor])
        learn = ("--train", self.recipe("train"))
        model, common = f"{self.data}/zoo.py:resnet56", ("--target", "cpu", *learn, *self.judged())
        found = self.build(model, (*options, *common), name=f"resnet56-{factor}")
        return {**_told(found), "steps": _steps(found)}

    def small(self) -> Figures:
        """Build an int8 file 16 times smaller and 4 times faster than the float file of the baseline."""
        options = ("--weights", str(self.baseline_weights()), *SMALL)
        learn = ("--train", self.recipe("train"))
        found = self.build(
            f"{self.data}/zoo.py:resnet56", ("--target", "cpu", *options, *learn, *self.judged()), name="small"
        )
        return {**_told(found), "steps": _steps(found)}

    def joint(self) -> Figures:
        """Cut half of the filters without and with training on the int8 grid."""
        model, target = f"{self.data}/zoo.py:resnet20_jpeg", ("--target", "cpu", "--max-drop", "100")
        learn = ("--train", self.recipe("train", split="0:20000"), "--distill", "3", "--qat", "1")
        cases = {"unpruned": (), "naive": ("--prune", "0.5"), "joint": ("--prune", "0.5", *learn)}
        rows = {}
        for name, options in cases.items():
            found = self.build(model, (*target, *options, *self.judged()), name=f"joint-{name}")
            names = ("top1_float", "top1", "size_bytes", "latency_p50_ms")
            rows[name] = {**_told(found), **{key: _figure(found, "cpu", key) for key in names}}
            if name == "joint":
                rows[name]["agreement_simulated"] = _figure(found, "cpu", "agreement@simulated")
        return {"rows": rows}

    def speed(self) -> Figures:
        """Time pruned files beside unpruned ones of the same precision; weights do not matter for it."""
        rows = []
        for network, ratio in SPEED_CASES.items():
            common = ("--target", "arm64,intel,cpu", "--calibration", "minmax", "--correction", "none")
            data = ("--calibrate", self.recipe("calibrate"), "--evaluate", self.recipe("report", split="2000:2200"))
            whole, cut = (
                self.build(
                    f"{self.data}/zoo.py:{network}", (*common, *options, *data), name=f"speed-{network}-{len(options)}"
                )
                for options in ((), ("--prune", ratio))
            )
            fewer = _steps(cut)[0]["macs"] / _steps(cut)[-1]["macs"]
            for target, file in RUNTIMES.items():
                for form in (file, file.replace("model", "model-float")):
                    paths = [Path(found["folder"]) / target / form for found in (whole, cut)]
                    before, after = host.bench(paths, threads=1, seconds=4.0)
                    rows.append(
                        {
                            "network": network,
                            "target": target,
                            "precision": "float32" if "float" in form else "int8",
                            "macs_ratio": fewer,
                            "speedup": before.p50_ms / after.p50_ms,
                        }
                    )
        return {"rows": rows}

    def distillation(self) -> Figures:
        """Train pruned students with a teacher and without; three seeds, all and 3 % of the training data."""
        return self.script("compress_students.py", "--data", str(self.data))

    def peers(self, network: str) -> Figures:
        """Cut a network to the same multiply-adds with torch-pruning and with edgeport; train both alike."""
        other = self.arguments.torch_pruning
        if other is None:
            raise SystemExit(f"part peers-{network} needs --torch-pruning PYTHON")
        reading = compress_peers.Reading(told=_told, steps=_steps, cpu_seconds=cpu_seconds)
        return {"network": network, **compress_peers.compared(self, network, other, reading)}

    def script(self, name: str, *arguments: str, is_json: bool = True) -> Figures:
        """Run another script of this folder; return the JSON that it prints."""
        command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=True)
        found: Figures = json.loads(done.stdout) if is_json else {}
        return found


def cpu_seconds() -> float:
    """Return the CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _told(found: Mapping[str, Any]) -> Figures:
    return {"command": found["command"], "core_seconds": round(found["core_seconds"])}


def _stage(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    stage: Mapping[str, Any] = next(stage for stage in found["report"]["stages"] if stage["name"] == name)
    return stage


def _steps(found: Mapping[str, Any]) -> list[Figures]:
    """Return the step-by-step rows of the build's first target."""
    rows: list[Figures] = next(iter(_stage(found, "validate")["metrics"]["ablation"].values()))
    return rows


def _figure(found: Mapping[str, Any], target: str, name: str) -> float:
    metrics = found["report"]["targets"][target]["metrics"]
    return next(float(metric["value"]) for metric in metrics if metric["name"] == name)


def _commit() -> str:
    """Return the commit that figures are of, empty outside a checkout."""
    done = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, capture_output=True, check=False)
    return done.stdout.decode().strip()


PARTS: Mapping[str, Callable[[Bench], Figures]] = {
    "baseline": Bench.baseline,
    **{f"fewer-{factor}": partial(Bench.fewer, factor=factor) for factor in FACTORS},
    "small": Bench.small,
    "distillation": Bench.distillation,
    "joint": Bench.joint,
    "speed": Bench.speed,
    **{f"peers-{network}": partial(Bench.peers, network=network) for network in compress_peers.MACS},
}


def main() -> None:
    """Run the parts that were asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--torch-pruning", type=Path)
    arguments = parser.parse_args()
    arguments.data = arguments.data.resolve()
    chosen = [name for name in arguments.parts.split(",") if name]
    if unknown := [name for name in chosen if name not in PARTS]:
        raise SystemExit(f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    with TemporaryDirectory(prefix="edgeport-") as folder:
        bench = Bench(arguments, Path(folder))
        for name in chosen:
            features = sorted(cpu_features() & {"avx2", "avx512f", "avx512_vnni", "amx_int8"})
            figures = {**PARTS[name](bench), "processor": ", ".join(features), "commit": _commit()}
            results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
            RESULTS.write_text(json.dumps({**results, name: figures}, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
