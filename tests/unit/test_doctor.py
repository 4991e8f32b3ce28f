"""Doctor: what edgeport's own metadata asks for, what is installed, and the command that helps."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from edgeport.devices.processor import cpu_features
from edgeport.doctor import EXTRAS, machine, packages, require
from edgeport.errors import MissingPackageError


def declared(root: Path) -> set[tuple[str, str, str]]:
    """Return (extra, package, versions) as pyproject.toml declares them."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **{extra: project["optional-dependencies"][extra] for extra in EXTRAS}}
    return {
        (extra, canonicalize_name(requirement.name), str(requirement.specifier))
        for extra, lines in groups.items()
        for requirement in map(Requirement, lines)
    }


def test_every_declared_package_is_looked_for(root: Path) -> None:
    assert {(found.extra, found.name, found.wanted) for found in packages()} == declared(root)


def test_installed_version_is_held_against_the_wanted() -> None:
    found = {package.name: package for package in packages()}
    torch = found["torch"]
    assert torch.installed == metadata.version("torch")
    assert torch.fits == (Version(metadata.version("torch")).release[:2] == (2, 13))
    assert found["msgspec"].extra == ""


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let importlib.metadata see other versions; None: not installed."""
    real = metadata.version

    def apply(**versions: str | None) -> None:
        told = {name.replace("_", "-"): version for name, version in versions.items()}

        def version(name: str) -> str:
            if name not in told:
                return real(name)
            found = told[name]
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(metadata, "version", version)

    return apply


def test_absent_extra_is_told_with_the_command(pretend: Callable[..., None]) -> None:
    pretend(openvino=None, onnxscript=None, onnx="1.23.2")
    with pytest.raises(MissingPackageError) as caught:
        require("openvino")
    assert str(caught.value) == "onnxscript, openvino not installed: pip install 'edgeport[openvino]'"
    assert caught.value.exit_code == 3


def test_installed_extra_is_quiet_and_others_do_not_matter(pretend: Callable[..., None]) -> None:
    pretend(openvino=None, onnx="1.23.2", onnxscript="0.7.2", onnxruntime="1.32.0")
    require("onnxruntime")


def test_missing_and_other_versions_do_not_fit(pretend: Callable[..., None]) -> None:
    pretend(openvino=None, onnxruntime="1.20.0", torch="2.13.0+cpu")
    found = {(package.extra, package.name): package for package in packages()}
    missing, old, torch = (
        found["openvino", "openvino"],
        found["onnxruntime", "onnxruntime"],
        found["", "torch"],
    )
    assert (missing.installed, missing.fits) == (None, False)
    assert (old.installed, old.fits) == ("1.20.0", False)
    assert (torch.installed, torch.fits) == ("2.13.0+cpu", True)  # the build tag is no other version


def test_facts_of_this_machine() -> None:
    facts = machine()
    assert facts["python"] == platform.python_version()
    assert platform.machine() in facts["system"]
    assert facts["environment"] in ("virtual", "system")


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="the features are read from Linux's /proc/cpuinfo")
def test_features_are_words_of_the_processors_list() -> None:
    features = cpu_features()
    assert features
    assert features <= set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    if platform.machine() == "x86_64":
        assert {"fpu", "sse2"} <= features  # every x86-64 has them


def test_emulator_is_looked_for_and_its_absence_told_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("qemu:haswell needs Linux on x86_64")
    monkeypatch.setenv("EDGEPORT_QEMU", "")
    assert machine()["emulation"].startswith("qemu-x86_64 not found: apt-get install qemu-user")
    assert machine()["ARM cores"].startswith("qemu-aarch64 not found: apt-get install qemu-user")
    program = tmp_path / "qemu-x86_64"
    program.write_text("#!/bin/sh\necho qemu-x86_64 version 7.2.22\n")
    program.chmod(0o755)
    monkeypatch.setenv("EDGEPORT_QEMU", str(tmp_path))
    assert machine()["emulation"] == f"qemu:haswell by 7.2.22 of {program}"
