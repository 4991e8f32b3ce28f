"""Predictions against metered boards: the constants in targets/*.toml are what the benchmark fits, and are good enough.

Needs shared data; `python benchmarks/power.py --data ...` writes the whole page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeport.profile import load

LEAST_SPEARMAN = {"raspberry-pi-4": 0.995, "rk3588": 0.993, "jetson-orin-cpu": 0.97}
MOST_ERROR = {"raspberry-pi-4": (0.06, 0.18), "rk3588": (0.06, 0.18), "jetson-orin-cpu": (0.09, 0.25)}


@pytest.fixture(scope="module")
def power(root: Path) -> Iterator[ModuleType]:
    pytest.importorskip("scipy")
    pytest.importorskip("tomli_w")
    sys.path.insert(0, str(root / "benchmarks"))
    import power as module  # type: ignore[import-not-found]  # a script, not a package

    yield module
    sys.path.remove(str(root / "benchmarks"))


@pytest.fixture(scope="module")
def metered(power: ModuleType, shared_data: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = power.read(shared_data / "power")
    return found


@pytest.mark.parametrize("target", LEAST_SPEARMAN)
def test_target_files_hold_what_is_fitted(
    power: ModuleType, metered: dict[str, tuple[object, ...]], target: str
) -> None:
    system, named = power.CALIBRATED[target]
    assert load(target).cost == power.cost_model(metered[system], named=named)


@pytest.mark.parametrize("target", LEAST_SPEARMAN)
def test_left_out_families_are_predicted(
    power: ModuleType, metered: dict[str, tuple[object, ...]], target: str
) -> None:
    _, quality = power.predicted(metered[power.CALIBRATED[target][0]], "energy")
    assert quality.spearman >= LEAST_SPEARMAN[target]
    assert (quality.p50, quality.p90) <= MOST_ERROR[target]
    assert quality.p90 <= MOST_ERROR[target][1]
    assert 0.85 <= quality.covered <= 0.97


def test_board_with_one_metered_network_is_predicted(power: ModuleType, metered: dict[str, tuple[object, ...]]) -> None:
    source, board = power.SISTERS[0]
    usual, _ = power.transfer(metered[power.CALIBRATED[source][0]], metered[board])
    assert usual.spearman >= 0.99
    assert usual.p50 <= 0.08


def test_microcontrollers(power: ModuleType, shared_data: Path) -> None:
    tiny = power.power_tiny
    boards = tiny.read(shared_data / "power")
    costs = tiny.networks(shared_data / "mlperf-tiny" / "reference")
    assert np.median(tiny.by_power(boards)) <= 0.025
    by_operators, by_macs = (float(np.median(way(boards, costs))) for way in (tiny.by_operators, tiny.by_macs))
    assert by_operators < 0.15 < by_macs


def test_ratios_of_processors_that_nobody_metered(power: ModuleType, metered: dict[str, tuple[object, ...]]) -> None:
    assert power.holds(power.steady(metered))
