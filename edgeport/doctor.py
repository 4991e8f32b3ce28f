"""What is installed, what is missing, and the command that fixes it. Imports none of what it looks for."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from edgeport.devices import qemu
from edgeport.devices.device import HOST
from edgeport.devices.listing import states
from edgeport.devices.processor import cpu_features
from edgeport.errors import ConfigError, MissingPackageError

EXTRAS = ("tflite", "openvino", "onnxruntime", "demo")
CPU_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "sve")


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package that edgeport or one of its extras needs.

    Attributes:
        name: distribution name.
        extra: the extra that brings it; empty for what edgeport always needs.
        wanted: version specifier.
        installed: version found; None when missing.
        fits: whether the version found is one that was tested.
    """

    name: str
    extra: str
    wanted: str
    installed: str | None
    fits: bool


def packages() -> tuple[Package, ...]:
    """Return every package of edgeport and its extras, as the installed edgeport's own metadata names them."""
    found = []
    for line in metadata.requires("edgeport") or []:
        requirement = Requirement(line)
        extra = next((name for name in EXTRAS if requirement.marker and f"'{name}'" in _quoted(requirement)), "")
        if requirement.name == "edgeport" or (requirement.marker is not None and not extra):
            continue
        found.append(_look_up(requirement, extra))
    return tuple(found)


def _quoted(requirement: Requirement) -> str:
    return str(requirement.marker).replace('"', "'")


def _look_up(requirement: Requirement, extra: str) -> Package:
    try:
        version: str | None = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        version = None
    fits = version is not None and requirement.specifier.contains(version, prereleases=True)
    return Package(name=requirement.name, extra=extra, wanted=str(requirement.specifier), installed=version, fits=fits)


def require(extra: str) -> None:
    """Check that an extra's packages are installed.

    Raises:
        MissingPackageError: with the command that installs them.
    """
    missing = [package.name for package in packages() if package.extra == extra and package.installed is None]
    if missing:
        raise MissingPackageError(f"{', '.join(missing)} not installed: pip install 'edgeport[{extra}]'")


def machine() -> dict[str, str]:
    """Return facts about this machine that decide what can be measured here."""
    features = cpu_features()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu extensions": ", ".join(name for name in CPU_FEATURES if name in features) or "unknown",
        "environment": "virtual" if sys.prefix != sys.base_prefix else "system",
        "emulation": _emulation(),
        "ARM cores": _arm_cores(),
    }


def _arm_cores() -> str:
    """Say which ARM cores int8 files can be run on under emulation, or what is missing for that."""
    guests = [state for state in states() if state.machine in ("aarch64", "armv7l") and state.name != HOST.name]
    ready = [state.name for state in guests if state.is_ready]
    return ", ".join(ready) if ready else f"{guests[0].remedy} (TFLite files stay unverified on them)"


def _emulation() -> str:
    """Say whether int8 files can be proven on an x86 processor without VNNI, or what is missing for that."""
    try:
        device = qemu.device("haswell")
    except (ConfigError, MissingPackageError) as error:
        return f"{error} (int8 files stay unverified on x86 without VNNI)"
    return f"{device.name} by {qemu.version(device) or 'an unknown version'} of {device.command[0]}"
