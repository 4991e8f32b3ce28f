"""Where edgeport cannot write, where the disk is full, and where a package is not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
from e2e_case import NETWORKS, edgeport, environment, files_of, refused, target_or_skip, write_samples

MODEL = f"{NETWORKS}:small"
FLOAT = ("--precision", "float32", "--evaluate", "e.npz")
STAGES = ("--calibrate", "c.npz", "--evaluate", "e.npz", "--train", "c.npz", "--prune", "0.4", "--distill", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with samples for calibration and evaluation."""
    target_or_skip("cpu")
    write_samples(tmp_path / "c.npz", {"x": (20, 3, 12, 12)}, classes=4)
    write_samples(tmp_path / "e.npz", {"x": (20, 3, 12, 12)}, classes=4, seed=1)
    return tmp_path


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """Put a disk of that size at `place`, or skip where that is not allowed."""
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "edgeport-test", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("output", ["file", "file/out", "/proc/out"])
def test_output_that_cannot_be_made_is_refused_before_work(folder: Path, output: str) -> None:
    (folder / "file").touch()
    run = edgeport("build", MODEL, "--target", "cpu", *FLOAT, "--output", output, store=folder / "store", cwd=folder)
    refused(run, 2, f"output folder '{output}' cannot be made")
    assert not (folder / "store").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_without_permission_is_refused_before_work(folder: Path) -> None:
    (folder / "out").mkdir(mode=0o555)
    run = edgeport("build", MODEL, "--target", "cpu", *FLOAT, "--output", "out", store=folder / "store", cwd=folder)
    refused(run, 2, "output folder 'out' is not writable")


def test_store_that_cannot_be_made_is_refused_before_work(folder: Path) -> None:
    (folder / "file").touch()
    run = edgeport("build", MODEL, "--target", "cpu", *FLOAT, "--output", "out", store=folder / "file", cwd=folder)
    refused(run, 2, "store folder", "cannot be made", "EDGEPORT_STORE", output=folder / "out")


@pytest.mark.slow
def test_full_output_disk_leaves_nothing_and_the_next_run_finishes(folder: Path) -> None:
    """The files together have about 110 kB; the first disk is too small for the first of them."""
    arguments = ("build", MODEL, "--target", "cpu", *FLOAT)
    for size in ("8k", "60k", "100k"):
        with small_disk(folder / "disk", size):
            run = edgeport(*arguments, "--output", "disk/out", store=folder / "store", cwd=folder)
            refused(run, 4, "no space left on the device at 'disk/out", output=folder / "disk")
    run = edgeport(*arguments, "--output", "out", store=folder / "store", cwd=folder)
    assert run.code == 0, run.err


@pytest.mark.slow
def test_full_store_is_told_and_the_next_run_finishes(folder: Path) -> None:
    """It fills up in another stage with each size: trace, distill, lower."""
    arguments = ("build", MODEL, "--target", "cpu", *STAGES, "--max-drop", "100")
    for size in ("8k", "64k", "148k"):
        with small_disk(folder / "disk", size):
            run = edgeport(*arguments, "--output", "out", store=folder / "disk" / "store", cwd=folder)
            refused(run, 4, "no space left on the device at '", output=folder / "out")
            assert not [name for name in files_of(folder / "disk" / "store") if name.startswith("tmp/")]
    run = edgeport(*arguments, "--output", "out", store=folder / "store", cwd=folder)
    assert run.code in {0, 6}, run.err


def test_file_size_limit_is_told_like_a_full_disk(folder: Path) -> None:
    command = f"ulimit -f 16; exec '{sys.executable}' -m edgeport build '{MODEL}' --target cpu --output out "
    done = subprocess.run(
        ["bash", "-c", command + " ".join(FLOAT)],
        env=environment(folder / "store"),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "edgeport: error: no space left on the device" in done.stderr
    assert "Traceback" not in done.stderr
    assert files_of(folder / "out") == {}


@pytest.mark.parametrize(("stream", "code", "words"), [("/dev/full", 4, "no space left"), ("|", 1, "nobody reads")])
def test_stdout_that_takes_nothing_is_told(tmp_path: Path, stream: str, code: int, words: str) -> None:
    command = f"'{sys.executable}' -m edgeport targets"
    command = f"{command} > {stream}" if stream != "|" else f"{command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    if stream == "|" and done.returncode == 0:
        pytest.skip("the pipe was closed only after everything had been written")
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert words in done.stderr


HIDE = """
import importlib.machinery, importlib.metadata, sys

DISTRIBUTIONS, MODULES = {distributions!r}, {modules!r}
PathFinder = importlib.machinery.PathFinder
look_up, find = importlib.metadata.distribution, PathFinder.find_spec


def distribution(name):
    if name.lower() in DISTRIBUTIONS:
        raise importlib.metadata.PackageNotFoundError(name)
    return look_up(name)


def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in MODULES else find(name, path, target)


importlib.metadata.distribution, PathFinder.find_spec = distribution, find_spec
"""


def without(folder: Path, *distributions: str) -> dict[str, str]:
    """Return variables under which Python does not find these distributions."""
    modules = {name.replace("-", "_") for name in distributions} | {
        "sklearn" for name in distributions if name == "scikit-learn"
    }
    (folder / "shim").mkdir()
    text = HIDE.format(distributions=set(distributions), modules=modules)
    (folder / "shim" / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": os.pathsep.join([str(folder / "shim"), environment(folder)["PYTHONPATH"]])}


@pytest.mark.parametrize(
    ("target", "package", "extra"),
    [("arm64", "ai-edge-litert", "tflite"), ("intel", "openvino", "openvino"), ("cpu", "onnxruntime", "onnxruntime")],
)
def test_missing_runtime_is_told_with_the_command_before_work(
    tmp_path: Path, target: str, package: str, extra: str
) -> None:
    variables = without(tmp_path, package)
    run = edgeport("build", "--target", target, "--output", "out", store=tmp_path / "store", cwd=tmp_path, **variables)
    refused(run, 3, f"{package} not installed: pip install 'edgeport[{extra}]'", output=tmp_path / "out")
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "out").exists()


def test_doctor_names_what_is_missing_and_the_command(tmp_path: Path) -> None:
    metadata.version("edgeport")  # doctor reads the installed edgeport's own metadata
    run = edgeport("doctor", store=tmp_path / "store", cwd=tmp_path, **without(tmp_path, "openvino"))
    assert run.code == 0, run.err
    line = next(line for line in run.out.splitlines() if line.split()[1:3] == ["openvino", "openvino"])
    assert "missing" in line
    assert "fix: pip install 'edgeport[openvino]'" in run.out


def test_missing_demo_data_is_told_with_the_command(tmp_path: Path) -> None:
    target_or_skip("cpu")
    variables = without(tmp_path, "scikit-learn")
    run = edgeport("build", "--target", "cpu", "--output", "out", store=tmp_path / "store", cwd=tmp_path, **variables)
    refused(run, 3, "pip install 'edgeport[demo]'", output=tmp_path / "out")
