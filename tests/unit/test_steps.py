"""What the report says where a pruned file is slower than its multiply-adds promise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from edgeport import profile
from edgeport.formats import OpTime
from edgeport.steps import Step, shortfall, step_notes
from edgeport.store import Store
from edgeport.types import OpCost


def row(step: str, macs: int, latency: float | None) -> Step:
    return Step(
        step=step,
        top1=90.0,
        agreement=100.0,
        macs=macs,
        weights_nonzero=10,
        size_bytes=10,
        latency_p50_ms=latency,
        origin="measured",
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.prepare()
    return made


def said(store: Store, before: float | None, after: float, monkeypatch: pytest.MonkeyPatch) -> str:
    rows = [row("float", 1000, before), row("prune", 500, after), row("int8", 500, 0.1)]
    costs = (OpCost(name="conv", kind="Conv", dtype="float32", macs=500, activation_bytes=10),)
    file = SimpleNamespace(key="k", costs=costs, artifact=SimpleNamespace(path=Path("model.onnx")))
    looks = []

    def profiled(*arguments: object, **options: object) -> tuple[tuple[OpTime, ...], ...]:
        looks.append(arguments)
        return (tuple(OpTime(name=name, kind=name, kernel="", ms=0.5) for name in ("conv", "add")),)

    monkeypatch.setattr("edgeport.steps.host.profile", profiled)
    first = shortfall(store, profile.load("cpu"), (file, file), rows)  # type: ignore[arg-type]  # what it reads of files
    assert shortfall(store, profile.load("cpu"), (file, file), rows) == first  # type: ignore[arg-type]  # as above
    assert len(looks) <= 1  # the second time it is read from the store: times differ from look to look
    return first


def test_a_file_that_keeps_the_promise_says_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not said(store, 1.3, 1.0, monkeypatch)  # 1.3x of 2x is 65 %
    assert not said(store, None, 1.0, monkeypatch)


def test_a_slower_one_says_where_its_time_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(store, 1.1, 1.0, monkeypatch) == (
        "with 2.00x fewer multiply-adds the float file is 1.10x faster (measured), less than 60% of that: of the"
        " operators' time, 50% bound by arithmetic (conv), 50% longer than their arithmetic and bytes explain (add)"
    )


def test_a_step_that_a_runtime_cannot_express_is_named_with_its_reason(store: Store) -> None:
    missing = msgspec.structs.replace(row("float", 500, None), size_bytes=None, why_no_file="operator 'roll' of 'a'")
    rows = [missing, row("prune", 500, 1.0), row("int8", 500, 0.1)]
    file = SimpleNamespace(key="k", artifact=SimpleNamespace(precision="float32"))
    said = step_notes(store, profile.load("cpu"), (file, file), rows)  # type: ignore[arg-type]  # what it reads of files
    assert said == ["no file of step float: operator 'roll' of 'a'"]


def test_a_pruned_int8_file_always_says_what_holds_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = (OpTime(name="conv", kind="Conv", kernel="", ms=0.5),)
    monkeypatch.setattr("edgeport.steps.host.profile", lambda *arguments, **options: (ran,))
    costs = (OpCost(name="conv", kind="Conv", dtype="int8", macs=500, activation_bytes=10),)
    artifact = SimpleNamespace(path=Path("model.onnx"), precision="int8")
    file = SimpleNamespace(key="k", costs=costs, artifact=artifact)
    rows = [row("float", 1000, 2.0), row("prune", 500, 1.0), row("int8", 500, 0.1)]
    said = step_notes(store, profile.load("cpu"), (file, file), rows)  # type: ignore[arg-type]  # what it reads of files
    assert said == ["the pruned int8 file: of the operators' time, 100% bound by arithmetic (conv)"]
    whole = [row("float", 500, 1.0), row("int8", 500, 0.1)]
    assert step_notes(store, profile.load("cpu"), (file, file), whole) == []  # type: ignore[arg-type]  # as above


def test_steps_are_ranked_by_energy_where_there_are_no_joules(store: Store) -> None:
    rows = [row("float", 1000, None), row("prune", 1000, None), row("int8", 1000, 0.1)]
    rows = [
        msgspec.structs.replace(one, energy_shares=shares)
        for one, shares in zip(rows, ({"cpu": 1.0}, {}, {"cpu": 0.25}), strict=True)
    ]
    (note,) = step_notes(store, profile.load("cpu"), (), rows)  # type: ignore[arg-type]  # reads no files then
    assert note == "least energy first, of what float takes: int8 0.25, float 1.00 (modelled)"
    board = profile.load("raspberry-pi-4")
    metered = [msgspec.structs.replace(one, energy_shares={"raspberry-pi-4": 1.0}) for one in rows]
    assert not step_notes(store, board, (), metered)  # type: ignore[arg-type]  # it has joules
