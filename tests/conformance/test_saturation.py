"""8-bit weights that saturate on x86 without VNNI are found, 7-bit and depthwise ones are proven right."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lowering_case import float_graph, profile
from lowering_case import samples as network_samples
from saturation_case import Case, dense, depthwise, expected, inputs, write

from edgeport.backends import onnxruntime, openvino
from edgeport.bundle import verify_isa
from edgeport.devices import host, qemu
from edgeport.devices.device import Device
from edgeport.devices.processor import has_vnni
from edgeport.errors import ConfigError, LimitError, MissingPackageError
from edgeport.profile import load
from edgeport.quant.scheme import Scheme
from edgeport.stages.lower import Lowered
from edgeport.store import Store
from edgeport.types import Artifact, OpCost, Precision
from edgeport.validation import exact, isa
from edgeport.validation.probe import random_inputs
from edgeport.validation.proof import Proven, proven

SAMPLES = 6
PACKAGES = {".onnx": ("onnx", "onnxruntime"), ".xml": ("openvino",)}


@pytest.fixture(params=[".onnx", ".xml"])
def suffix(request: pytest.FixtureRequest) -> str:
    """Return a runtime's suffix, or skip where it is not installed."""
    for package in PACKAGES[request.param]:
        pytest.importorskip(package)
    return str(request.param)


@pytest.fixture
def haswell() -> Device:
    """Return the emulated processor, or skip with the reason there is none."""
    try:
        return qemu.device("haswell")
    except (ConfigError, MissingPackageError) as error:
        pytest.skip(str(error))


def samples(folder: Path) -> tuple[Path, ...]:
    np.save(folder / "in0.npy", inputs(SAMPLES))
    return (folder / "in0.npy",)


def outputs(path: Path, folder: Path) -> np.ndarray:
    return host.run(path, samples(folder)).outputs[0]


def written_exact(path: Path) -> tuple[Path, tuple[str, ...]]:
    out = path.parent / "exact" / path.name
    out.parent.mkdir()
    return out, exact.write_exact(path, out)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_exact_form_answers_what_integers_without_limit_give(suffix: str, groups: int, tmp_path: Path) -> None:
    case = dense(127, groups=groups)
    out, layers = written_exact(write(case, suffix, tmp_path))
    assert layers == ("layer",)
    # float32 sums of OpenVINO: integers below 2**24 are whole, the scale is a power of two
    np.testing.assert_array_equal(outputs(out, tmp_path), expected(case, inputs(SAMPLES), suffix))


@pytest.mark.parametrize("groups", [1, 2])
def test_exact_form_of_a_file_that_cannot_saturate_gives_the_same_bits(
    suffix: str, groups: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(dense(63, groups=groups), suffix, tmp_path)
    monkeypatch.setattr(exact, "PAIR_LIMIT", 0)  # rewrite it all the same
    out, layers = written_exact(path)
    assert layers == ("layer",)
    np.testing.assert_array_equal(outputs(out, tmp_path), outputs(path, tmp_path))


@pytest.mark.parametrize("name", ["residual", "two_by_two", "linear_only", "gated", "sequence", "upsampling"])
def test_exact_form_of_a_whole_network_gives_the_same_bits(
    suffix: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {".onnx": onnxruntime, ".xml": openvino}[suffix]
    target, path = profile(module.__name__.rpartition(".")[2], weight_bits=7), tmp_path / f"model{suffix}"
    floating = module.lower_float(float_graph(name), target, tmp_path / f"model-float{suffix}")
    module.lower_int8(float_graph(name), Scheme.of(target), floating, path)
    io = tmp_path / "io.json"
    io.write_text(json.dumps(module.bindings(float_graph(name), path)))
    inputs = []
    for index, array in enumerate(network_samples(name, seed=1)):
        inputs.append(tmp_path / f"in{index}.npy")
        np.save(inputs[-1], array[:20])
    monkeypatch.setattr(exact, "PAIR_LIMIT", 0)  # rewrite every layer on integers
    out, layers = written_exact(path)
    assert len(layers) >= 2
    for ours, theirs in zip(host.run(path, inputs).outputs, host.run(out, inputs, io=io).outputs, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_signed_activations_have_an_exact_form(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    case = replace(dense(127), signed=True)
    out, layers = written_exact(write(case, ".onnx", tmp_path))
    assert layers == ("layer",)
    np.testing.assert_array_equal(outputs(out, tmp_path), expected(case, inputs(SAMPLES), ".onnx"))


def test_file_that_cannot_saturate_is_its_own_exact_form(suffix: str, tmp_path: Path) -> None:
    for case in (dense(63), depthwise(127)):
        folder = tmp_path / str(len(case.weight))
        folder.mkdir()
        out, layers = written_exact(write(case, suffix, folder))
        assert layers == ()
        assert not out.exists()


def test_this_machine_saturates_only_where_the_weights_allow_it(suffix: str, tmp_path: Path) -> None:
    if platform.machine() != "x86_64" or has_vnni():
        pytest.skip("this processor accumulates in 32 bits")
    wrong: list[bool] = []
    for index, case in enumerate((dense(127), dense(63), depthwise(127))):
        folder = tmp_path / str(index)
        folder.mkdir()
        found = outputs(write(case, suffix, folder), folder)
        wrong.append(not np.array_equal(found, expected(case, inputs(SAMPLES), suffix)))
    assert wrong == [True, False, False]


def proof_of(case: Case, suffix: str, folder: Path, device: Device) -> isa.Proof:
    return isa.prove(write(case, suffix, folder), samples(folder), device=device)


@pytest.mark.slow
def test_eight_bit_weights_are_caught_on_haswell(suffix: str, tmp_path: Path, haswell: Device) -> None:
    case = dense(127)
    proof = proof_of(case, suffix, tmp_path, haswell)
    assert proof.layers == ("layer",)
    assert (proof.isa, proof.samples) == ("haswell", SAMPLES)
    assert proof.emulated.flips == SAMPLES  # class 1 wins every time, exactly class 0 does
    # 36 pairs of about 2 * 127 * 228 = 57,900, each cut to 32,767: 36 * 25,100 / 1024 = 880
    assert proof.emulated.logit_difference == pytest.approx(880, rel=0.2)
    assert "products of layer leave 16 bits" in isa.sentence(proof)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["seven-bit", "depthwise"])
def test_seven_bit_and_depthwise_weights_are_right_on_haswell(
    suffix: str, kind: str, tmp_path: Path, haswell: Device
) -> None:
    case = dense(63) if kind == "seven-bit" else depthwise(127)
    proof = proof_of(case, suffix, tmp_path, haswell)
    assert proof.emulated == proof.native == isa.Comparison(flips=0, logit_difference=0.0)
    assert proof.layers == ()
    assert isa.sentence(proof) == ""
    emulated = host.run(tmp_path / f"model{suffix}", samples(tmp_path), device=haswell).outputs[0]
    np.testing.assert_array_equal(emulated, expected(case, inputs(SAMPLES), suffix))


@pytest.mark.slow
def test_verify_fails_a_bundle_that_saturates(tmp_path: Path, haswell: Device) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "mine").mkdir()
    write(dense(127), ".onnx", tmp_path / "mine")
    lines = verify_isa(tmp_path, haswell, evaluate=None, samples=3)
    assert next(lines).startswith(f"haswell  {Path('mine', 'model.onnx')}: ")
    with pytest.raises(LimitError, match=r"model\.onnx answers otherwise on haswell: . flips? and max \|dlogit\| \d"):
        list(lines)


def test_random_inputs_span_what_the_file_takes(suffix: str, tmp_path: Path) -> None:
    path = write(dense(127), suffix, tmp_path)
    (made,) = random_inputs(path, 50, tmp_path)
    found = np.load(made)
    assert found.shape == (50, 8, 3, 3)
    assert found.dtype == np.float32
    assert 0.0 <= found.min() < 1.0
    assert 254.0 < found.max() <= 255.0
    np.testing.assert_array_equal(np.load(random_inputs(path, 50, tmp_path)[0]), found)


def _lowered(path: Path) -> Lowered:
    artifact = Artifact(path=path, backend="onnxruntime", precision="int8", files=(path,))
    costs = (OpCost(name="layer", kind="Conv", dtype="int8", macs=1),)
    return Lowered(key="of the file", artifact=artifact, costs=costs, quality={}, seconds=0.0)


def _proven(path: Path, folder: Path, target: str = "cpu", precision: Precision = "int8") -> Proven:
    lowered = _lowered(path)
    lowered = replace(lowered, artifact=replace(lowered.artifact, precision=precision))
    store = Store(folder / "store")
    store.prepare()
    return proven(store, lowered, load(target), lambda: samples(folder), samples_digest="d")


def test_build_goes_on_where_the_emulator_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("qemu:haswell needs Linux on x86_64")
    path = write(dense(127), ".onnx", tmp_path)
    program = tmp_path / "qemu-x86_64"
    program.write_text("#!/bin/sh\necho 'no memory left' >&2\nkill -ABRT $$\n")
    program.chmod(0o755)
    monkeypatch.setenv(qemu.FOLDER, str(tmp_path))
    found = _proven(path, tmp_path)
    assert found.metrics == ()
    assert found.notes == (
        "not verified on Haswell: model.onnx on qemu:haswell: its runtime crashed (SIGABRT); last words: no memory left"
        " (layer can saturate there)",
    )


def test_files_that_cannot_meet_such_a_processor_are_not_emulated(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = write(dense(63), ".onnx", tmp_path)
    assert _proven(path, tmp_path, "intel-vnni") == _proven(path, tmp_path, "arm64") == Proven()
    assert _proven(path, tmp_path, "cpu", "float32") == Proven()


@pytest.mark.slow
def test_build_keeps_what_it_emulated(tmp_path: Path, haswell: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    path = write(dense(127), ".onnx", tmp_path)
    first = _proven(path, tmp_path)
    assert [(figure.name, figure.value, figure.passed) for figure in first.metrics][::2] == [
        ("flips@haswell", SAMPLES, False),
        ("samples@haswell", SAMPLES, None),
    ]
    assert "products of layer leave 16 bits" in first.notes[0]
    monkeypatch.setattr(isa, "prove", None)  # a second run would fail
    assert _proven(path, tmp_path) == first
