"""Networks cut to the same multiply-adds with torch-pruning and with edgeport, then trained alike."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ROOT / "benchmarks" / "compress_networks.py"
EPOCHS = "3"  # both have the same multiply-adds, so these are equal core-seconds
TRAINED = "0:20000"  # of the training set
MACS = {"projected": 0.5, "mobile": 0.5}  # network of compress_networks.py -> share that stays
OURS = {  # chosen on cifar10-tune, and on images of the training set that no student saw
    "projected": ("--prune", "layer:2", "--allocation", "sensitivity", "--importance", "reconstruction"),
    "mobile": ("--allocation", "sensitivity", "--importance", "reconstruction"),
}
SEEDS = {"projected": range(3), "mobile": range(6)}  # of the training; what is cut does not depend on it
MOBILE = ("--distill", "10", "--hard-labels", "0.5")  # how the network that has no weights comes by them

Figures = dict[str, Any]

_TEACHER = """import sys

from safetensors.torch import load_file

sys.path.insert(0, "{folder}")
from compress_networks import {network}


def net():
    network = {network}()
    network.load_state_dict(load_file("{weights}"))
    return network.eval()
"""


class Bench(Protocol):
    """What `compress.Bench` has for this part."""

    data: Path
    work: Path

    def recipe(self, use: str, *, split: str = "") -> str:
        """Return the place of a recipe."""

    def build(self, model: str, options: Sequence[str], *, name: str) -> Figures:
        """Build, and return the report with what it took."""

    def judged(self) -> tuple[str, ...]:
        """Return the options for calibration, choices and final figures."""

    def script(self, name: str, *arguments: str, is_json: bool = True) -> Figures:
        """Run another script of this folder."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a build's figures are read: what was run, the rows of its steps, CPU seconds of all that has ended."""

    told: Callable[[Figures], Figures]
    steps: Callable[[Figures], list[Figures]]
    cpu_seconds: Callable[[], float]


def compared(bench: Bench, network: str, interpreter: Path, reading: Reading) -> Figures:
    """Return `tools`, tool -> what its network reached with each seed, and `untrained`, tool -> core-seconds.

    Those are of the cut and a build without training: the rest of a build's core-seconds is its training.

    Args:
        bench: runs builds.
        network: a factory in compress_networks.py.
        interpreter: has torch-pruning.
        reading: of a build.
    """
    weights = _weights(bench, network)
    model, given = f"{NETWORKS}:{network}", ("--weights", str(weights))
    common = ("--target", "cpu", "--max-drop", "100", "--train", bench.recipe("train", split=TRAINED), *bench.judged())
    file = bench.work / f"{network}-torch-pruning.pt2"
    command = [str(interpreter), str(ROOT / "benchmarks" / "compress_torch_pruning.py"), "--network", network]
    command += ["--weights", str(weights), "--macs", str(MACS[network]), "--out", str(file)]
    before = reading.cpu_seconds()
    subprocess.run(command, check=True, cwd=ROOT / "benchmarks")
    cutting = reading.cpu_seconds() - before
    teacher = bench.work / f"{network}_teacher.py"
    teacher.write_text(_TEACHER.format(folder=NETWORKS.parent, weights=weights, network=network))
    learn = ("--teacher", f"{teacher}:net", "--distill", EPOCHS)

    def untrained(tool: str, model: str, options: Sequence[str]) -> float:
        return float(bench.build(model, (*options, *common), name=f"{network}-{tool}-untrained")["core_seconds"])

    def trained(tool: str, model: str, options: Sequence[str], seed: int) -> Figures:
        seeded = (*options, *common, "--seed", str(seed))
        found = bench.build(model, seeded, name=f"{network}-{tool}-{seed}")
        return {**reading.told(found), "steps": reading.steps(found)}

    whole = bench.build(
        model, (*given, "--target", "cpu", "--precision", "float32", *bench.judged()), name=f"{network}-whole"
    )
    found: dict[str, list[Figures]] = {"torch-pruning": [], "edgeport": []}
    idle = {"torch-pruning": cutting + untrained("torch-pruning", str(file), ())}
    for seed in SEEDS[network]:  # in turn: other work on the machine meets both
        theirs = trained("torch-pruning", str(file), learn, seed)
        share = f"{theirs['steps'][0]['macs'] / reading.steps(whole)[0]['macs']:.4f}"  # equal multiply-adds
        cut = (*given, "--macs", share, *OURS[network])
        if "edgeport" not in idle:
            idle["edgeport"] = untrained("edgeport", model, cut)
        found["torch-pruning"].append({**theirs, "core_seconds": theirs["core_seconds"] + round(cutting)})
        found["edgeport"].append(trained("edgeport", model, (*cut, "--distill", EPOCHS), seed))
    return {"tools": found, "untrained": {tool: round(seconds) for tool, seconds in idle.items()}}


def _weights(bench: Bench, network: str) -> Path:
    if network == "projected":
        place = bench.work / "projected.safetensors"
        bench.script(NETWORKS.name, "--data", str(bench.data), "--out", str(place), is_json=False)
        return place
    learn = (
        "--train",
        bench.recipe("train", split=TRAINED),
        "--teacher",
        f"{bench.data}/zoo.py:resnet20_jpeg",
        *MOBILE,
    )
    options = ("--target", "cpu", "--precision", "float32", "--max-drop", "100", "--evaluate", bench.recipe("report"))
    return Path(bench.build(f"{NETWORKS}:{network}", (*options, *learn), name=network)["folder"]) / "model.safetensors"
