"""`edgeport debug` names layer and runtime of mistakes put into one finished file, and no one where no one is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from debug_faults import onnx_fault, openvino_fault, tflite_fault
from e2e_builds import Build, build
from e2e_case import NETWORKS, edgeport, refused, target_or_skip, write_samples

from edgeport.debugging.debug import Debugged, debug
from edgeport.report.debug_plot import plot
from edgeport.report.debug_table import debugged_json, sentences

pytest_plugins = ("e2e_builds",)
pytestmark = pytest.mark.slow  # builds for three runtimes, then looks into six files a test

TARGETS = {"tflite": "arm64", "onnxruntime": "cpu", "openvino": "intel-avx2"}  # 7-bit weights: nothing saturates
INSTALLED_FOR = {"tflite": "arm64", "onnxruntime": "cpu", "openvino": "intel"}
LAYER = "down/conv2d"  # the second convolution of the network, with a ReLU in it
Spoil = Callable[[Path, str], None]
SPOIL: dict[tuple[str, str], tuple[str, Spoil]] = {
    ("onnxruntime", "int8"): ("model.onnx", lambda path, fault: onnx_fault(path, fault, "relu_1")),
    ("onnxruntime", "float32"): ("model-float.onnx", lambda path, fault: onnx_fault(path, fault, "conv2d_1")),
    ("tflite", "int8"): ("model.tflite", lambda path, fault: tflite_fault(path, fault, LAYER)),
    ("tflite", "float32"): ("model-float.tflite", lambda path, fault: tflite_fault(path, fault, LAYER)),
    ("openvino", "int8"): ("model.xml", lambda path, fault: openvino_fault(path, fault, "conv2d_1")),
    ("openvino", "float32"): ("model-float.xml", lambda path, fault: openvino_fault(path, fault, "conv2d_1")),
}
FAULTS = ("scale", "channels", "bias", "padding")


def built(folder: Path, network: str) -> Build:
    """Build a network of these tests for all three runtimes."""
    for target in INSTALLED_FOR.values():
        target_or_skip(target)
    for name, seed in (("calibrate", 0), ("evaluate", 1)):
        write_samples(folder / f"{name}.npz", {"x": (64 if name == "calibrate" else 16, 3, 16, 16)}, seed=seed)
    data = ("--calibrate", "calibrate.npz", "--evaluate", "evaluate.npz")
    made = build(folder, f"{NETWORKS}:{network}", *data, "--target", ",".join(TARGETS.values()))
    assert (made.output / "network.json").is_file(), made.run.err
    return made


@pytest.fixture(scope="module")
def biased_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a finished build of a residual network whose biases matter."""
    return built(tmp_path_factory.mktemp("biased"), "biased")


def looked_into(
    made: Build, monkeypatch: pytest.MonkeyPatch, folder: Path | None = None, **options: object
) -> Debugged:
    """Run `debug` in this process, as the command does, with the build's store."""
    monkeypatch.setenv("EDGEPORT_STORE", str(made.store))
    return debug(folder or made.output, count=4, **options)  # type: ignore[arg-type]  # passed through


def copied(made: Build, tmp_path: Path) -> Path:
    """Return a copy of the output folder."""
    return Path(shutil.copytree(made.output, tmp_path / "copy"))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("file", SPOIL, ids="-".join)
def test_seeded_fault_is_named_by_layer_and_runtime(
    biased_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: tuple[str, str], fault: str
) -> None:
    folder = copied(biased_build, tmp_path)
    name, spoil = SPOIL[file]
    spoil(folder / TARGETS[file[0]] / name, fault)
    found = looked_into(biased_build, monkeypatch, folder)
    label = " ".join(file)
    assert found.verdict.odd == (label,), sentences(found)
    first = found.verdict.first[label]
    assert first is not None
    assert first.layer == LAYER
    assert first.own_db < 10  # these faults leave hardly anything of the layer
    assert first.before_db > 40
    assert first.jump_db > 30
    assert all(other is None for other_label, other in found.verdict.first.items() if other_label != label)
    assert any(f"odd one out: {label}: first wrong at {LAYER}" in line for line in sentences(found))


def test_sound_build_has_no_odd_one_and_nothing_fragile(biased_build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked_into(biased_build, monkeypatch)
    assert (found.verdict.odd, found.verdict.fragile, found.verdict.findings) == ((), (), ())
    assert "PyTorch" in found.reference
    assert "evaluate.npz" in found.samples
    assert {study.file.label for study in found.studies} == {f"{runtime} {kind}" for runtime, kind in SPOIL}
    for study in found.studies:
        assert LAYER in {found.names[key] for key in study.layers}
        assert study.kept.sqnr_db > 30  # looking changes nothing but roundings
        floor = 100 if study.file.is_float else 30
        assert min(sums.own_db for sums in study.layers.values()) > floor


@pytest.mark.parametrize("network", ["fragile_rows", "fragile_columns"])
def test_fragile_layer_is_named_in_every_int8_file_and_nobody_is_odd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    made = built(tmp_path, network)
    found = looked_into(made, monkeypatch)
    assert found.verdict.odd == ()
    assert found.verdict.fragile[0] == "third/conv2d"
    for study in found.studies:
        first = found.verdict.first[study.file.label]
        assert (first is None) if study.file.is_float else (first is not None and first.layer == "third/conv2d")
    assert "no odd one out" in sentences(found)[-1]


def test_changed_weights_make_torch_the_odd_one(
    biased_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(biased_build, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["down.bias"] = weights["down.bias"] * 0
    save_file(weights, folder / "model.safetensors")
    found = looked_into(biased_build, monkeypatch, folder)
    assert found.verdict.odd == ("torch",), sentences(found)
    assert f"odd one out: torch: every runtime's float file agrees on another value of {LAYER}" in sentences(found)[0]


@pytest.mark.parametrize("gone", ["network.json", "model.safetensors"])
def test_without_torch_the_median_of_the_runtimes_is_the_reference(
    biased_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    folder = copied(biased_build, tmp_path)
    (folder / gone).unlink()
    onnx_fault(folder / "cpu" / "model-float.onnx", "channels", "conv2d_1")
    found = looked_into(biased_build, monkeypatch, folder)
    assert "the median of 3 files" in found.reference
    assert any(f"{gone} is missing" in note for note in found.notes)
    first = found.verdict.first["onnxruntime float32"]
    assert first is not None
    assert first.layer == "/relu_1"  # the convolution in it is not known without the graph
    assert found.verdict.odd == ("onnxruntime float32",), sentences(found)


def test_command_prints_table_verdict_and_plot(biased_build: Build, tmp_path: Path) -> None:
    folder = copied(biased_build, tmp_path)
    run = edgeport("debug", folder, "--samples", "2", store=biased_build.store)
    assert run.code == 0, run.err
    assert "nobody is wrong: no layer stands out in any file" in run.out
    assert LAYER in run.out
    picture = (folder / "debug.svg").read_text(encoding="utf-8")
    assert picture.count("<polyline") == len(SPOIL)
    reported = edgeport("report", folder, store=biased_build.store)
    assert f"plot of the layers, by edgeport debug: {folder / 'debug.svg'}" in reported.out
    tflite_fault(folder / "arm64" / "model.tflite", "bias", LAYER)
    run = edgeport("debug", folder, "--samples", "2", "--json", store=biased_build.store)
    assert run.code == 6, run.err
    content = json.loads(run.out)
    assert content["odd_one_out"] == ["tflite int8"]
    assert content["files"]["tflite int8"]["first_jump"]["layer"] == LAYER
    assert content["files"]["openvino int8"]["first_jump"] is None
    rows = content["files"]["tflite int8"]["layers"]
    assert [row["layer"] for row in rows][:3] == ["/images", "stem/conv2d", LAYER]
    assert all(set(row) == {"layer", "key", "sqnr_db", "cosine", "own_db", "arriving_db"} for row in rows)


def test_unknown_data_is_replaced_by_random_samples_said_aloud(biased_build: Build, tmp_path: Path) -> None:
    run = edgeport("debug", biased_build.output, "--samples", "2", store=tmp_path / "empty")
    assert run.code == 0, run.err
    assert "2 RANDOM samples" in run.out
    assert "--data DATA" in run.out


def test_damaged_file_is_told_and_the_others_compared(
    biased_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(biased_build, tmp_path)
    (folder / "intel-avx2" / "model.bin").write_bytes(b"")
    for name in ("cpu/model.onnx", "arm64/model.tflite"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    (folder / "arm64" / "model-float.tflite").unlink()
    found = looked_into(biased_build, monkeypatch, folder)
    assert set(found.unread) == {"intel-avx2/model.xml", "cpu/model.onnx", "arm64/model.tflite"}
    assert found.is_anyone_wrong
    assert {study.file.label for study in found.studies} == {"onnxruntime float32", "openvino float32"}
    assert "arm64/model-float.tflite is missing" in found.notes


def test_folders_that_are_no_build_are_refused(biased_build: Build, tmp_path: Path) -> None:
    store = biased_build.store
    refused(edgeport("debug", tmp_path / "nowhere", store=store), 2, "no folder")
    refused(edgeport("debug", tmp_path, store=store), 2, "no manifest.json", "output folder of edgeport build")
    folder = copied(biased_build, tmp_path)
    refused(edgeport("debug", folder, "--samples", "0", store=store), 2, "--samples 0", "1 or more")
    write_samples(tmp_path / "other.npz", {"x": (4, 3, 8, 8)})
    other = edgeport("debug", folder, "--data", tmp_path / "other.npz", store=store)
    refused(other, 2, "--data has samples of 3x8x8 float32, the files take 3x16x16 float32")
    for target in TARGETS.values():
        shutil.rmtree(folder / target)
    refused(edgeport("debug", folder, store=store), 2, "no model.tflite, model.xml or model.onnx")


def test_two_inputs_two_outputs_and_a_folder_of_one_target(
    two_by_two_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = looked_into(two_by_two_build, monkeypatch)
    assert {"/picture", "/numbers", "stem/conv2d", "scores/linear", "map/conv2d"} <= set(found.names.values())
    assert not [label for label in found.verdict.odd if label.endswith("float32")]
    folder = copied(two_by_two_build, tmp_path)
    first, *others = sorted(path.parent.name for path in folder.glob("*/io.json"))
    for target in others:
        shutil.rmtree(folder / target)
    alone = looked_into(two_by_two_build, monkeypatch, folder)
    assert len(alone.studies) == 2
    assert alone.verdict.odd == ()
    assert debugged_json(alone)["odd_one_out"] == []
    assert plot(alone).count("<polyline") == 2
    assert {study.file.target for study in alone.studies} == {first}


def test_two_float_files_without_torch_are_undecided(
    biased_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(biased_build, tmp_path)
    (folder / "network.json").unlink()
    shutil.rmtree(folder / "arm64")
    onnx_fault(folder / "cpu" / "model-float.onnx", "bias", "conv2d_1")
    found = looked_into(biased_build, monkeypatch, folder)
    assert found.verdict.undecided == ("onnxruntime float32", "openvino float32")
    assert found.verdict.odd == ()
    assert "cannot be told without PyTorch's network" in sentences(found)[0]
