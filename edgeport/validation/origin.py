"""Where a figure comes from: this machine is the target's kind of hardware, or only a stand-in for it."""

from __future__ import annotations

import platform

from edgeport.devices.processor import has_vnni
from edgeport.profile import TargetProfile
from edgeport.types import Origin

_SAME = {"amd64": "x86_64", "arm64": "aarch64"}  # what Windows and macOS call them


def host_isa() -> str:
    """Return this machine's instruction set as target files name it."""
    machine = platform.machine()
    return _SAME.get(machine.lower(), machine)


def origin_on_host(profile: TargetProfile) -> Origin:
    """Return the origin of what is taken by running a target's file on this machine.

    Figures that are read from the file itself (size, multiply-adds, bytes) are `measured` everywhere.
    """
    if lacks_vnni(profile):
        return "modelled"
    return "measured" if profile.isa in ("any", host_isa()) else "modelled"


def lacks_vnni(profile: TargetProfile) -> bool:
    """Whether a target's x86 files count on VNNI and this machine has none: products of 8-bit weights saturate here."""
    return "vnni" in profile.extensions and host_isa() == "x86_64" and not has_vnni()
