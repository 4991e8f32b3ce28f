"""A finished output folder: found, checked, run and timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from graph_case import image, residual, traced

from edgeport.bundle import artifacts, bench_bundle, verify_bundle
from edgeport.errors import ConfigError, LimitError
from edgeport.graph.float_graph import FloatGraph
from edgeport.profile import load
from edgeport.report.report import Report
from edgeport.stages.lower import lower
from edgeport.stages.pack import check_output, pack
from edgeport.store import Store

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a real bundle of a float file."""
    from edgeport.backends import onnxruntime

    folder = tmp_path_factory.mktemp("bundle")
    graph = FloatGraph.from_model(traced(residual(), image()))
    floating = lower(Store(folder / "store"), onnxruntime, load("cpu"), lambda: graph, source_key="k")  # type: ignore[arg-type]  # a module is one
    out = folder / "out"
    check_output(out)
    pack(out, {"cpu": (floating, floating)}, (), classes=(), facts={}, report=Report(model="n", stages=(), targets={}))
    return out


@pytest.fixture
def bundle(packed: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(packed, tmp_path / "out"))


def test_artifacts_of_a_folder_or_of_one_target(bundle: Path) -> None:
    assert artifacts(bundle) == artifacts(bundle / "cpu") == (bundle / "cpu" / "model.onnx",)
    (bundle / "intel").mkdir()
    for name in ("model.xml", "model.bin", "model-float.xml", "model.txt"):
        (bundle / "intel" / name).touch()
    assert artifacts(bundle) == (bundle / "cpu" / "model.onnx", bundle / "intel" / "model.xml")


def test_folder_without_artifacts_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model\.tflite, model\.xml or model\.onnx in"):
        artifacts(tmp_path)


def test_whole_bundle_is_verified_and_run(bundle: Path) -> None:
    lines = list(verify_bundle(bundle))
    listed = sorted(json.loads((bundle / "manifest.json").read_text())["files"])
    assert lines[:-1] == [f"ok       {name}" for name in listed]
    assert lines[-1].startswith("runs     cpu/model.onnx (")
    assert lines[-1].endswith(" ms, measured on this machine)")


def test_damage_is_told_file_by_file(bundle: Path) -> None:
    with (bundle / "cpu" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    (bundle / "cpu" / "io.json").unlink()
    seen: list[str] = []
    with pytest.raises(LimitError, match=r"cpu/io\.json is missing; cpu/model\.onnx is changed"):
        seen.extend(verify_bundle(bundle))
    found = verify_bundle(bundle)
    lines = [next(found) for _ in range(4)]
    assert {"missing  cpu/io.json", "changed  cpu/model.onnx", "ok       cpu/model-float.onnx"} <= set(lines)


def test_folder_without_a_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no manifest\.json in"):
        list(verify_bundle(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}', '{"files": {"a": {}}}', "3"])
def test_file_that_is_no_manifest_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    (tmp_path / "a").touch()
    with pytest.raises(ConfigError, match="is not a manifest of edgeport build"):
        list(verify_bundle(tmp_path))


def test_manifest_that_points_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    (tmp_path / "out").mkdir()
    for name in ("../secret", str(tmp_path / "secret")):
        (tmp_path / "out" / "manifest.json").write_text(json.dumps({"files": {name: {"sha256": "0"}}}))
        with pytest.raises(ConfigError, match="is not a manifest of edgeport build"):
            list(verify_bundle(tmp_path / "out"))


def test_shipped_and_float_file_are_timed(bundle: Path) -> None:
    lines = list(bench_bundle(bundle, threads=1))
    assert [line.partition(":")[0] for line in lines] == ["cpu/model.onnx", "cpu/model-float.onnx"]
    for line in lines:
        assert line.endswith(" ms, 1 thread, measured on this machine")
    (bundle / "cpu" / "model-float.onnx").unlink()
    assert [line.partition(":")[0] for line in bench_bundle(bundle / "cpu", threads=1)] == ["model.onnx"]
