"""What ships: the wheel's contents, the Dockerfiles' sources, and no trace of the machine it was made on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from edgeport.devices.sysroot import SYSROOTS


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("folder", ["targets", "calibration"])
def test_wheel_holds_the_data_files(folder: str, root: Path, names: set[str]) -> None:
    expected = {f"edgeport/_data/{folder}/{path.name}" for path in (root / folder).glob("*.toml")}
    assert expected
    assert expected <= names


def test_wheel_holds_weights_and_type_marker(root: Path, wheel: Path, names: set[str]) -> None:
    assert "edgeport/py.typed" in names
    with zipfile.ZipFile(wheel) as archive:
        weights = archive.read("edgeport/demo/weights.safetensors")
    assert weights == (root / "edgeport" / "demo" / "weights.safetensors").read_bytes()


def test_wheel_holds_the_source_of_the_instruction_counter_and_no_binary(names: set[str]) -> None:
    sources = {f"edgeport/devices/{name}" for name in ("instruction_counter.c", "a64_classes.h")}
    assert sources <= names
    assert not [name for name in names if name.endswith((".so", ".o"))]


def test_wheel_holds_nothing_but_the_package_and_its_metadata(names: set[str]) -> None:
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"edgeport"}
    assert not [name for name in names if name.endswith((".pyc", ".orig", "~")) or "__pycache__" in name]


def test_unpacked_wheel_finds_its_targets(root: Path, wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import edgeport.profile as p; print(p.__file__); print(*p.known_targets())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    file, targets = done.stdout.splitlines()
    assert Path(file).is_relative_to(tmp_path)
    assert targets.split() == sorted(path.stem for path in (root / "targets").glob("*.toml"))


@pytest.mark.parametrize("image", ["build", "runtime"])
def test_dockerfile_copies_files_that_the_context_holds(image: str, root: Path) -> None:
    # images are not built by these tests: a moved file would be noticed only there
    text = (root / "docker" / f"{image}.Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    kept = {
        line[1:].rstrip("/")
        for line in (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    assert copied
    for source in copied:
        assert (root / source).exists(), source
        assert any(source == entry or source.startswith(f"{entry}/") for entry in kept), f"{source}: see .dockerignore"


def test_runtime_image_takes_the_pinned_versions(root: Path) -> None:
    text = (root / "docker" / "runtime.Dockerfile").read_text(encoding="utf-8")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = dict(
        line.split("==")
        for extra in ("tflite", "openvino", "onnxruntime")
        for line in project["optional-dependencies"][extra]
    )
    documented = dict(re.findall(r"(ai-edge-litert|openvino|onnxruntime) (\d[\d.]+\d)", text))
    assert documented == {name: pins[name] for name in ("ai-edge-litert", "openvino", "onnxruntime")}
    arguments = dict(re.findall(r"^ARG (\w+)=(.+)$", text, re.MULTILINE))
    assert arguments["VERSION"] == pins[arguments["RUNTIME"]]


def test_emulated_cores_run_the_pinned_versions(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = {line for extra in ("tflite", "onnxruntime") for line in project["optional-dependencies"][extra]}
    runtime = SYSROOTS["arm64"].runtimes[0]
    wanted = {name for name, _ in runtime.requirements}
    assert {"ai-edge-litert", "onnxruntime"} == {name.partition("==")[0] for name in wanted & pins}
    for sysroot in SYSROOTS.values():
        for runtime in sysroot.runtimes:
            assert runtime.requirements[0][0] == f"{runtime.name}=={runtime.version}"


def tracked_files(root: Path) -> list[Path]:
    if not (root / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are the project's")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name and (path := root / name).is_file()]


# An absolute path, not `../work/` or `https://host/work/`; put together here so that this file does not hold one.
MACHINE_PATH = re.compile(rb"(?<![\w.~}\-])/(?:%s)/" % b"|".join([b"work", b"root", b"home", b"Users", b"tmp/w"]))


def test_no_tracked_file_names_a_path_of_this_machine(root: Path) -> None:
    files = tracked_files(root)
    assert root / "pyproject.toml" in files
    found = [
        f"{path.relative_to(root)}: {line.decode(errors='replace').strip()[:120]}"
        for path in files
        for line in path.read_bytes().splitlines()
        if MACHINE_PATH.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        (b'path = "/%s/main/x"', True),
        (b"cd /%s/", True),
        (b"../%s/x", False),
        (b"https://example.org/%s/x", False),
        (b"~/%s/x", False),
        (b"$HOME/%s/x", False),
    ],
)
def test_machine_path_pattern(line: bytes, is_found: bool) -> None:
    for folder in (b"work", b"root", b"home"):
        assert (MACHINE_PATH.search(line % folder) is not None) == is_found
