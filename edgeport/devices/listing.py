"""Which devices are ready, and what to do for the rest. Runs nothing and changes nothing."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from edgeport.devices import qemu
from edgeport.devices.device import HOST
from edgeport.devices.sysroot import SYSROOTS, Sysroot
from edgeport.errors import ConfigError, MissingPackageError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class State:
    """One device.

    Attributes:
        name: as `--device` takes it.
        machine: `platform.machine()` there.
        runtimes: that can run files there, with their versions; empty: those of this machine.
        is_ready: whether files can be run there now.
        remedy: what to do, where it is not.
    """

    name: str
    machine: str
    runtimes: tuple[str, ...]
    is_ready: bool
    remedy: str = ""


def states() -> tuple[State, ...]:
    """Return every device, this machine first."""
    here = State(name=HOST.name, machine=platform.machine(), runtimes=(), is_ready=True)
    return (here, *(_state(name) for name in qemu.processors()))


def _state(name: str) -> State:
    sysroot = qemu.sysroot_of(name)
    runtimes = sysroot.runtimes if sysroot else ()
    names: list[str | None] = [runtime.name for runtime in runtimes]
    reasons = [reason for runtime in names or [None] if (reason := _why_not(name, runtime))]
    remedy = next(iter(reasons), "")
    return State(
        name=f"{qemu.PREFIX}{name}",
        machine=sysroot.machine if sysroot else "x86_64",
        runtimes=tuple(f"{runtime.name} {runtime.version}" for runtime in runtimes),
        is_ready=not remedy,
        remedy=remedy,
    )


def _why_not(name: str, runtime: str | None) -> str:
    try:
        qemu.device(name, runtime)
    except (ConfigError, MissingPackageError) as error:
        return str(error)
    return ""


def sysroot_named(name: str) -> Sysroot:
    """Return the system that `edgeport devices setup NAME` makes.

    Args:
        name: `qemu:arm64`, or a device that runs on it, such as `qemu:cortex-a76`.

    Raises:
        ConfigError: there is none of that name, or nothing to set up.
    """
    plain = name.removeprefix(qemu.PREFIX)
    if name == HOST.name or plain == qemu.HASWELL:
        raise ConfigError(f"{name} runs this machine's own runtimes: there is nothing to set up")
    found = SYSROOTS.get(plain) or qemu.sysroot_of(plain)
    if found is None:
        known = [f"{qemu.PREFIX}{known}" for known in SYSROOTS]
        words = [*known, *(f"{qemu.PREFIX}{core}" for core in qemu.processors())]
        near = did_you_mean(f"{qemu.PREFIX}{plain}", words)
        raise ConfigError(f"no device '{name}' to set up; known: {', '.join(known)}{near}")
    return found
