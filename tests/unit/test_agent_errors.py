"""Everything a caller can get wrong ends in one line on stderr and exit code 2, and leaves no file behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgeport.devices.host import AGENT


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with model.onnx (x: (1, 2, 3) float -> y = relu(x)), ids.onnx (int64) and bad files."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, save

    folder = tmp_path_factory.mktemp("errors")
    for name, kind, operator in (("model", TensorProto.FLOAT, "Relu"), ("ids", TensorProto.INT64, "Abs")):
        x, y = (helper.make_tensor_value_info(label, kind, [1, 2, 3]) for label in "xy")
        graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [x], [y])
        opsets = [helper.make_opsetid("", 18)]
        save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / f"{name}.onnx")
    np.save(folder / "x.npy", np.ones((4, 2, 3), np.float32))
    np.save(folder / "wide.npy", np.ones((4, 2, 5), np.float32))
    np.save(folder / "three.npy", np.ones((3, 2, 3), np.float32))
    np.savez(folder / "other.npz", out0=np.ones((4, 9), np.float32))
    np.savez(folder / "named.npz", y=np.ones((4, 2, 3), np.float32))
    (folder / "model.pb").write_bytes(b"x")
    (folder / "cut.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-9])
    (folder / "bad.tflite").write_bytes(bytes(range(256)))
    (folder / "empty.tflite").write_bytes(b"")
    (folder / "cut.xml").write_text('<?xml version="1.0"?>\n<net name="x"')
    (folder / "alone.xml").write_text('<?xml version="1.0"?>\n<net name="x"></net>')
    (folder / "broken.json").write_text('{"inputs": [')
    (folder / "nameless.json").write_text('{"inputs": [{"name": "x"}]}')
    (folder / "wrong.json").write_text('{"inputs": [{"name": "x", "tensor": "image"}]}')
    return folder


def agent(folder: Path, line: str, *, limit_bytes: int | None = None) -> tuple[int, str, str]:
    """Run the agent in `folder`; return its exit code, stdout and stderr (without LiteRT's own INFO line)."""
    command = [sys.executable, "-I", str(AGENT), *line.split()]
    if limit_bytes is not None:
        code = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
        code += "os.execv(sys.argv[2], sys.argv[2:])"
        command = [sys.executable, "-I", "-c", code, str(limit_bytes), *command]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    lines = [text for text in done.stderr.splitlines() if not text.startswith("INFO: ")]
    return done.returncode, done.stdout, "\n".join(lines)


RUN = "run model.onnx --inputs x.npy --outputs out.npz"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run none.onnx --inputs x.npy --outputs out.npz", "no model file none.onnx"),
        ("run model.pb --inputs x.npy --outputs out.npz", "unknown suffix '.pb'; known: .tflite, .xml, .onnx"),
        ("run cut.onnx --inputs x.npy --outputs out.npz", "cut.onnx does not load in onnxruntime: "),
        ("bench bad.tflite", "bad.tflite does not load in ai-edge-litert: "),
        ("bench empty.tflite", "empty.tflite does not load in ai-edge-litert: "),
        ("bench cut.xml", "cut.xml is not a whole OpenVINO file"),
        ("bench alone.xml", "alone.xml has no weights file alone.bin beside it"),
        ("run model.onnx --inputs none.npy --outputs out.npz", "No such file or directory: 'none.npy'"),
        ("run model.onnx --inputs model.onnx --outputs out.npz", "model.onnx is not a .npy file"),
        ("run model.onnx --inputs x.npy x.npy --outputs out.npz", "model.onnx takes 1 inputs, 2 given"),
        ("run model.onnx --inputs x.npy three.npy --outputs out.npz", "x.npy has 4, three.npy has 3"),
        (
            "run model.onnx --inputs wide.npy --outputs out.npz",
            "is (1, 2, 5) with batch one, model.onnx takes (1, 2, 3)",
        ),
        ("run ids.onnx --inputs x.npy --outputs out.npz", "input 0 'x' is float32, the file takes int64"),
        ("run model.onnx --inputs x.npy --outputs a.npz b.npz", "1 models need as many --outputs, 2 given"),
        (f"{RUN} --samples 1 2", "--samples takes one number, or one a model"),
        ("run model.onnx --inputs x.npy --outputs none/out.npz", "No such file or directory"),
        (f"{RUN} --io none.json", "No such file or directory: 'none.json'"),
        (f"{RUN} --io broken.json", "broken.json is not a map of inputs and outputs"),
        (f"{RUN} --io nameless.json", "nameless.json is not a map of inputs and outputs: 'tensor'"),
        (f"{RUN} --io wrong.json", "names input tensor 'image', which model.onnx does not have; it has: x"),
        (f"{RUN} --channels-last 1", "--channels-last 1: model.onnx has 1 inputs, counted from 0"),
        (f"{RUN} --channels-last=-1", "-1: inputs are counted from 0"),
        (f"{RUN} --threads 0", "0 is not 1 or more"),
        (f"{RUN} --frobnicate", "unrecognized arguments: --frobnicate"),
        ("run model.onnx", "the following arguments are required: --inputs, --outputs"),
        ("walk model.onnx", "invalid choice: 'walk'"),
        ("", "the following arguments are required: COMMAND"),
        ("verify model.onnx --inputs x.npy --expected none.npz", "No such file or directory: 'none.npz'"),
        ("verify model.onnx --inputs x.npy --expected model.onnx", "model.onnx does not hold out0, out1, ..."),
        ("verify model.onnx --inputs x.npy --expected x.npy", "x.npy does not hold out0, out1, ..."),
        ("verify model.onnx --inputs x.npy --expected named.npz", "named.npz does not hold out0, out1, ..."),
        ("verify model.onnx --inputs x.npy --expected other.npz", "holds [(4, 9)], model.onnx gives [(4, 2, 3)]"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(folder: Path, line: str, message: str) -> None:
    if "tflite" in line:
        pytest.importorskip("ai_edge_litert")
    if ".xml" in line:
        pytest.importorskip("openvino")
    before = sorted(folder.iterdir())
    code, stdout, stderr = agent(folder, line)
    assert code == 2, stderr
    assert stdout == ""
    assert message in stderr
    assert "\n" not in stderr
    assert sorted(folder.iterdir()) == before


def test_a_good_call_writes_one_file_and_says_nothing_on_stderr(folder: Path, tmp_path: Path) -> None:
    code, stdout, stderr = agent(folder, f"run model.onnx --inputs x.npy --outputs {tmp_path}/out.npz")
    assert (code, stderr) == (0, "")
    assert '"runtime": "onnxruntime"' in stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]


def test_counted_inferences_are_told(folder: Path) -> None:
    code, stdout, stderr = agent(folder, "count model.onnx ids.onnx --repeats 2")
    assert (code, stderr) == (0, "")
    said = json.loads(stdout)
    assert (said["models"], said["repeats"]) == (["model.onnx", "ids.onnx"], 2)
    assert said["runtime"] == "onnxruntime"


@pytest.mark.parametrize("package", ["onnxruntime", "openvino", "ai_edge_litert"])
def test_a_missing_runtime_is_named_with_its_pip_command(folder: Path, package: str) -> None:
    model, wanted = {
        "onnxruntime": ("model.onnx", "pip install onnxruntime"),
        "openvino": ("whole.xml", "pip install openvino"),
        "ai_edge_litert": ("bad.tflite", "pip install ai-edge-litert"),
    }[package]
    (folder / "whole.xml").write_text('<net name="x"></net>')
    (folder / "whole.bin").write_bytes(b"")
    # None in sys.modules makes an import fail as if the package were not installed.
    code = f"""
import runpy, sys
sys.modules[{package!r}] = sys.modules["tflite_runtime"] = None
sys.argv = ["agent.py", "bench", {model!r}]
runpy.run_path({str(AGENT)!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert wanted in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_one_line_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.ones((2000, 2, 3), np.float32))  # 48 kB out, 20 kB allowed
    line = f"run model.onnx --inputs {tmp_path}/many.npy --outputs {tmp_path}/out.npz"
    code, stdout, stderr = agent(folder, line, limit_bytes=20_000)
    assert code == 2
    assert stdout == ""
    assert "File too large" in stderr
    assert "\n" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["many.npy"]


def test_interrupt_ends_quietly_with_130(folder: Path) -> None:
    command = [sys.executable, "-I", str(AGENT), "bench", "model.onnx", "--seconds", "60"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(1.5)  # past the imports
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "")


@pytest.mark.parametrize("command", ["", "run", "bench", "verify", "profile", "count"])
def test_help_explains_every_option(folder: Path, command: str) -> None:
    code, stdout, stderr = agent(folder, f"{command} --help")
    assert (code, stderr) == (0, "")
    assert stdout.startswith("usage: agent.py")
    options = [line.split()[0] for line in stdout.splitlines() if line.startswith("  --")]
    assert options or not command
    assert not command or "--threads" in options
