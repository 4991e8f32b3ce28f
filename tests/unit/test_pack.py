"""The output folder: everything of this build, nothing of an earlier one, nothing half."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeport.devices import agent_file
from edgeport.errors import ConfigError
from edgeport.pruning.structure import CutGroup, CutHead, InputShape, Structure
from edgeport.report.report import Report, read_report
from edgeport.stages.lower import Lowered
from edgeport.stages.pack import artifact_name, check_output, pack
from edgeport.store import file_digest
from edgeport.types import Artifact, Metric, TargetResult


def lowered(folder: Path, *names: str, content: str = "") -> Lowered:
    """Return an artifact of those files in a store entry."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"{folder.name} {name} {content}")
    (folder / "io.json").write_text(f'{{"of": "{folder.name}"}}')
    files = tuple(folder / name for name in names)
    artifact = Artifact(path=files[0], backend="openvino", precision="int8", files=files)
    return Lowered(key=folder.name, artifact=artifact, costs=(), quality={}, seconds=1.0)


def stage(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"{folder.name} {name}")
    return folder


def report(*names: str, value: float = 1.0, **failures: str) -> Report:
    metric = Metric(name="macs", value=value, unit="macs", origin="measured")
    targets = {name: TargetResult(artifact=f"{name}/model.xml", metrics=(metric,)) for name in names}
    return Report(model="net", stages=(), targets=targets, failures=failures)


@pytest.fixture
def built(tmp_path: Path) -> dict[str, tuple[Lowered, Lowered]]:
    entries = tmp_path / "entries"
    pair = (
        lowered(entries / "int8", "model.xml", "model.bin"),
        lowered(entries / "float", "model.xml", "model.bin"),
    )
    return {"intel": pair, "arm64": (lowered(entries / "a8", "model.tflite"), lowered(entries / "a32", "model.tflite"))}


@pytest.fixture
def stages(tmp_path: Path) -> list[Path]:
    entries = tmp_path / "stages"
    return [
        stage(entries / "trace", "model.safetensors", "record.json"),
        stage(entries / "prune", "model.safetensors", "structure.json", "record.json"),
        stage(entries / "distill", "model.safetensors", "record.json"),
        stage(entries / "calibrate", "calibration.npz", "record.json"),
    ]


def content(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in ("manifest.json", "report.json", "benchmark.py")
    }


def test_layout(tmp_path: Path, built: dict[str, tuple[Lowered, Lowered]], stages: list[Path]) -> None:
    out = tmp_path / "out"
    check_output(out)
    made = report("intel", "arm64")
    pack(out, built, stages, classes=("cat", "dög"), facts={"seed": 3}, report=made)
    assert content(out) == {
        "arm64/io.json": '{"of": "a8"}',
        "arm64/labels.txt": "cat\ndög\n",
        "arm64/model-float.tflite": "a32 model.tflite ",
        "arm64/model.tflite": "a8 model.tflite ",
        "intel/io.json": '{"of": "int8"}',
        "intel/labels.txt": "cat\ndög\n",
        "intel/model-float.bin": "float model.bin ",
        "intel/model-float.xml": "float model.xml ",
        "intel/model.bin": "int8 model.bin ",
        "intel/model.xml": "int8 model.xml ",
        "model.safetensors": "distill model.safetensors",  # the last stage that has weights
        "structure.json": "prune structure.json",
    }
    assert (out / "arm64" / "benchmark.py").read_bytes() == agent_file().read_bytes()
    assert read_report(out) == made


def test_structure_of_a_cut_head_and_of_cut_channels_are_one(
    tmp_path: Path, built: dict[str, tuple[Lowered, Lowered]], stages: list[Path]
) -> None:
    head = CutHead(layer="linear", classes=10, kept=(3, 5))
    group = CutGroup(layers=("conv",), channels=4, kept=(0, 2))
    inputs = (InputShape(name="x", shape=(3, 8, 8), dtype="float32"),)
    Structure(inputs=inputs, head=head).save(stages[0])
    pack(tmp_path, built, stages[:1], classes=(), facts={}, report=report("intel", "arm64"))
    assert Structure.load(tmp_path) == Structure(inputs=inputs, head=head)
    Structure(inputs=inputs, groups={"conv": group}).save(stages[1])
    pack(tmp_path, built, stages, classes=(), facts={}, report=report("intel", "arm64"))
    cut = Structure(inputs=inputs, groups={"conv": group})
    assert Structure.load(tmp_path) == Structure(inputs=inputs, head=head, then=cut)


def test_manifest_lists_every_file_with_its_digest(
    tmp_path: Path, built: dict[str, tuple[Lowered, Lowered]], stages: list[Path]
) -> None:
    pack(
        tmp_path, built, stages, classes=(), facts={"seed": 3, "data": {"evaluate": 1}}, report=report("intel", "arm64")
    )
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["schema"], manifest["seed"], manifest["data"]) == (1, 3, {"evaluate": 1})
    listed = manifest["files"]
    there = {*content(tmp_path / "intel"), "benchmark.py"}
    assert {name for name in listed if name.startswith("intel/")} == {f"intel/{name}" for name in there}
    assert {"model.safetensors", "structure.json"} <= set(listed)
    assert "report.json" not in listed  # it holds timings: two builds differ
    for name, facts in listed.items():
        assert facts == {"sha256": file_digest(tmp_path / name), "bytes": (tmp_path / name).stat().st_size}


def test_packing_twice_gives_the_same_manifest(
    tmp_path: Path, built: dict[str, tuple[Lowered, Lowered]], stages: list[Path]
) -> None:
    texts = []
    for name in ("a", "b"):
        check_output(tmp_path / name)
        pack(tmp_path / name, built, stages, classes=(), facts={}, report=report("intel", "arm64"))
        texts.append((tmp_path / name / "manifest.json").read_bytes())
    assert texts[0] == texts[1]
    assert str(tmp_path).encode() not in texts[0]


def test_rebuild_replaces_and_removes_what_is_no_longer_built(
    tmp_path: Path, built: dict[str, tuple[Lowered, Lowered]], stages: list[Path]
) -> None:
    out = tmp_path / "out"
    check_output(out)
    pack(out, built, stages, classes=("cat",), facts={}, report=report("intel", "arm64"))
    (out / "my notes.txt").write_text("the user's own")
    newer = lowered(tmp_path / "entries" / "new", "model.tflite", content="new")
    pack(out, {"arm64": (newer, newer)}, stages[:1], classes=(), facts={}, report=report("arm64", value=2.0))
    found = content(out)
    assert found["arm64/model.tflite"] == "new model.tflite new"
    assert found["model.safetensors"] == "trace model.safetensors"
    assert "structure.json" not in found  # this network is not pruned
    assert "arm64/labels.txt" not in found  # this data has no class names
    assert found["my notes.txt"] == "the user's own"
    assert read_report(out) == report("arm64", value=2.0)


def test_failed_packing_keeps_the_earlier_build(
    tmp_path: Path, built: dict[str, tuple[Lowered, Lowered]], stages: list[Path]
) -> None:
    out = tmp_path / "out"
    check_output(out)
    pack(out, built, stages, classes=(), facts={}, report=report("intel", "arm64"))
    before, manifest = content(out), (out / "manifest.json").read_bytes()
    shutil.rmtree(built["arm64"][0].artifact.path.parent)  # as when the disk fails while files are copied
    with pytest.raises(FileNotFoundError):
        pack(out, built, stages, classes=("new",), facts={}, report=report("intel", "arm64", value=9.0))
    assert content(out) == before
    assert (out / "manifest.json").read_bytes() == manifest
    assert read_report(out) == report("intel", "arm64")


def test_build_without_a_target_still_has_its_report(tmp_path: Path, stages: list[Path]) -> None:
    made = report(intel="operator 'fft' has no form")
    pack(tmp_path, {}, stages, classes=("cat",), facts={}, report=made)
    assert json.loads((tmp_path / "report.json").read_text())["targets"] == {"intel": {"artifact": None, "metrics": []}}
    assert not (tmp_path / "intel").exists()


def test_artifact_is_named_by_target_and_file(built: dict[str, tuple[Lowered, Lowered]]) -> None:
    assert {name: artifact_name(name, pair[0]) for name, pair in built.items()} == {
        "intel": "intel/model.xml",
        "arm64": "arm64/model.tflite",
    }


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)


def test_output_folder_is_made_or_refused(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    check_output(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=f"output folder '{path}' cannot be made: "):
            check_output(path)


def test_output_folder_that_is_not_writable_is_refused(locked: Path) -> None:
    import os

    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    with pytest.raises(ConfigError, match=f"output folder '{locked}' is not writable"):
        check_output(locked)
