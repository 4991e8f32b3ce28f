"""Energy of microcontrollers (MLPerf Tiny), from power and throughput, or from operators; a part of power.py.

Four networks a board are too few for constants of its own. So the ratios between terms are shared by all boards, a
board has one scale, and the ratios are pulled towards what they are on larger processors (PRIOR).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from power_layers import Builder
from power_networks import mobilenet_v1
from scipy.optimize import least_squares

from edgeport.cost_model import features
from edgeport.formats import reader_of
from edgeport.types import OpCost

Array = NDArray[np.float64]
Board = tuple[str, str, str]  # round, organisation, system
Metered = Mapping[Board, Mapping[str, tuple[float, float]]]  # task -> inferences a second, microjoules an inference

PRIOR = {"mac": 1.0, "depthwise_mac": 2.0, "fully_connected": 1.0, "activation_byte": 2.0}
PULL = 0.1  # standard deviations of the logarithm of a ratio that a board's residual weighs as much as
SCALE = 0.1  # of residuals, beyond which they count less (soft L1)
NOT_THE_FILES = ("arty", "pynq")  # run networks of their own


def networks(reference: Path) -> dict[str, tuple[OpCost, ...]]:
    """Return task -> operators of MLPerf Tiny's reference network (Banbury et al. 2021, table 1).

    Args:
        reference: folder of the published .tflite files; two tasks have none there and come from their papers:
            DS-CNN small (Zhang et al. 2017) on 49 x 10 features, MobileNetV1 0.25 on 96 x 96 with two classes.
    """
    files = {"ic": "pretrainedResnet_quant.tflite", "ad": "ad01_int8.tflite"}
    found = {}
    for task, name in files.items():
        path = next(reference.rglob(name))
        found[task] = reader_of(path).read_costs(path)
    return {
        **found,
        "kws": _keywords(),
        "vww": tuple(layer.cost for layer in mobilenet_v1(0.25, 96, "int8", classes=2)),
    }


def _keywords() -> tuple[OpCost, ...]:
    def cost(kind: str, macs: int, weights: int, moved: int, *, is_depthwise: bool = False) -> OpCost:
        return OpCost(
            name=kind,
            kind=kind,
            dtype="int8",
            macs=macs,
            weight_bytes=weights,
            activation_bytes=moved,
            is_depthwise=is_depthwise,
        )

    positions, channels = 25 * 5, 64
    area = positions * channels
    first = cost("CONV_2D", positions * channels * 40, 41 * channels, 490 + area)
    pair = (
        cost("DEPTHWISE_CONV_2D", area * 9, 10 * channels, 2 * area, is_depthwise=True),
        cost("CONV_2D", area * channels, (channels + 1) * channels, 2 * area),
    )
    pool, head = cost("AVERAGE_POOL_2D", 0, 0, area + channels), Builder("int8", 1, channels).head(12)
    return (first, *(pair * 4), pool, *(layer.cost for layer in head))


def read(folder: Path) -> Metered:
    """Return the boards with all four tasks metered, which run the reference networks."""
    found: dict[Board, dict[str, tuple[float, float]]] = defaultdict(dict)
    with (folder / "mlperf_tiny.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["uJ_per_inf"]:
                key = row["round"], row["org"], row["system"]
                found[key][row["task"]] = float(row["perf_inf_s"]), float(row["uJ_per_inf"])
    return {
        board: tasks
        for board, tasks in found.items()
        if len(tasks) == 4 and not any(word in board[2] for word in NOT_THE_FILES)
    }


def by_power(metered: Metered) -> Array:
    """Return relative errors of (median power of the other tasks) / (throughput of this task)."""
    errors = []
    for tasks in metered.values():
        for task, (rate, energy) in tasks.items():
            power = np.median([other[0] * other[1] for name, other in tasks.items() if name != task])
            errors.append(abs(power / rate / energy - 1))
    return np.array(errors)


def by_macs(metered: Metered, costs: Mapping[str, Sequence[OpCost]]) -> Array:
    """Return relative errors of multiply-adds times the board's median energy of one in the other tasks."""
    counts = {task: float(sum(cost.macs for cost in rows)) for task, rows in costs.items()}
    errors = []
    for tasks in metered.values():
        for task, (_, energy) in tasks.items():
            each = np.median([other[1] / counts[name] for name, other in tasks.items() if name != task])
            errors.append(abs(each * counts[task] / energy - 1))
    return np.array(errors)


def by_operators(metered: Metered, costs: Mapping[str, Sequence[OpCost]]) -> Array:
    """Return relative errors of a mix of operators whose ratios come from the other tasks of all boards."""
    amounts = {task: _amounts(rows) for task, rows in costs.items()}
    errors: list[float] = []
    for task in costs:
        others = [name for name in costs if name != task]
        known = np.stack([amounts[name] for name in others])
        log_energy = np.log([[tasks[name][1] for name in others] for tasks in metered.values()])
        each = np.exp(_log_ratios(known, log_energy))
        for tasks in metered.values():
            scale = np.median([np.log(tasks[name][1] / (amounts[name] @ each)) for name in others])
            errors.append(abs(float(np.exp(scale) * (amounts[task] @ each)) / tasks[task][1] - 1))
    return np.array(errors)


def _log_ratios(amounts: Array, log_energy: Array) -> Array:
    """Return the logarithm of what each term costs, up to a board's scale.

    Args:
        amounts: (tasks, terms).
        log_energy: (boards, tasks).
    """
    prior = np.log(list(PRIOR.values()))

    def residuals(ratios: Array) -> Array:
        off = log_energy - np.log(amounts @ np.exp(ratios))
        off -= np.median(off, axis=1, keepdims=True)
        return np.concatenate([off.ravel(), PULL * np.sqrt(len(off)) * (ratios - prior)])

    found: Array = least_squares(residuals, prior, loss="soft_l1", f_scale=SCALE).x
    return found


def _amounts(costs: Sequence[OpCost]) -> Array:
    terms = features(costs)["int8"]
    connected = float(sum(cost.macs for cost in costs if cost.kind == "FULLY_CONNECTED"))
    return np.array([terms["mac"] - connected, terms["depthwise_mac"], connected, terms["activation_byte"]])
