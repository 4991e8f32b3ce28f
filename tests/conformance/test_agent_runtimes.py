"""The agent and the host device over every runtime: one network with two inputs and two outputs, as three files.

The files hold their tensors in another order than the network does, so only a heeded io.json gives right results.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.devices import host
from edgeport.errors import StageError
from edgeport.profile import Limits, TargetProfile
from edgeport.types import Artifact, OpCost
from edgeport.validation.validate import Reference, validate

SUFFIXES = [".tflite", ".xml", ".onnx"]
SAMPLES = 25


@dataclass(frozen=True)
class Files:
    """The network's files by suffix, its inputs and what torch makes of them."""

    models: dict[str, Path]
    inputs: tuple[Path, Path]
    expected: tuple[np.ndarray, np.ndarray]


def _write_onnx(weights: dict[str, np.ndarray], path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [
        helper.make_node("Conv", ["image_in", "cw", "cb"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Concat", ["f", "vector_in"], ["j"], axis=1),
        helper.make_node("Gemm", ["j", "lw", "lb"], ["scores_out"], transB=1),
        helper.make_node("Identity", ["r"], ["map_out"]),
    ]
    shapes = {"vector_in": [1, 4], "image_in": [1, 3, 6, 8], "map_out": [1, 5, 6, 8], "scores_out": [1, 7]}
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [info["vector_in"], info["image_in"]],
        [info["map_out"], info["scores_out"]],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Make the network in torch and write it for each runtime, each with its io.json, in a folder of its own."""
    pytest.importorskip("onnx")
    litert_torch, ov = pytest.importorskip("litert_torch"), pytest.importorskip("openvino")
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.l = torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Linear(9, 7)

        def forward(self, image: torch.Tensor, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = torch.relu(self.c(image))
            return self.l(torch.cat([features.mean((2, 3)), vector], 1)), features

    class Swapped(torch.nn.Module):
        def forward(self, vector: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores, features = network(image, vector)
            return features, scores

    torch.manual_seed(3)
    network = Network().eval()
    folder = tmp_path_factory.mktemp("agent")
    random = np.random.default_rng(5)
    image = random.standard_normal((SAMPLES, 3, 6, 8), dtype=np.float32)
    vector = random.standard_normal((SAMPLES, 4), dtype=np.float32)
    np.save(folder / "image.npy", image)
    np.save(folder / "vector.npy", vector)
    with torch.no_grad():
        scores, features = (out.numpy() for out in network(torch.from_numpy(image), torch.from_numpy(vector)))

    models = {suffix: folder / suffix[1:] / f"model{suffix}" for suffix in SUFFIXES}
    for path in models.values():
        path.parent.mkdir()
    state = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    weights = {"cw": state["c.weight"], "cb": state["c.bias"], "lw": state["l.weight"], "lb": state["l.bias"]}
    _write_onnx(weights, models[".onnx"])
    ov.save_model(ov.convert_model(models[".onnx"]), models[".xml"], compress_to_fp16=False)
    swapped = Swapped()
    swapped.add_module("network", network)
    channels_last = litert_torch.to_channel_last_io(swapped, args=[1]).eval()
    example = (torch.from_numpy(vector[:1]), torch.from_numpy(image[:1].transpose(0, 2, 3, 1).copy()))
    litert_torch.convert(channels_last, example).export(str(models[".tflite"]))
    for suffix, path in models.items():
        is_tflite = suffix == ".tflite"
        names = (
            ("args_1", "args_0", "output_1", "output_0")
            if is_tflite
            else ("image_in", "vector_in", "scores_out", "map_out")
        )
        io = {
            "inputs": [
                {"name": "image", "tensor": names[0], "channels_last": is_tflite},
                {"name": "vector", "tensor": names[1], "channels_last": False},
            ],
            "outputs": [{"name": "linear", "tensor": names[2]}, {"name": "relu", "tensor": names[3]}],
        }
        path.with_name("io.json").write_text(json.dumps(io))
    return Files(models, (folder / "image.npy", folder / "vector.npy"), (scores, features))


def agent(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(host.AGENT), *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line on stderr (LiteRT's own INFO line cannot be turned off), having checked that it is one."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("INFO: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_outputs_are_torchs_whatever_the_files_order_and_layout(files: Files, suffix: str) -> None:
    result = host.run(files.models[suffix], files.inputs)
    for ours, theirs in zip(result.outputs, files.expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-5)  # float32 sums of 32 products of values near 1
    assert result.threads == 1
    assert result.timing.samples == SAMPLES
    assert 0 < result.timing.min_ms <= result.timing.p50_ms <= result.timing.p90_ms


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_run_together_give_what_they_give_alone(files: Files, suffix: str, tmp_path: Path) -> None:
    path = files.models[suffix]
    first, second = host.run_together((path, path), files.inputs, samples=(SAMPLES, 12))
    alone = host.run(path, files.inputs)
    for index, output in enumerate(alone.outputs):
        np.testing.assert_array_equal(first.outputs[index], output)
        np.testing.assert_array_equal(second.outputs[index], output[:12])
    assert first.timing.samples == second.timing.samples == 12  # timed only while both run
    assert second.peak_rss_bytes is None
    if alone.peak_rss_bytes is not None and first.peak_rss_bytes is not None:
        assert first.peak_rss_bytes == pytest.approx(alone.peak_rss_bytes, rel=0.1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_peak_memory_does_not_grow_with_the_samples(files: Files, suffix: str, tmp_path: Path) -> None:
    many = []
    for path in files.inputs:
        data = np.load(path)
        np.save(tmp_path / path.name, np.tile(data, (4000 // SAMPLES, *[1] * (data.ndim - 1))))
        many.append(tmp_path / path.name)
    few, lots = host.run(files.models[suffix], files.inputs), host.run(files.models[suffix], many)
    if few.peak_rss_bytes is None or lots.peak_rss_bytes is None:
        pytest.skip("this system does not tell a process's peak memory")
    moved = sum(path.stat().st_size for path in many) + sum(output.nbytes for output in lots.outputs)
    assert moved > 6_000_000
    assert lots.peak_rss_bytes - few.peak_rss_bytes < moved / 3


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("has_inputs", [True, False])
def test_bench_times_files_in_turn(files: Files, suffix: str, has_inputs: bool) -> None:
    path = files.models[suffix]
    timings = host.bench((path, path), inputs=files.inputs if has_inputs else (), rounds=4, seconds=30.0)
    assert [timing.samples for timing in timings] == [40, 40]
    assert all(0 < timing.min_ms <= timing.p50_ms <= timing.p90_ms for timing in timings)


def test_bench_ends_with_its_time_budget(files: Files) -> None:
    report = json.loads(agent("bench", files.models[".onnx"], "--seconds", "0.2").stdout)
    assert report["models"][0]["samples"] == report["rounds"] * report["inner"]
    assert report["rounds"] >= 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_verify_passes_what_run_wrote_and_fails_what_it_did_not(files: Files, suffix: str, tmp_path: Path) -> None:
    model, out = files.models[suffix], tmp_path / "out.npz"
    assert agent("run", model, "--inputs", *files.inputs, "--outputs", out).returncode == 0
    done = agent("verify", model, "--inputs", *files.inputs, "--expected", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["agreement"], report["max_abs_difference"], report["passed"]) == (100.0, 0.0, True)
    np.savez(tmp_path / "other.npz", out0=-files.expected[0], out1=files.expected[1])
    done = agent("verify", model, "--inputs", *files.inputs, "--expected", tmp_path / "other.npz")
    assert done.returncode == 1
    assert json.loads(done.stdout)["cosine_min"] == pytest.approx(-1.0)


def test_flags_take_the_place_of_a_missing_io_json(files: Files, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(files.models[".tflite"].read_bytes())
    arguments = ("run", model, "--inputs", files.inputs[1], files.inputs[0], "--outputs", tmp_path / "out.npz")
    done = agent(*arguments)
    assert done.returncode == 2
    assert "input 1 'args_1' is (1, 3, 6, 8) with batch one" in said(done)
    assert "--channels-last 1" in said(done)
    assert agent(*arguments, "--channels-last", "1").returncode == 0
    with np.load(tmp_path / "out.npz") as archive:
        np.testing.assert_allclose(archive["out1"], files.expected[0], atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_runtime_writes_a_telemetry_id_into_the_home_folder(files: Files, suffix: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment.update({name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")})
    command = [sys.executable, "-I", str(host.AGENT), "bench", str(files.models[suffix]), "--rounds", "1"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_validate_judges_a_file(files: Files, suffix: str) -> None:
    path = files.models[suffix]
    belongs = tuple(p for p in (path, path.with_suffix(".bin")) if p.is_file())
    shipped = Artifact(path=path, backend="b", precision="float32", files=belongs)
    other = Artifact(
        path=path.with_name("io.json").parent / f"./../{path.parent.name}" / path.name,
        backend="b",
        precision="float32",
        files=belongs,
    )
    labels = files.expected[0].argmax(axis=1)
    labels[:5] = (labels[:5] + 1) % 7  # 20 of 25 right: 80 percent
    reference = Reference(outputs=files.expected, labels=labels, top1_float=82.0)
    profile = TargetProfile(description="d", backend="b", isa="any", limits=Limits(max_top1_drop=1.0))
    costs = (OpCost(name="c", kind="Conv", dtype="float32", macs=9, weight_bytes=2, activation_bytes=3),)

    def judged(float_artifact: Artifact, **options: Any) -> dict[str, tuple[float, bool | None]]:
        metrics = validate(
            shipped, float_artifact, inputs=files.inputs, reference=reference, profile=profile, costs=costs, **options
        )
        assert {metric.name for metric in metrics if metric.origin != "measured"} <= {
            "energy_ratio",
            "rank_correlation",
        }
        return {metric.name: (metric.value, metric.passed) for metric in metrics}

    alone = judged(shipped, max_drop=5.0)
    assert alone["top1"] == (80.0, None)
    assert alone["top1_drop"] == (2.0, True)
    assert alone["agreement"] == alone["agreement@float32"] == (100.0, True)
    assert alone["cosine_min@float32"][0] == pytest.approx(1.0)
    assert alone["cosine_min@float32"][1] is True
    assert alone["macs"] == (9, None)
    assert not {"speedup", "compression", "latency_float_p50_ms", "top1@float32"} & set(alone)
    pair = judged(other)
    assert pair["top1_drop"] == (2.0, False)
    assert pair["top1@float32"] == (80.0, None)
    assert pair["compression"] == (1.0, None)
    assert pair["speedup"][0] > 0
    assert "peak_rss_bytes@float32" in pair
    assert "top1@float32" not in judged(other, float_samples=10)


def _children(pid: int) -> list[int]:
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    if not listing.exists():
        pytest.skip("needs /proc/PID/task/PID/children")
    return [int(child) for child in listing.read_text().split()]


def _wait(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("nothing happened for 60 s")


def _caller(model: Path) -> subprocess.Popen[str]:
    code = f"""
import pathlib
from edgeport.devices import host
from edgeport.errors import StageError
try:
    host.bench([pathlib.Path({str(model)!r})], seconds=60.0)
except StageError as error:
    print(error)
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_crash_is_reported_with_its_signal(files: Files) -> None:
    with _caller(files.models[".onnx"]) as caller:
        child = _wait(lambda: _children(caller.pid))[0]
        os.kill(child, signal.SIGSEGV)
        assert "model.onnx: its runtime crashed (SIGSEGV); last words: no message" in caller.communicate(timeout=60)[0]


def test_interrupting_the_caller_ends_the_agent(files: Files) -> None:
    with _caller(files.models[".onnx"]) as caller:
        child = _wait(lambda: _children(caller.pid))[0]
        _wait(lambda: b"agent.py" in Path(f"/proc/{child}/cmdline").read_bytes())  # started, no longer a fork
        time.sleep(1.5)  # until the caller waits for it, also on a busy machine
        caller.send_signal(signal.SIGINT)
        caller.wait(timeout=60)
        _wait(lambda: not Path(f"/proc/{child}").exists())


def test_a_runtime_that_hangs_is_ended(files: Files) -> None:
    hurried = replace(host.HOST, timeout_seconds=1.0)
    with pytest.raises(StageError, match=r"model\.onnx: still running after 1 s, ended"):
        host.bench((files.models[".onnx"],), seconds=60.0, device=hurried)


def test_a_bad_file_is_a_stage_error_in_one_line(files: Files, tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        bad = tmp_path / f"bad{suffix}"
        bad.write_bytes(files.models[suffix].read_bytes()[:100])
        with pytest.raises(StageError, match=f"bad{suffix}: ") as caught:
            host.run(bad, files.inputs)
        assert "\n" not in str(caught.value)
        assert "Traceback" not in str(caught.value)
