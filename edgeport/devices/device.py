"""A place where the agent runs, and the one way to run it there: a process that has an end.

A device is a command that runs the agent's file with the arguments that follow, and the environment of that command:
Python itself on this machine, Python under an emulator, a remote shell.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeport.errors import MissingPackageError, StageError

AGENT = Path(__file__).with_name("agent.py")
TIMEOUT_SECONDS = 7200.0  # 10,000 samples of 0.7 s each; a runtime that hangs must not hang the build

_PACKAGES = {
    ".tflite": ("ai_edge_litert", "tflite"),
    ".xml": ("openvino", "openvino"),
    ".onnx": ("onnxruntime", "onnxruntime"),
}
# LiteRT's notes and the emulator's warnings of features it lacks; neither has a switch
_CHATTER = re.compile(r"INFO: |qemu-\w+: warning: ")
_RUNNING: set[subprocess.Popen[bytes]] = set()
_STARTING = threading.Lock()
_EPITAPH = "qemu: uncaught target signal"  # what the emulator adds to the last words of what it ran


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where the agent runs.

    Attributes:
        name: as users type it: `host`, `qemu:haswell`.
        command: what runs a Python file there, e.g. `("python3", "-I")`.
        environment: variables beside this process's own.
        is_emulated: its time says nothing, so no inference is spent on warming up.
        is_apart: it has packages of its own, and no variable of this process reaches it.
        timeout_seconds: after that a run is ended.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    is_emulated: bool = False
    is_apart: bool = False
    timeout_seconds: float = TIMEOUT_SECONDS


# -I: nothing of the caller's folder or PYTHON* variables reaches the agent; installed packages still do.
HOST = Device(name="host", command=(sys.executable, "-I"))


def call(
    device: Device,
    arguments: Sequence[str],
    paths: Sequence[Path],
    *,
    threads: int,
    io: Path | None = None,
) -> dict[str, Any]:
    """Run the agent and return its JSON; whatever ends this call ends the agent too.

    Args:
        device: where.
        arguments: of the agent, without threads and io.
        paths: the files that it will run.
        threads: threads of the runtime.
        io: map of inputs and outputs; None: `io.json` beside each file.

    Raises:
        MissingPackageError: the runtime is not installed.
        StageError: the agent refuses its files, crashes, or takes too long.
    """
    if not device.is_apart:
        _check_packages(paths)
    given = [str(AGENT), *arguments, "--threads", str(threads)]
    given += ["--io", str(io.absolute())] if io else []
    names = ", ".join(path.name for path in paths)
    where = names if device.name == HOST.name else f"{names} on {device.name}"
    report: dict[str, Any] = json.loads(execute(device, given, threads=threads, where=where))
    return report


def execute(device: Device, arguments: Sequence[str], *, threads: int, where: str) -> bytes:
    """Run a device's command with arguments and return its stdout.

    Args:
        device: where.
        arguments: a Python file or `-c` and code, and what that takes.
        threads: that libraries may start by themselves.
        where: what an error begins with.

    Raises:
        StageError: it ends with an error or by a signal, with its last words, or takes too long.
    """
    with _started([*device.command, *arguments], variables(device, threads=threads)) as process:
        try:
            stdout, stderr = process.communicate(timeout=device.timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise StageError(f"{where}: still running after {device.timeout_seconds:g} s, ended") from error
        finally:
            process.kill()  # does nothing to a process that has ended
    if process.returncode != 0:
        raise StageError(f"{where}: {_last_words(process.returncode, stderr)}")
    return stdout


@contextmanager
def _started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with _STARTING:  # so that none runs that `end_running` does not know
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches edgeport alone, which then ends the agent
        )
        _RUNNING.add(process)
    try:
        with process:
            yield process
    finally:
        _RUNNING.discard(process)


def end_running() -> None:
    """End every command that other threads of this process wait for; they get a StageError."""
    with _STARTING:
        for process in tuple(_RUNNING):
            process.kill()


def variables(device: Device, *, threads: int) -> dict[str, str]:
    """Return the environment of a device's command.

    Of a guest with a system of its own it is the same whoever starts it: instruction counts depend on its length too.
    """
    inherited = {} if device.is_apart else os.environ
    return {**inherited, **device.environment, "OMP_NUM_THREADS": str(threads)}


def _check_packages(paths: Sequence[Path]) -> None:
    for path in paths:
        package, extra = _PACKAGES.get(path.suffix, ("", ""))
        if package and importlib.util.find_spec(package) is None:
            raise MissingPackageError(f"{path.name} needs {package} to run: pip install 'edgeport[{extra}]'")


def _last_words(code: int, stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    lines = [line for line in lines if not _CHATTER.match(line) and not line.startswith(_EPITAPH)]
    said = lines[-1].removeprefix("agent.py: ") if lines else "no message"
    if code < 0:
        return f"its runtime crashed ({signal.Signals(-code).name}); last words: {said}"
    return said
