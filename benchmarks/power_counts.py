"""What emulated cores count in the networks that boards were metered with; writes docs/power_counts.json.

    python benchmarks/power_counts.py --data ../shared/data --files FOLDER
    python benchmarks/power_counts.py --data ../shared/data --files FOLDER --runtime tflite-runtime --dtype int8

`--data` is a folder with `power/`; `--files` one where the networks' files are kept (1 GB). The metered files are not
published, so each network is written anew from its layers (`power_files.py`), and one inference of it is counted by the
agent that builds use, beside tiny files that warm it up; of large networks once instead of twice. Every result is
stored as soon as it is there, and is not counted again: a run that is stopped goes on where it was. Both commands
together take an hour or more; small networks come first. `power.py` says what the counts are worth.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from power_layers import BYTES, Builder
from power_networks import layers, operators, picture_size

from edgeport.devices import counting, qemu
from edgeport.devices.counting import Counts
from edgeport.devices.device import Device
from edgeport.store import atomic_path

STORED = Path(__file__).resolve().parents[1] / "docs" / "power_counts.json"
CORES = ("cortex-a72", "cortex-a76")
RUNTIMES = ("ai-edge-litert", "tflite-runtime")
FIGURES = (
    "instructions", "branch", "load_store", "integer", "simd", "load_bytes", "store_bytes", "l1d_misses", "l2_misses",
)  # fmt: skip
FILLERS = 15  # tiny files beside the counted one: the agent settles with 16 calls, whatever file they are of
LARGE_MACS = 100_000_000  # of a network, above which one region is counted instead of the lower of two

Table = dict[str, dict[str, list[int]]]  # `runtime core dtype` -> network -> a figure of each of FIGURES


def plain(model: str) -> str:
    """Return a network's name without what MLPerf's logs append for its number format."""
    return re.sub(r"(-non-quantized|-quantized|_float|_uint8)$", "", model)


def place(runtime: str, core: str, dtype: str) -> str:
    """Return the key of a table's part."""
    return f"{runtime} {core} {dtype}"


def stored(path: Path = STORED) -> Table:
    """Return what has been counted so far."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["figures"] != list(FIGURES):
        raise ValueError(f"{path} has the figures {content['figures']}, not {list(FIGURES)}")
    found: Table = content["counts"]
    return found


def store(table: Table, path: Path = STORED) -> None:
    """Write a table, a line a network."""
    parts = []
    for key in sorted(table):
        rows = [f"   {json.dumps(network)}: {json.dumps(table[key][network])}" for network in sorted(table[key])]
        parts.append(f"  {json.dumps(key)}: {{\n" + ",\n".join(rows) + "\n  }")
    text = f'{{\n "figures": {json.dumps(FIGURES)},\n "counts": {{\n' + ",\n".join(parts) + "\n }\n}\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def metered(folder: Path) -> dict[tuple[str, str], int]:
    """Return (network, number format) -> multiply-adds of all that were metered, the least first."""
    with (folder / "mlperf_edge_singlestream.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["mJ_per_inf"] and row["macs"]]
    pairs = {(row["model"], "int8" if row["dtype"] == "int8" else "float32") for row in rows}
    macs = {(plain(model), dtype): sum(cost.macs for cost in operators(model, dtype)) for model, dtype in sorted(pairs)}
    return dict(sorted(macs.items(), key=lambda item: (item[1], item[0])))


def files(network: str, folder: Path) -> Mapping[str, Path]:
    """Return number format -> file of a network, made where it is not there."""
    import power_files

    final = folder / network
    if not final.is_dir():
        with TemporaryDirectory(dir=folder) as temporary:
            made = Path(temporary) / network
            made.mkdir()
            if network == "filler":
                power_files.write(Builder("float32", 4).pool().head(8), 4, made)
            else:
                power_files.write(layers(network, "float32"), picture_size(network), made)
            made.rename(final)
    return {dtype: final / f"{dtype}.tflite" for dtype in BYTES}


def count(path: Path, filler: Path, device: Device, macs: int) -> Counts:
    """Count one inference of a file."""
    repeats = 1 if macs > LARGE_MACS else counting.REPEATS
    return counting.count([path, *[filler] * FILLERS], device, repeats=repeats).counts[0]


def figures(counts: Counts) -> list[int]:
    """Return what is stored of counts."""
    found = {**counts.classes, **{name: getattr(counts, name) for name in FIGURES if hasattr(counts, name)}}
    return [int(found[name]) for name in FIGURES]


def main() -> None:
    """Make, count, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--files", type=Path, required=True, help="where networks' files are kept")
    parser.add_argument("--runtime", choices=RUNTIMES, default=RUNTIMES[0])
    parser.add_argument("--dtype", choices=BYTES, help="only this number format")
    arguments = parser.parse_args()
    arguments.files.mkdir(parents=True, exist_ok=True)
    fillers = files("filler", arguments.files)
    for (network, dtype), macs in metered(arguments.data / "power").items():
        if arguments.dtype not in (None, dtype):
            continue
        for core in CORES:
            key = place(arguments.runtime, core, dtype)
            if network in stored().get(key, {}):
                continue
            start = time.perf_counter()
            path = files(network, arguments.files)[dtype]
            made = time.perf_counter()
            found = figures(count(path, fillers[dtype], qemu.device(core, arguments.runtime), macs))
            table = stored()
            table.setdefault(key, {})[network] = found
            store(table)
            seconds = f"{made - start:.0f} + {time.perf_counter() - made:.0f} s"
            sys.stdout.write(f"{key} {network}: {found[0] / 1e6:.1f} M instructions, {seconds}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
