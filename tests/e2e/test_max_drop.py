"""`--max-drop`: the fewest layers are raised until a network that int8 breaks holds its limit on every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e_builds import Build, build
from e2e_case import available_targets, edgeport, files_of, metrics_of, refused, target_or_skip

from edgeport.demo import data
from edgeport.demo.data import split

DATA = Path(data.__file__)
NETWORKS = Path(__file__).with_name("fragile_network.py")
WITHOUT_VNNI = {
    "arm64": "arm64",
    "cpu": "cpu",
    "intel": "intel-avx2",
}  # `intel` needs VNNI to answer the same everywhere
LIMIT = 0.1  # points: 1 of the 1,000 tune samples, none of the 500 evaluation samples
MOST_RAISED = 3
COMMON = (
    f"{NETWORKS}:fragile",
    *("--calibrate", f"{DATA}:calibrate"),
    *("--evaluate", f"{DATA}:evaluate"),
    *("--correction", "none", "--calibration", "minmax"),  # others may mend the network before a layer has to be raised
)


@pytest.fixture(scope="module")
def targets() -> tuple[str, ...]:
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    found = tuple(WITHOUT_VNNI[name] for name in available_targets())
    if not found:
        pytest.skip("no runtime is installed")
    return found


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory, targets: tuple[str, ...]) -> Build:
    """Return the fragile network, built within a limit."""
    limit = ("--tune", f"{DATA}:train", "--max-drop", str(LIMIT))
    return build(tmp_path_factory.mktemp("held"), *COMMON, *limit, "--target", ",".join(targets))


def control(report: dict[str, Any], target: str) -> dict[str, Any]:
    """Return what the report says was done to hold the limit."""
    lower = next(stage for stage in report["stages"] if stage["name"] == "lower")
    found: dict[str, Any] = lower["metrics"][target]["control"]
    return found


def test_fragile_network_breaks_the_limit_in_plain_int8(held: Build, targets: tuple[str, ...]) -> None:
    without = built_again(held, "--target", ",".join(targets), "--output", "plain")
    for target in targets:
        assert metrics_of(without, target)["top1_drop"]["value"] > LIMIT


def built_again(held: Build, *arguments: str) -> dict[str, Any]:
    """Return the report of another build in the same store."""
    return edgeport("build", *COMMON, *arguments, "--json", store=held.store, cwd=held.cwd).report()


def test_limit_is_held_with_at_most_three_layers_raised(held: Build, targets: tuple[str, ...]) -> None:
    assert held.run.code == 0, held.run.err
    report = held.report()
    for target in targets:
        drop, found = metrics_of(report, target)["top1_drop"], control(report, target)
        assert (drop["limit"], drop["passed"]) == (LIMIT, True)
        assert 1 <= len(found["raised"]) <= MOST_RAISED
        assert found["lost_int8"] > found["lost_allowed"] >= found["lost"]
        assert "downsample.pointwise/conv2d" in found["raised"]  # it reads what was spread
        assert found["added_bytes"] > 0
        assert found["latency_ratio"] > 0


def test_rebuild_chooses_the_same_without_choosing_again(held: Build, tmp_path: Path) -> None:
    again = held.again(output=tmp_path / "again")
    assert "rank layers" in held.run.err
    assert "rank layers" not in again.err
    assert files_of(tmp_path / "again") == files_of(held.output)


def test_report_prints_the_raised_layers(held: Build, targets: tuple[str, ...]) -> None:
    printed = edgeport("report", held.output, store=held.store, cwd=held.cwd).out
    text = " ".join(printed.split())
    for target in targets:
        assert control(held.report(), target)["sentence"] in text


def test_too_few_samples_to_tune_on_are_told(tmp_path: Path) -> None:
    target = target_or_skip("cpu")
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    np.savez(tmp_path / "nine.npz", x=split("calibrate")[0][:9])
    run = edgeport(
        *("build", f"{NETWORKS}:fragile", "--target", target, "--output", "out", "--json"),
        *("--calibrate", tmp_path / "nine.npz", "--evaluate", f"{DATA}:evaluate", "--max-drop", "100"),
        store=tmp_path / "store",
    )
    assert control(run.report(), target)["raised"] == {}
    assert "there are no samples to choose them on; give --tune DATA" in control(run.report(), target)["sentence"]


def test_a_limit_without_class_scores_is_refused(tmp_path: Path) -> None:
    target = target_or_skip("cpu")
    np.savez(
        tmp_path / "x.npz", x=np.zeros((20, 1, 8, 8), np.float32) + np.arange(20, dtype=np.float32)[:, None, None, None]
    )
    run = edgeport(
        *("build", f"{NETWORKS}:edges", "--target", target, "--output", "out"),
        *("--calibrate", tmp_path / "x.npz", "--max-drop", "0.5"),
        store=tmp_path / "store",
    )
    refused(run, 2, "--max-drop 0.5", "class scores", "2x8x8", output=tmp_path / "out")


def test_tune_samples_that_are_evaluated_on_are_refused(tmp_path: Path) -> None:
    target = target_or_skip("cpu")
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    run = edgeport(
        *("build", *COMMON, "--tune", f"{DATA}:evaluate", "--max-drop", "0.1", "--target", target, "--output", "out"),
        store=tmp_path / "store",
    )
    refused(run, 2, "--tune", "--evaluate", "500 samples are in both", output=tmp_path / "out")
