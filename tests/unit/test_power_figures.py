"""Predicted latency and energy in a report: names, units, intervals, what is judged and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edgeport.cost_model import CostModel, Rates, Terms
from edgeport.devices.rapl import Counter
from edgeport.errors import ConfigError
from edgeport.profile import Limits, TargetProfile, known_targets, load
from edgeport.types import Metric, OpCost
from edgeport.validation import energy, latency
from edgeport.validation.boards import board_notes
from edgeport.validation.judge import judge_all

RATES = Rates(latency_ns=Terms(mac=1.0), energy_nj=Terms(mac=4.0), latency_factor=1.25, energy_factor=2.0)
BOARD = CostModel(
    source="a wattmeter", rank_correlation=0.99, idle_w=1.5, least_macs=1, most_macs=10**9, int8=RATES, float32=RATES
)
INT8 = (OpCost(name="c", kind="CONV_2D", dtype="int8", macs=2_000_000),)
FLOAT = (OpCost(name="c", kind="CONV_2D", dtype="float32", macs=6_000_000),)


def target(**changes: object) -> TargetProfile:
    plain = TargetProfile(name="b", description="d", backend="tflite", isa="aarch64", cost=BOARD)
    return msgspec.structs.replace(plain, **changes)


def by_name(metrics: list[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


def test_energy_of_a_metered_board() -> None:
    found = by_name(energy.modelled(target(), INT8, FLOAT, per_day=1000))
    assert found["energy_mj"].value == pytest.approx(8.0)
    assert found["energy_mj"].interval == pytest.approx((4.0, 16.0))
    assert found["energy_net_mj"].value == pytest.approx(8.0 - 1.5 * 2.0), "2 ms at 1.5 W would have gone anyway"
    assert found["energy_day_j"].value == pytest.approx(1.5 * 86_400 + 1000 * 5.0e-3)
    assert found["energy_ratio"].value == pytest.approx(3.0)
    assert {metric.origin for metric in found.values()} == {"modelled"}
    assert "energy_day_j" not in by_name(energy.modelled(target(), INT8, FLOAT))
    assert "energy_ratio" not in by_name(energy.modelled(target(), FLOAT))


def test_without_a_metered_board_there_are_no_joules() -> None:
    model = msgspec.structs.replace(BOARD, has_joules=False)
    found = by_name(energy.modelled(target(cost=model), INT8, FLOAT, per_day=5))
    assert list(found) == ["energy_ratio", "rank_correlation"]
    assert found["rank_correlation"].value == BOARD.rank_correlation
    assert energy.modelled(target(cost=None), INT8, FLOAT) == []


def test_networks_of_another_size_have_no_ratios() -> None:
    far = target(cost=msgspec.structs.replace(BOARD, least_macs=10**8))
    assert set(by_name(energy.modelled(far, INT8, FLOAT))) == {"energy_mj", "energy_net_mj", "rank_correlation"}
    assert set(by_name(latency.modelled(far, INT8, FLOAT))) == {"latency_p50_ms", "latency_float_p50_ms"}
    assert "million multiply-adds were metered" in " ".join(board_notes(far, INT8, energy.modelled(far, INT8)))


def test_latency_of_a_metered_board() -> None:
    found = by_name(latency.modelled(target(), INT8, FLOAT))
    assert found["latency_p50_ms"].value == pytest.approx(2.0)
    assert found["latency_p50_ms"].interval == pytest.approx((1.6, 2.5))
    assert found["latency_float_p50_ms"].value == pytest.approx(6.0)
    assert found["speedup"].value == pytest.approx(3.0)


def test_a_class_of_processors_has_figures_of_its_boards() -> None:
    phones = target(cost=None, boards=("raspberry-pi-4", "rk3588"))
    names = {metric.name for metric in energy.modelled(phones, INT8, FLOAT)}
    assert {"energy_mj@raspberry-pi-4", "energy_mj@rk3588"} <= names
    assert "energy_mj" not in names
    with pytest.raises(ConfigError, match="'cpu' has no cost model"):
        energy.modelled(target(cost=None, boards=("cpu",)), INT8, FLOAT)


@pytest.mark.parametrize(("limit", "passed"), [(2.6, True), (1.5, False), (2.0, None), (1.7, None)])
def test_predicted_latency_is_judged_only_where_the_whole_interval_decides(limit: float, passed: bool | None) -> None:
    limits = Limits(max_latency_ms=limit)
    judged = judge_all(latency.modelled(target(), INT8, FLOAT), limits)
    assert by_name(list(judged))["latency_p50_ms"].passed is passed
    said = board_notes(target(limits=limits), INT8, judged)
    assert any("was not judged: it is modelled, somewhere from 1.6 to 2.5 ms" in note for note in said) is (
        passed is None
    )


def test_energy_size_and_memory_budgets() -> None:
    limits = Limits(max_energy_mj=3.0, max_size_bytes=100, max_ram_bytes=100)
    size = Metric(name="size_bytes", value=101, unit="bytes", origin="measured")
    ram = Metric(name="ram_bytes", value=99, unit="bytes", origin="measured")
    peak = Metric(name="peak_rss_bytes", value=5000, unit="bytes", origin="measured")
    found = by_name(list(judge_all([*energy.modelled(target(), INT8), size, ram, peak], limits)))
    assert found["energy_mj"].passed is False, "4 to 16 mJ lie above 3"
    assert found["size_bytes"].passed is False
    assert found["ram_bytes"].passed is True
    assert found["peak_rss_bytes"].passed is None
    without = by_name(list(judge_all([peak], limits)))
    assert without["peak_rss_bytes"].passed is False, "where the file does not tell, the process is judged"


def test_budgets_hold_on_every_board() -> None:
    phones = target(cost=None, boards=("raspberry-pi-4", "rk3588"), limits=Limits(max_energy_mj=1e9))
    judged = judge_all(energy.modelled(phones, FLOAT), phones.limits, boards=phones.boards)
    assert [metric.passed for metric in judged if metric.name.startswith("energy_mj")] == [True, True]


def test_a_budget_that_nothing_is_known_of_is_named() -> None:
    unknown = target(cost=None, limits=Limits(max_energy_mj=5.0))
    assert any("energy_mj was not judged: nothing is known" in note for note in board_notes(unknown, INT8, []))


def test_shares_of_energy_rank_the_steps_of_a_build() -> None:
    files = ((FLOAT, 3.0), None, (INT8, 2.0))
    found = energy.shares(target(), files)
    assert [dict(one) for one in found] == [{"b": 1.0}, {}, {"b": pytest.approx(1 / 3)}], "by the board's model"
    unknown = target(cost=None)
    found = energy.shares(unknown, files)
    assert [dict(one) for one in found] == [{"b": 1.0}, {}, {"b": pytest.approx(2 / 3)}], "by latency here"
    phones = target(cost=None, boards=("raspberry-pi-4", "rk3588"))
    small = (OpCost(name="c", kind="CONV_2D", dtype="int8", macs=100),)
    assert energy.shares(phones, ((small, 1.0), (small, 1.0))) == ({}, {}), "no board's networks were so small"
    assert energy.shares(unknown, (None, (INT8, 2.0))) == ({}, {})


def test_notes_say_how_good_ratios_without_a_cost_model_are() -> None:
    ratio = Metric(name="energy_ratio", value=2.0, unit="x", origin="modelled")
    (said,) = board_notes(target(cost=None), INT8, [ratio])
    assert "no joules" in said
    assert f"rank correlation {energy.STEADY_RANK:.3f}" in said
    joules = Metric(name="energy_mj", value=2.0, unit="mJ", origin="measured")
    assert board_notes(target(cost=None), INT8, [joules, replace(ratio, origin="measured")]) == []


def test_notes_name_the_source() -> None:
    said = board_notes(target(), INT8, energy.modelled(target(), INT8))
    assert "a wattmeter; rank correlation 0.990" in said[0]
    assert board_notes(target(cost=None), INT8, []) == []


def test_shipped_boards() -> None:
    assert {
        "raspberry-pi-4", "raspberry-pi-5", "jetson-orin-cpu", "rk3588", "pixel-class", "arm64-little", "armv7",
        "intel-n100", "intel-core",
    } <= set(known_targets())  # fmt: skip
    metered = [name for name in known_targets() if (cost := load(name).cost) and not cost.board]
    assert metered == ["jetson-orin-cpu", "raspberry-pi-4", "rk3588"]
    sister = load("raspberry-pi-5").cost
    assert sister is not None
    assert sister.board == "rk3588"
    assert sister.has_joules
    assert sister.int8.energy_factor == 2.0
    assert "modelled from an RK3588" in sister.source
    for name in ("arm64-little", "armv7", "pixel-class"):
        cost = load(name).cost
        assert cost is not None
        assert not cost.has_joules


def test_one_metered_network_scales_a_sister_board(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    plain = 'description = "d"\nbackend = "tflite"\nisa = "aarch64"\n'
    like = '[cost_like]\ntarget = "rk3588"\nfactor = 1.6\nwhy = "the same cores"\nenergy = true\n'
    path.write_text(plain + like + "energy_scale = 1.5\nlatency_scale = 2.0\n")
    mine, theirs = load(str(path)).cost, load("rk3588").cost
    assert mine is not None
    assert theirs is not None
    assert mine.int8.energy_nj.mac == pytest.approx(1.5 * theirs.int8.energy_nj.mac)
    assert mine.float32.latency_ns.fixed == pytest.approx(2.0 * theirs.float32.latency_ns.fixed)
    assert mine.int8.latency_factor == 1.6
    path.write_text(plain + like.replace("rk3588", "cpu"))
    with pytest.raises(ConfigError, match="'cpu' has no cost model"):
        load(str(path))


def counters(folder: Path, **values: tuple[int, int]) -> Path:
    for name, (value, limit) in values.items():
        package = folder / name.replace("_", ":").replace("intel:rapl", "intel-rapl")
        package.mkdir(exist_ok=True)
        (package / "energy_uj").write_text(f"{value}\n")
        (package / "max_energy_range_uj").write_text(f"{limit}\n")
    return folder


def test_the_processors_own_counter(tmp_path: Path) -> None:
    folder = counters(tmp_path, intel_rapl_0=(900, 1000), intel_rapl_1=(10, 1000), intel_rapl_0_0=(5, 1000))
    counter = Counter(folder)
    counters(tmp_path, intel_rapl_0=(100, 1000), intel_rapl_1=(60, 1000), intel_rapl_0_0=(999, 1000))
    assert counter.joules() == pytest.approx(250e-6), "it starts again at its limit; parts of a package do not count"
    assert Counter(tmp_path / "nowhere").joules() is None
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("torn")
    assert counter.joules() is None
    found = by_name(energy.measured(0.005, 0.015))
    assert found["energy_mj"].value == pytest.approx(5.0)
    assert found["energy_ratio"].value == pytest.approx(3.0)
    assert list(by_name(energy.measured(0.005))) == ["energy_mj"]


def test_without_a_cost_model_energies_differ_as_latencies_do() -> None:
    speedup = Metric(name="speedup", value=2.0, unit="x", origin="measured")
    ratio, rank = energy.by_time([speedup])
    assert (rank.name, rank.value) == ("rank_correlation", energy.STEADY_RANK)
    assert (ratio.name, ratio.value, ratio.origin) == ("energy_ratio", 2.0, "modelled")
    assert ratio.interval == pytest.approx((2.0 / energy.STEADY_FACTOR, 2.0 * energy.STEADY_FACTOR))
    ratio, _ = energy.by_time([replace(speedup, origin="modelled")])
    assert ratio.interval is None, "a stand-in's speed-up is not the target's"
    assert energy.by_time([]) == []
