"""How the end-to-end tests run edgeport: the real command line, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = Path(__file__).with_name("e2e_networks.py")
EXTRAS = {"arm64": "tflite", "cpu": "onnxruntime", "intel": "openvino"}  # targets and the backends that they need
TIMEOUT_SECONDS = 300


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one error line, without its prefix; fails when there is none, more than one, or a traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("edgeport: error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err, self.err
        error = lines[0].removeprefix("edgeport: error: ")
        assert not error.startswith("unexpected"), error
        return error

    def report(self) -> dict[str, Any]:
        """Return what `--json` printed."""
        content: dict[str, Any] = json.loads(self.out)
        return content


def environment(store: Path, **more: str) -> dict[str, str]:
    """Return this process's variables with a store of the test's own, and no emulator, which takes long to start."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("EDGEPORT_")}
    ours = {"EDGEPORT_STORE": str(store), "EDGEPORT_QEMU": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return {**inherited, **ours, **more}


def edgeport(*arguments: str | Path, store: Path, cwd: Path | None = None, **more: str) -> Run:
    """Run a command to its end; `more` are environment variables."""
    done = subprocess.run(
        [sys.executable, "-m", "edgeport", *map(str, arguments)],
        env=environment(store, **more),
        cwd=cwd or store.parent,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    return Run(code=done.returncode, out=done.stdout, err=done.stderr)


def refused(run: Run, code: int, *words: str, output: Path | None = None) -> None:
    """Check a refusal: exit code, one line that holds all the words, silent stdout, nothing in the output folder."""
    assert run.code == code, run
    for word in words:
        assert word in run.error, run.error
    assert run.out == ""
    assert files_of(output) == {} if output is not None else True


def files_of(folder: Path) -> dict[str, str]:
    """Return relative path -> SHA-256 of every file below a folder, temporary ones too; empty where there is none."""
    if not folder.is_dir():
        return {}
    return {
        file.relative_to(folder).as_posix(): sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def available_targets() -> tuple[str, ...]:
    """Return one target for each runtime whose packages are installed."""
    from edgeport.doctor import packages

    missing = {package.extra for package in packages() if package.installed is None}
    return tuple(name for name, extra in EXTRAS.items() if extra not in missing)


def target_or_skip(name: str) -> str:
    """Return a target's name, or skip the test when its runtime is not installed."""
    if name not in available_targets():
        pytest.skip(f"target {name} needs edgeport[{EXTRAS[name]}], which is not installed")
    return name


def write_samples(path: Path, shapes: Mapping[str, tuple[int, ...]], *, classes: int = 0, seed: int = 0) -> Path:
    """Write an .npz of standard normal float32 arrays, name -> shape with N in front, and labels below `classes`."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, Any] = {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    if classes:
        count = next(iter(shapes.values()))[0]
        arrays["y"] = generator.integers(0, classes, count)
    np.savez(path, **arrays)
    return path


def metrics_of(report: Mapping[str, Any], target: str) -> dict[str, dict[str, Any]]:
    """Return a target's figures by name."""
    return {metric["name"]: metric for metric in report["targets"][target]["metrics"]}


def places_of_this_machine(*more: Path) -> list[bytes]:
    """Return names of folders that no file of a build may hold."""
    import numpy
    import torch

    places = {Path.home(), Path(torch.__file__).parent, Path(numpy.__file__).parent, ROOT, Path(sys.prefix), *more}
    texts = {str(place) for place in places if len(place.parts) > 1} | {"site-packages", "dist-packages"}
    return sorted(text.encode() for text in texts)
