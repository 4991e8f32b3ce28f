"""The speed of int8 on the real runtimes: what is measured, what is tried, what is said, and that it is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from lowering_case import float_graph, profile, samples

from edgeport.backends import NAMES, backend
from edgeport.dataset import Dataset, open_dataset
from edgeport.devices import host
from edgeport.errors import LoweringError
from edgeport.quant.scheme import Scheme
from edgeport.stages.alternatives import layer_times
from edgeport.stages.lower import Lowered, lower
from edgeport.stages.speed import Choice, Setting, choose_fast
from edgeport.store import Store

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tflite": "litert_converter"}


class Case:
    """One network on one runtime, with a store of its own."""

    def __init__(self, name: str, runtime: str, folder: Path) -> None:
        pytest.importorskip(PACKAGES[runtime], reason=f"needs pip install 'edgeport[{runtime}]'")
        self.name, self.folder = name, folder
        self.store = Store(folder / "store")
        self.store.prepare()
        self.profile, self.backend = profile(runtime), backend(runtime)
        self.graph = float_graph(name)
        self.floating = self.lower(None)

    def lower(self, scheme: Scheme | None) -> Lowered:
        return lower(
            self.store,
            self.backend,
            self.profile,
            lambda: self.graph,
            source_key=self.name,
            float_file=None if scheme is None else self.floating,
            scheme=scheme,
        )

    def tune(self) -> Dataset:
        arrays = samples(self.name, seed=2)
        names = ["x"] if len(arrays) == 1 else [f"x{index}" for index in range(len(arrays))]
        np.savez(self.folder / "tune.npz", **dict(zip(names, arrays, strict=True)))  # type: ignore[arg-type]  # numpy's stub
        return open_dataset(str(self.folder / "tune.npz"))

    def choose(self, *, origin: Literal["measured", "modelled"] = "measured", has_tune: bool = True) -> Choice:
        setting = Setting(
            profile=self.profile, origin=origin, tune=self.tune() if has_tune else None, graph=lambda: self.graph
        )
        return choose_fast(self.store, self.lower, self.floating, Scheme.of(self.profile), setting)


def test_tiny_network_gets_alternatives_and_a_verdict(tmp_path: Path) -> None:
    """Of 2 kB of multiply-adds, quantizing and changing the layout takes longer than float32 altogether."""
    case = Case("two_by_two", "onnxruntime", tmp_path)
    choice = case.choose()
    assert {row.change for row in choice.tried} >= {"one weight scale a layer instead of one a channel"}
    verdict = next(note for note in choice.notes if note.startswith("int8 is no faster than float32"))
    assert "measured" in verdict
    assert "model-float.onnx is the better file" in verdict
    spots = {(spot.kind, spot.operator): spot for spot in choice.slow_spots}
    assert ("transposed", "Transpose") in spots
    edge = spots["converted", "QuantizeLinear"]
    assert "/picture" in edge.layers
    assert edge.ms is not None
    assert edge.time_share is not None
    assert 0 < edge.time_share < 1


def test_choice_is_kept_so_that_a_rebuild_gives_the_same_bytes(tmp_path: Path) -> None:
    case = Case("two_by_two", "onnxruntime", tmp_path)
    first, second = case.choose(), case.choose()
    assert second == first  # timings too: nothing was measured again
    assert case.lower(second.scheme).key == case.lower(first.scheme).key


def test_stand_in_is_reported_and_changes_nothing(tmp_path: Path) -> None:
    case = Case("two_by_two", "onnxruntime", tmp_path)
    choice = case.choose(origin="modelled")
    assert choice.scheme == Scheme.of(case.profile)
    assert choice.tried == []
    verdict = next(note for note in choice.notes if note.startswith("int8 is no faster"))
    assert "modelled" in verdict
    assert "nothing was changed for a stand-in" in verdict


def test_without_tune_data_nothing_is_chosen(tmp_path: Path) -> None:
    choice = Case("two_by_two", "onnxruntime", tmp_path).choose(has_tune=False)
    assert choice.tried == []
    assert any("no tune data" in note for note in choice.notes)


@pytest.mark.parametrize("runtime", NAMES)
def test_runtime_lists_what_it_ran(runtime: str, tmp_path: Path) -> None:
    case = Case("residual", runtime, tmp_path)
    shipped = case.lower(Scheme.of(case.profile))
    ran, float_ran = host.profile((shipped.artifact.path, case.floating.artifact.path), runs=5)
    multiplies = {"onnxruntime": "QLinearConv", "openvino": "Convolution", "tflite": "CONV_2D"}[runtime]
    assert multiplies in {op.kind for op in ran}
    if runtime == "tflite":
        assert {op.ms for op in ran} == {None}
        assert {op.kernel for op in ran if op.kind == "CONV_2D"} == {"xnnpack"}
    else:
        assert all(op.ms is not None and op.ms >= 0 for op in (*ran, *float_ran))
        keys = {key for key in case.graph.provenance.values() if key.endswith(("/conv2d", "/linear"))}
        assert set(layer_times(case.graph, ran, float_ran)) == keys


def test_operator_that_xnnpack_does_not_take_is_named(tmp_path: Path) -> None:
    """XNNPACK of LiteRT 2.3 has no hard swish on integers."""
    choice = Case("gated", "tflite", tmp_path).choose(origin="modelled")
    spot = next(spot for spot in choice.slow_spots if spot.operator == "HARD_SWISH")
    assert spot.kind == "undelegated"
    assert spot.layers == ("/hardswish",)
    assert spot.ms is None
    assert spot.bytes_share > 0


def test_shortcut_with_a_strided_slice_stays_with_xnnpack(tmp_path: Path) -> None:
    case = Case("residual", "tflite", tmp_path)
    shipped = case.lower(Scheme.of(case.profile))
    for path in (shipped.artifact.path, case.floating.artifact.path):
        (ran,) = host.profile((path,), runs=1)
        assert {op.kernel for op in ran} == {"xnnpack"}


def test_layer_in_float_is_a_spot_with_its_share_of_the_work(tmp_path: Path) -> None:
    case = Case("linear_only", "onnxruntime", tmp_path)
    key = next(key for key in case.graph.provenance.values() if key.startswith("2/"))
    scheme = replace(Scheme.of(case.profile), raised={key: "float32"})
    setting = Setting(profile=case.profile, origin="modelled", tune=None, graph=lambda: case.graph)
    choice = choose_fast(case.store, case.lower, case.floating, scheme, setting)
    spot = next(spot for spot in choice.slow_spots if (spot.kind, spot.operator) == ("float", "Gemm"))
    assert spot.layers == (key,)
    assert spot.macs_share == pytest.approx(32 * 32 / (20 * 32 + 32 * 32 + 32 * 6))


def test_alternative_that_cannot_be_written_is_said_and_passed_over(tmp_path: Path) -> None:
    case = Case("two_by_two", "onnxruntime", tmp_path)

    def write(scheme: Scheme) -> Lowered:
        if not scheme.per_channel:
            raise LoweringError("this runtime has no such file")
        return case.lower(scheme)

    setting = Setting(profile=case.profile, origin="measured", tune=case.tune(), graph=lambda: case.graph)
    choice = choose_fast(case.store, write, case.floating, Scheme.of(case.profile), setting)
    assert choice.notes[0].startswith("not possible: one weight scale a layer")
    assert choice.notes[0].endswith("this runtime has no such file")
    assert choice.scheme.per_channel
