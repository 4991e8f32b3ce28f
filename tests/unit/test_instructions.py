"""Instruction counts in a build: names of figures, what is kept, what is said where a core cannot be counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edgeport.devices import counting
from edgeport.devices.counting import Counted, Counts
from edgeport.devices.device import Device
from edgeport.errors import ConfigError, MissingPackageError, StageError
from edgeport.profile import load
from edgeport.stages.lower import Lowered
from edgeport.store import Store
from edgeport.types import Artifact, OpCost
from edgeport.validation.instructions import CoreCounts, counted, metrics, names_cores_to_count
from edgeport.validation.operator_counts import Breakdown, fused, less

INT8 = Counts(instructions=500, load_bytes=90, store_bytes=30, l1d_misses=7, l2_misses=2, classes={"sdot": 100})
FLOAT = Counts(instructions=1500, load_bytes=360, store_bytes=120)


def lowered(folder: Path, name: str) -> Lowered:
    (folder / name).write_bytes(b"")
    artifact = Artifact(path=folder / name, backend="tflite", precision="int8", files=(folder / name,))
    costs = (OpCost(name="a", kind="CONV_2D", dtype="int8", macs=800), OpCost(name="b", kind="ADD", dtype="int8"))
    return Lowered(key=name, artifact=artifact, costs=costs, quality={}, seconds=0.0)


def device(core: str) -> Device:
    return Device(name=f"qemu:{core}", command=("qemu-aarch64",), is_emulated=True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return (device, number of files) of each count that is not taken from the store."""
    made: list[tuple[str, int]] = []

    def count(paths: list[Path], where: Device) -> Counted:
        made.append((where.name, len(paths)))
        if where.name == "qemu:cortex-a72":
            raise StageError(f"{paths[0].parent}/model.tflite on qemu:cortex-a72: its runtime crashed")
        return Counted(counts=(INT8, FLOAT)[: len(paths)], runtime="ai-edge-litert", runtime_version="2.3.0")

    monkeypatch.setattr(counting, "count", count)
    monkeypatch.setattr(counting, "identity", lambda where: where.name)
    return made


def test_only_targets_with_cores_of_their_own_are_counted() -> None:
    wanted = [name for name in ("arm64", "cpu", "intel", "raspberry-pi-4") if names_cores_to_count(load(name))]
    assert wanted == ["arm64", "raspberry-pi-4"]


def test_figures_carry_core_and_file() -> None:
    both = CoreCounts(precision="int8", macs=800, shipped=INT8, floating=FLOAT, runtime="r", seconds=1.0)
    found = {metric.name: (metric.value, metric.unit) for metric in metrics({"cortex-a76": both})}
    assert found == {
        "instructions": (500, "instructions"),
        "instructions@cortex-a76": (500, "instructions"),
        "load_bytes@cortex-a76": (90, "bytes"),
        "store_bytes@cortex-a76": (30, "bytes"),
        "l1d_misses@cortex-a76": (7, "lines"),
        "l2_misses@cortex-a76": (2, "lines"),
        "instructions@cortex-a76@float32": (1500, "instructions"),
        "load_bytes@cortex-a76@float32": (360, "bytes"),
        "store_bytes@cortex-a76@float32": (120, "bytes"),
    }
    assert {metric.origin for metric in metrics({"cortex-a76": both})} == {"emulated"}
    assert metrics({}) == ()


def test_counts_are_kept_and_a_failing_core_is_told(tmp_path: Path, calls: list[tuple[str, int]]) -> None:
    store = Store(tmp_path / "store")
    files = lowered(tmp_path, "model.tflite"), lowered(tmp_path, "model-float.tflite")
    first = counted(store, *files, load("arm64"), device)
    assert calls == [("qemu:cortex-a53", 2), ("qemu:cortex-a72", 2), ("qemu:cortex-a76", 2)]
    assert list(first.cores) == ["cortex-a53", "cortex-a76"]
    assert (first.cores["cortex-a53"].macs, first.cores["cortex-a53"].runtime) == (800, "ai-edge-litert 2.3.0")
    assert first.notes == ("instructions not counted on cortex-a72: model.tflite: its runtime crashed",)
    second = counted(store, *files, load("arm64"), device)
    assert second == first
    assert calls[3:] == [("qemu:cortex-a72", 2)]
    counted(store, replace(files[0], key="changed"), files[1], load("arm64"), device)
    assert len(calls) == 7


def test_float_build_counts_its_one_file(tmp_path: Path, calls: list[tuple[str, int]]) -> None:
    file = lowered(tmp_path, "model.tflite")
    found = counted(Store(tmp_path / "store"), file, file, load("arm64"), device)
    assert calls[0] == ("qemu:cortex-a53", 1)
    assert found.cores["cortex-a53"].floating is None
    assert not [metric.name for metric in found.metrics if metric.name.endswith("@float32")]


@pytest.mark.parametrize("error", [ConfigError("qemu:x needs Linux"), MissingPackageError("no qemu: apt-get install")])
def test_what_is_missing_is_one_note_of_all_cores(tmp_path: Path, error: Exception) -> None:
    def absent(core: str) -> Device:
        raise error

    file = lowered(tmp_path, "model.tflite")
    found = counted(Store(tmp_path / "store"), file, file, load("arm64"), absent)
    assert found.notes == (f"instructions not counted on cortex-a53, cortex-a72, cortex-a76: {error}",)
    assert (found.metrics, dict(found.cores), found.seconds) == ((), {}, 0.0)


def plain(instructions: int) -> Counts:
    return Counts(
        instructions=instructions, load_bytes=instructions, store_bytes=0, classes={"simd": instructions // 2}
    )


def test_what_a_pair_saves_is_taken_off_the_operator_with_fewer_macs() -> None:
    # call 40; padding 1000 alone, convolution 600, linear 300; the runtime pads within the convolution: 40 + 620
    alone = Breakdown(whole=plain(960), call=plain(40), operators=(plain(1000), plain(600), plain(300)))
    assert alone.deviation_percent == pytest.approx(100 * (1940 / 960 - 1))
    found = fused(alone, {(0, 1): plain(660), (1, 2): plain(935)}, macs=[0, 800, 50])
    assert [counts.instructions for counts in found.operators] == [20, 600, 300]
    assert found.fused == {0: 1}
    assert found.deviation_percent == pytest.approx(0)


def test_differences_do_not_fall_below_zero() -> None:
    found = less(Counts(instructions=5, load_bytes=1, store_bytes=9, l1d_misses=4, classes={"simd": 2}), plain(7))
    assert found == Counts(instructions=0, load_bytes=0, store_bytes=9, classes={"simd": 0})


def test_float_file_without_zeros_is_told_from_the_dense_one(tmp_path: Path, calls: list[tuple[str, int]]) -> None:
    files = []
    for name in ("sparse.tflite", "dense.tflite"):
        made = lowered(tmp_path, name)
        files.append(replace(made, artifact=replace(made.artifact, precision="float32")))
    profile = msgspec.structs.replace(load("arm64"), cores=("cortex-a76",))
    found = counted(Store(tmp_path / "store"), files[0], files[1], profile, device)
    assert calls == [("qemu:cortex-a76", 2)]
    assert found.cores["cortex-a76"].precision == "sparse float32"
