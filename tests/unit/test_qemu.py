"""Emulated processors as devices: what is said when they cannot run, crash or hang. The emulator here is a script."""

from __future__ import annotations

import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from devices_case import Tools

from edgeport.devices import host, qemu
from edgeport.devices.device import HOST, Device, end_running, variables
from edgeport.errors import ConfigError, MissingPackageError, StageError

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64", reason="qemu:haswell needs Linux on x86_64"
)


def emulator(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Device:
    """Return the device of an emulator that is a shell script."""
    program = folder / "qemu-x86_64"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv(qemu.FOLDER, str(folder))
    return qemu.device("haswell")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a file and, beside it, x.npy; the scripts never read them."""
    (tmp_path / "model.bin").write_bytes(b"")
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.float32))
    return tmp_path / "model.bin"


def run(model: Path, device: Device) -> None:
    host.run(model, (model.with_name("x.npy"),), device=device)


def test_absent_emulator_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(qemu.FOLDER, raising=False)
    with pytest.raises(MissingPackageError) as caught:
        qemu.device("haswell")
    assert str(caught.value) == "qemu-x86_64 not found: apt-get install qemu-user"


def test_folder_variable_goes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = emulator(tmp_path, "echo qemu-x86_64 version 9.1.2", monkeypatch)
    assert device.command == (str(tmp_path / "qemu-x86_64"), "-cpu", "Haswell", sys.executable, "-I")
    assert qemu.version(device) == "9.1.2"
    monkeypatch.setenv(qemu.FOLDER, "")
    with pytest.raises(MissingPackageError):
        qemu.device("haswell")


def test_unknown_processor_names_the_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown processor 'haswel'; known: haswell, .* \(did you mean haswell\?\)"):
        qemu.device("haswel")
    with pytest.raises(ConfigError, match=r"unknown processor 'cortex-a67'; .* \(did you mean cortex-a7\d?\?\)"):
        qemu.device("qemu:cortex-a67")


def test_runtime_is_chosen_only_where_there_are_some() -> None:
    with pytest.raises(
        ConfigError, match=r"qemu:cortex-a53 has no runtime 'tflite'; known: ai-edge-litert, tflite-runt"
    ):
        qemu.device("cortex-a53", "tflite")
    with pytest.raises(ConfigError, match=r"qemu:cortex-a7 has no runtime 'ai-edge-litert'; known: tflite-runtime"):
        qemu.device("cortex-a7", "ai-edge-litert")
    with pytest.raises(ConfigError, match=r"qemu:haswell runs this machine's runtimes"):
        qemu.device("haswell", "tflite-runtime")


def test_arm_core_runs_a_python_of_its_own_and_hears_no_variable_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = Tools(tmp_path, monkeypatch)
    tools.set_up()
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("LD_PRELOAD", "/nowhere.so")
    device = qemu.device("cortex-a76", "tflite-runtime")
    place = tools.place
    assert device.command == (
        str(tmp_path / "qemu-aarch64"),
        *("-cpu", "cortex-a76", "-L", str(place / "cores" / "cortex-a76")),
        *(str(place / "system" / "usr" / "bin" / "python3.11"), "-P"),
    )
    assert variables(device, threads=2) == {
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "2",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": str(place / "tflite-runtime"),
        "PYTHONPYCACHEPREFIX": str(place / "bytecode-tflite-runtime"),
    }
    assert "PYTHONHOME" in variables(HOST, threads=1)


def test_emulator_that_lacks_the_processor_is_heard(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = emulator(tmp_path, "echo \"qemu-x86_64: unable to find CPU model 'Haswell'\" >&2; exit 1", monkeypatch)
    with pytest.raises(StageError, match=r"on qemu:haswell: qemu-x86_64: unable to find CPU model 'Haswell'$"):
        run(model, device)


def test_running_guests_are_ended_for_an_interrupted_build(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = emulator(tmp_path, f"touch {tmp_path}/started; exec sleep 60", monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, model, device)
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        end_running()
        with pytest.raises(StageError, match="SIGKILL"):
            waiting.result(timeout=10)


def test_machine_of_another_kind_cannot_emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ConfigError, match="qemu:haswell needs Linux on x86_64, this is Linux on aarch64"):
        qemu.device("haswell")


def test_crash_is_told_with_the_last_words_of_the_guest(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "\n".join(
        [
            "echo 'qemu-x86_64: warning: TCG lacks a feature' >&2",
            "echo 'Illegal operand at layer 3' >&2",
            "echo 'qemu: uncaught target signal 11 (Segmentation fault) - core dumped' >&2",
            "kill -SEGV $$",
        ]
    )
    device = emulator(tmp_path, script, monkeypatch)
    message = r"^model\.bin on qemu:haswell: its runtime crashed \(SIGSEGV\); last words: Illegal operand at layer 3$"
    with pytest.raises(StageError, match=message):
        run(model, device)


def test_hanging_guest_is_ended(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = emulator(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60", monkeypatch)
    with pytest.raises(StageError, match=r"model\.bin on qemu:haswell: still running after 0\.5 s, ended"):
        run(model, replace(device, timeout_seconds=0.5))
    pid = (tmp_path / "pid").read_text().strip()
    assert not Path(f"/proc/{pid}").exists()


def test_emulated_run_spends_no_inference_on_warming_up(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = emulator(tmp_path, f'echo "$@" > {tmp_path}/said; exit 3', monkeypatch)
    with pytest.raises(StageError):
        run(model, device)
    words = (tmp_path / "said").read_text().split()
    assert words[:2] == ["-cpu", "Haswell"]
    assert words[words.index("--warmup") + 1] == "0"
    assert not HOST.is_emulated
