"""How well latency and energy of metered boards are predicted; writes docs/power.md and the targets' constants.

    python benchmarks/power.py --data ../shared/data [--write-targets]
    python benchmarks/power.py --data ../shared/data --board LOG:SYSTEM [--like rk3588]

`--data` is a folder with `power/` and `mlperf-tiny/reference/`. The first form fits, cross-validates and writes the
page; it fails where a target file holds other constants than those it found, unless `--write-targets` is given. The
second predicts the networks of a board that had no part in the fit, from one metered network of it; LOG is a CSV with
the columns of `power/mlperf_edge_singlestream.csv`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import power_counts
import power_emulated
import power_roofline
import power_tiny
from power_fit import Figure, Quality, Row, constants, coverage, factor, left_out, quality, read, transferred
from power_page import Evidence, Further, Transfer, page
from power_plot import plot
from power_steady import Steady, steady

from edgeport import profile
from edgeport.cost_model import FORMATS, CostModel, Rates
from edgeport.validation import energy as energies

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "power.md"
PLOT = ROOT / "docs" / "power.svg"

CALIBRATED = {  # target -> the log's system, and what it is
    "raspberry-pi-4": ("rpi4-tflite-v2.7.1-ruy", "Raspberry Pi 4, TensorFlow Lite 2.7"),
    "rk3588": ("firefly-tflite-v2.11.0-ruy", "Firefly ROC-RK3588S-PC, TensorFlow Lite 2.11"),
    "jetson-orin-cpu": ("orin-tflite-v2.7.1-ruy", "Jetson AGX Orin, CPU, TensorFlow Lite 2.7"),
}
UNTOUCHED = (  # had no part in choosing the terms
    "rpi4coral-fan.on-tflite-v2.4.1-ruy",
    "rpi4-armnn-v21.11-neon",
    "firefly-armnn-v22.05-neon",
    "xavier-power.0-fan.cool-tflite-v2.7.1-ruy",
    "xavier-power.0-fan.cool-tflite-v2.5.0-ruy",
    "xavier-power.0-fan.cool-tflite-v2.4.1-ruy",
)
SISTERS = (("raspberry-pi-4", "rpi4coral-fan.on-tflite-v2.4.1-ruy"), ("rk3588", "rpi4-tflite-v2.7.1-ruy"))
PROVENANCE = "derived, not verified by MLCommons; threads not stated"
MARK = "# Below: what benchmarks/power.py fitted; docs/power.md says how well it predicts.\n"


def predicted(rows: Sequence[Row], figure: Figure) -> tuple[np.ndarray, Quality]:
    """Return left-out predictions and how good they are."""
    found = left_out(rows, figure)
    metered = np.array([row.figure(figure) for row in rows])
    return found, quality(found, metered, coverage(rows, figure, found))


def simpler(rows: Sequence[Row]) -> dict[str, Quality]:
    """Return how good simpler predictions of energy are: left-out latency x watts (the other families'), a roofline."""
    metered = np.array([row.energy_nj for row in rows])
    watts = [
        np.mean([other.watts for other in rows if other.dtype == row.dtype and other.family != row.family])
        for row in rows
    ]
    return {
        "its latency x watts": quality(left_out(rows, "latency") * np.array(watts), metered),
        "roofline": quality(power_roofline.left_out(rows), metered),
    }


def cost_model(rows: Sequence[Row], *, named: str) -> CostModel:
    """Return the constants of one board, fitted to all of its networks; intervals are those of left-out families."""
    rates = {}
    counts = {form: [sum(cost.macs for cost in row.costs) for row in rows if row.dtype == form] for form in FORMATS}
    found = {figure: predicted(rows, figure) for figure in ("energy", "latency")}
    for form in FORMATS:
        own = np.array([row.dtype == form for row in rows])
        chosen = [row for row in rows if row.dtype == form]
        factors = {
            figure: round(factor(found[figure][0][own], np.array([row.figure(figure) for row in chosen])), 2)
            for figure in ("energy", "latency")
        }
        rates[form] = Rates(
            latency_ns=constants(chosen, "latency"),
            energy_nj=constants(chosen, "energy"),
            latency_factor=factors["latency"],
            energy_factor=factors["energy"],
        )
    return CostModel(
        source=f"MLPerf Inference logs, {named}, at the wall ({PROVENANCE})",
        rank_correlation=round(found["energy"][1].spearman, 4),
        idle_w=round(float(np.mean([row.idle_watts for row in rows])), 2),
        least_macs=max(min(counts[form]) for form in FORMATS),
        most_macs=max(max(counts[form]) for form in FORMATS),
        int8=rates["int8"],
        float32=rates["float32"],
    )


def stored(target: str) -> CostModel | None:
    """Return the constants that a target file holds."""
    return profile.load(target).cost


def write_target(target: str, model: CostModel) -> None:
    """Put constants into a target file, behind what was written by hand."""
    path = ROOT / "targets" / f"{target}.toml"
    own = path.read_text().split("\n" + MARK)[0].rstrip("\n")
    defaults = {"board": "", "has_joules": True}
    found = {name: value for name, value in msgspec.to_builtins(model).items() if value != defaults.get(name)}
    text = msgspec.toml.encode({"cost": found}).decode()
    path.write_text(f"{own}\n\n{MARK}{text}")


def holds(found: Steady) -> bool:
    """Whether the constants for processors that nobody metered are what was found."""
    own = energies.STEADY_FACTOR, energies.STEADY_RANK, energies.STEADY_LEAST_RANK
    return own == (found.factor, found.rank, found.least_rank)


def evidence(systems: Mapping[str, Sequence[Row]]) -> list[Evidence]:
    """Return what is known of every system, calibrated ones first."""
    names = {system: (target, named) for target, (system, named) in CALIBRATED.items()}
    table = power_counts.stored()
    found = []
    for system in (*names, *UNTOUCHED):
        rows = systems[system]
        energy, energy_quality = predicted(rows, "energy")
        _, latency_quality = predicted(rows, "latency")
        target, named = names.get(system, ("", system))
        found.append(
            Evidence(
                system=system,
                target=target,
                named=named,
                rows=tuple(rows),
                energy=energy,
                energy_quality=energy_quality,
                simpler=simpler(rows) if system in names else {},
                latency_quality=latency_quality,
                trial=power_emulated.trial(rows, table, system=system, named=named),
            )
        )
    return found


def transfer(source: Sequence[Row], board: Sequence[Row]) -> tuple[Quality, Quality]:
    """Return how well another board is predicted from one metered network: of the median choice, and of the worst."""
    found = [quality(*transferred(source, board, point=point)) for point in range(len(board))]
    found.sort(key=lambda one: one.p50)
    return found[len(found) // 2], found[-1]


def one_board(data: Path, log: Path, system: str, like: str) -> str:
    """Return what a board's log says of predictions from one metered network."""
    systems = read(data / "power")
    board = read(log.parent, name=log.name)[system]
    usual, worst = transfer(systems[CALIBRATED[like][0]], board)
    return (
        f"{system}, {len(board)} networks, from the constants of {like} and one metered network of this board:\n"
        f"  Spearman {usual.spearman:.4f}, error p50 {usual.p50:.1%}, p90 {usual.p90:.1%} (median choice of that"
        f" network); p50 {worst.p50:.1%} (worst choice)"
    )


def main() -> None:
    """Fit, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write-targets", action="store_true", help="put the constants into targets/*.toml")
    parser.add_argument("--board", metavar="LOG:SYSTEM", help="judge predictions for this board alone")
    parser.add_argument("--like", choices=CALIBRATED, default="raspberry-pi-4", help="whose constants it gets")
    arguments = parser.parse_args()
    if arguments.board:
        log, _, system = arguments.board.rpartition(":")
        sys.stdout.write(one_board(arguments.data, Path(log), system, arguments.like) + "\n")
        return
    systems = read(arguments.data / "power")
    models = {target: cost_model(systems[system], named=named) for target, (system, named) in CALIBRATED.items()}
    for target, model in models.items():
        if arguments.write_targets:
            write_target(target, model)
        sys.stdout.write(f"{target}\n{msgspec.toml.encode({'cost': model}).decode()}\n")
    if different := [target for target, model in models.items() if stored(target) != model]:
        raise SystemExit(f"other constants in targets: {', '.join(different)}; run with --write-targets")
    by_time = steady(systems)
    if not holds(by_time):
        raise SystemExit(f"other constants in edgeport/validation/energy.py than {by_time}")
    found = evidence(systems)
    transfers = [
        Transfer(source=source, board=board, found=transfer(systems[CALIBRATED[source][0]], systems[board]))
        for source, board in SISTERS
    ]
    metered = power_tiny.read(arguments.data / "power")
    costs = power_tiny.networks(arguments.data / "mlperf-tiny" / "reference")
    tiny = {
        "median power of the other networks x latency": power_tiny.by_power(metered),
        "operators alone": power_tiny.by_operators(metered, costs),
        "MACs alone": power_tiny.by_macs(metered, costs),
    }
    PLOT.write_text(plot([one for one in found if one.target]))
    PAGE.write_text(page(found, Further(transfers=transfers, tiny=tiny, boards=len(metered), by_time=by_time), models))
    sys.stdout.write(re.sub(r"\n(?=#)", "\n\n", PAGE.read_text().split("\n## ")[1]))


if __name__ == "__main__":
    main()
