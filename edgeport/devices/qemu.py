"""Processors that this machine is not, under QEMU's user mode: exact instructions, no latency.

`qemu:haswell` is this machine's own Python and runtimes on another processor of the same kind, so nothing but the
emulator has to be installed. ARM cores run a small system of their own (`edgeport.devices.sysroot`), which `edgeport
devices setup` makes. QEMU 7.2 or newer knows AVX2 and the cores here; it has neither AVX-512 nor VNNI.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from edgeport.devices import sysroot as systems
from edgeport.devices.device import Device
from edgeport.devices.sysroot import SYSROOTS, Runtime, Sysroot
from edgeport.errors import ConfigError, MissingPackageError, did_you_mean

PREFIX = "qemu:"
FOLDER = "EDGEPORT_QEMU"  # a folder with the qemu programs, searched instead of PATH
PACKAGE = "qemu-user"  # of Debian and Ubuntu; so is its name in Fedora
HASWELL = "haswell"
TIMEOUT_SECONDS = 3600.0  # on Haswell; ResNet-20 takes 0.2 s an image there, a thousand times as long
GUEST_TIMEOUT_SECONDS = 1200.0  # on an ARM core, whose samples are chosen to take half a minute
_MACHINES = {"amd64": "x86_64"}  # what Windows calls it


def processors() -> tuple[str, ...]:
    """Return the names of all processors that can be emulated."""
    return (HASWELL, *(core for sysroot in SYSROOTS.values() for core in sysroot.cores))


def sysroot_of(name: str) -> Sysroot | None:
    """Return the system that a processor's guests run on; None where that is this machine's own."""
    return next((sysroot for sysroot in SYSROOTS.values() if name in sysroot.cores), None)


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


def device(name: str, runtime: str | None = None) -> Device:
    """Return the device of an emulated processor, e.g. `haswell` or `cortex-a76`, ready to run.

    Args:
        name: of the processor, with or without `qemu:`.
        runtime: of an ARM core: `ai-edge-litert` or `tflite-runtime`; None: the newest it has.

    Raises:
        ConfigError: no such processor or runtime, or this machine cannot emulate it.
        MissingPackageError: the emulator is not installed, or the processor's system is not set up; with the command.
    """
    name = name.removeprefix(PREFIX)
    if name not in processors():
        known = list(processors())
        raise ConfigError(f"unknown processor '{name}'; known: {', '.join(known)}{did_you_mean(name, known)}")
    sysroot = sysroot_of(name)
    if sysroot is None:
        return _haswell(runtime)
    chosen = sysroot.runtimes[0] if runtime is None else sysroot.runtime(runtime)
    if chosen is None:
        known = [found.name for found in sysroot.runtimes]
        raise ConfigError(
            f"{PREFIX}{name} has no runtime '{runtime}'; known: {', '.join(known)}{did_you_mean(str(runtime), known)}"
        )
    if platform.system() != "Linux":
        raise ConfigError(f"{PREFIX}{name} needs Linux, this is {platform.system()}")
    absent = systems.missing(sysroot, chosen)
    if absent and find(sysroot.program) is None:
        raise MissingPackageError(f"{_not_found(sysroot.program)}, then {setup_command(sysroot)}")
    if absent:
        begun = f"is only partly set up ({', '.join(absent)} missing)" if sysroot.is_begun else "is not set up"
        raise MissingPackageError(f"{PREFIX}{sysroot.name} {begun}: {setup_command(sysroot)}")
    return guest(sysroot, chosen, name)


def guest(sysroot: Sysroot, runtime: Runtime, core: str, *, bytecode: Path | None = None) -> Device:
    """Return the device of an ARM core, whether or not its system is finished.

    Args:
        sysroot: the core's system.
        runtime: to run files with.
        core: which core.
        bytecode: folder to compile Python's modules into; None: those that are there are read, and none is written.

    Raises:
        MissingPackageError: the emulator is not installed.
    """
    place = sysroot.place
    system = place / systems.SYSTEM
    compiled = place / systems.bytecode_part(runtime)
    environment = {
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",  # so that instructions can be counted
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": str(place / runtime.name),
        "PYTHONPYCACHEPREFIX": str(bytecode or compiled),
    }
    environment |= {} if bytecode else {"PYTHONDONTWRITEBYTECODE": "1"}
    if sysroot.libraries:
        environment["LD_LIBRARY_PATH"] = ":".join(str(system / folder) for folder in sysroot.libraries)
    prefix = str(place / systems.PREFIXES / core)
    return Device(
        name=f"{PREFIX}{core}",
        # -P: the agent's folder is no place for Python to look for modules. Not -I, which ignores PYTHON* variables.
        command=(_program(sysroot.program), "-cpu", core, "-L", prefix, str(system / systems.PYTHON), "-P"),
        environment=environment,
        is_emulated=True,
        is_apart=True,
        timeout_seconds=GUEST_TIMEOUT_SECONDS,
    )


def setup_command(sysroot: Sysroot) -> str:
    """Return what a user types to set up a system."""
    return f"edgeport devices setup {PREFIX}{sysroot.name}"


def _haswell(runtime: str | None) -> Device:
    name, machine = f"{PREFIX}{HASWELL}", _MACHINES.get(platform.machine().lower(), platform.machine())
    if runtime is not None:
        raise ConfigError(f"{name} runs this machine's runtimes; there is no '{runtime}' to choose")
    if platform.system() != "Linux" or machine != "x86_64":
        raise ConfigError(f"{name} needs Linux on x86_64, this is {platform.system()} on {machine}")
    return Device(
        name=name,
        command=(_program("qemu-x86_64"), "-cpu", "Haswell", sys.executable, "-I"),
        is_emulated=True,
        timeout_seconds=TIMEOUT_SECONDS,
    )


def _program(name: str) -> str:
    found = find(name)
    if found is None:
        raise MissingPackageError(_not_found(name))
    return found


def _not_found(name: str) -> str:
    return f"{name} not found: apt-get install {PACKAGE}"
