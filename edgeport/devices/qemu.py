"""Processors that this machine is not, under QEMU's user mode: exact instructions, no latency.

A guest here is this machine's own Python and runtimes on another processor of the same kind, so nothing but the
emulator has to be installed. QEMU 7.2 or newer knows AVX2; it has neither AVX-512 nor VNNI.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

from edgeport.devices.device import Device
from edgeport.errors import ConfigError, MissingPackageError, did_you_mean

PREFIX = "qemu:"
FOLDER = "EDGEPORT_QEMU"  # a folder with the qemu programs, searched instead of PATH
PACKAGE = "qemu-user"  # of Debian and Ubuntu; so is its name in Fedora
_MACHINES = {"amd64": "x86_64"}  # what Windows calls it


@dataclass(frozen=True, kw_only=True)
class Guest:
    """An emulated processor.

    Attributes:
        program: QEMU's user-mode program.
        cpu: QEMU's name of the processor.
        machine: `platform.machine()` of hosts whose Python runs there.
        timeout_seconds: after that a run is ended; ResNet-20 takes 0.2 s an image, a thousand times as long.
    """

    program: str
    cpu: str
    machine: str
    timeout_seconds: float = 3600.0


GUESTS = {"haswell": Guest(program="qemu-x86_64", cpu="Haswell", machine="x86_64")}


def find(program: str) -> str | None:
    """Return where a QEMU program lies: in the folder `$EDGEPORT_QEMU` where that is set, else in `PATH`."""
    return shutil.which(program, path=os.environ.get(FOLDER))


def version(device: Device) -> str:
    """Return what an emulated device's program says of its version, e.g. `7.2.22`; empty where it does not tell."""
    try:
        said = subprocess.run([device.command[0], "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"version ([0-9.]+)", said.stdout)
    return found[1] if found else ""


def device(name: str) -> Device:
    """Return the device of an emulated processor, e.g. `haswell`, ready to run.

    Raises:
        ConfigError: no such processor, or this machine cannot emulate it.
        MissingPackageError: the emulator is not installed.
    """
    guest = GUESTS.get(name)
    if guest is None:
        raise ConfigError(f"unknown processor '{name}'; known: {', '.join(GUESTS)}{did_you_mean(name, list(GUESTS))}")
    machine = _MACHINES.get(platform.machine().lower(), platform.machine())
    if platform.system() != "Linux" or machine != guest.machine:
        raise ConfigError(f"{PREFIX}{name} needs Linux on {guest.machine}, this is {platform.system()} on {machine}")
    program = find(guest.program)
    if program is None:
        raise MissingPackageError(f"{guest.program} not found: apt-get install {PACKAGE}")
    return Device(
        name=f"{PREFIX}{name}",
        command=(program, "-cpu", guest.cpu, sys.executable, "-I"),
        is_emulated=True,
        timeout_seconds=guest.timeout_seconds,
    )
