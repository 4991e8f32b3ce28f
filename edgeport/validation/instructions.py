"""The part of a build's validation that counts instructions on every core a target names, kept in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from edgeport.devices import counting, qemu
from edgeport.devices import sysroot as systems
from edgeport.devices.counting import Counts
from edgeport.devices.device import Device
from edgeport.errors import ConfigError, MissingPackageError, StageError
from edgeport.profile import TargetProfile
from edgeport.store import Store, digest
from edgeport.types import Metric
from edgeport.validation.validate import FLOAT

if TYPE_CHECKING:
    from edgeport.stages.lower import Lowered

# Gives the emulated device of a core, e.g. `cortex-a53`, ready to run; raises `ConfigError` where this machine cannot
# emulate it and `MissingPackageError` where something has to be installed.
DeviceOf = Callable[[str], Device]

_UNITS = {
    "instructions": "instructions",
    "load_bytes": "bytes",
    "store_bytes": "bytes",
    "l1d_misses": "lines",
    "l2_misses": "lines",
}


class CoreCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What a target's files execute on one core.

    Attributes:
        precision: of the shipped file; `sparse float32` where it is the float file without zeros.
        macs: multiply-adds of the shipped file.
        shipped: one inference of it.
        floating: one inference of the float file; None where that is the shipped one.
        runtime: package and version that ran them.
        seconds: wall seconds that it took when it ran.
    """

    precision: str
    macs: int
    shipped: Counts
    floating: Counts | None
    runtime: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CountedTarget:
    """What a build says of the instructions of a target's files.

    Attributes:
        metrics: figures, none of them judged.
        cores: core -> counts; only cores that could be emulated.
        notes: why a core's could not be counted.
        seconds: wall seconds that it took when it ran.
    """

    metrics: tuple[Metric, ...] = ()
    cores: Mapping[str, CoreCounts] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def names_cores_to_count(profile: TargetProfile) -> bool:
    """Whether a target names processors of its own: ARM cores, which this machine has to emulate."""
    return bool(profile.cores) and profile.isa not in ("any", "x86_64")


def counted(
    store: Store, shipped: Lowered, floating: Lowered, profile: TargetProfile, device_of: DeviceOf
) -> CountedTarget:
    """Return what a target's files execute on each of its cores, from the store where that was counted before.

    Where a core cannot be emulated, or the emulator fails, the build goes on: a note says that it was not counted, why,
    and where something is missing, the command that gets it.

    Args:
        store: where the figures are kept.
        shipped: the file that ships.
        floating: the float file; may be `shipped` itself.
        profile: the target.
        device_of: gives the emulated device of a core.
    """
    found: dict[str, CoreCounts] = {}
    reasons: dict[str, list[str]] = {}
    for core in profile.cores if names_cores_to_count(profile) else ():
        try:
            found[core] = _on_core(store, shipped, floating, device_of(core))
        except (ConfigError, MissingPackageError, StageError) as error:
            folder = f"{shipped.artifact.path.parent}/"  # a report names no folder of this machine
            why = str(error).replace(folder, "").replace(f" on qemu:{core}", "")
            reasons.setdefault(why, []).append(core)
    notes = tuple(f"instructions not counted on {', '.join(cores)}: {why}" for why, cores in reasons.items())
    seconds = sum(counts.seconds for counts in found.values())
    return CountedTarget(metrics=metrics(found), cores=found, notes=notes, seconds=seconds)


def metrics(cores: Mapping[str, CoreCounts]) -> tuple[Metric, ...]:
    """Return `instructions` of the first core, and each core's figures: `instructions@cortex-a53`, `load_bytes@...`.

    Those of the float file end with `@float32`: `instructions@cortex-a53@float32`.
    """
    first = next(iter(cores.values()), None)
    rows = [] if first is None else [("instructions", "instructions", first.shipped.instructions)]
    for core, counts in cores.items():
        rows += _figures(counts.shipped, f"@{core}")
        rows += _figures(counts.floating, f"@{core}{FLOAT}") if counts.floating else []
    return tuple(Metric(name=name, value=value, unit=unit, origin="emulated") for name, unit, value in rows)


def _figures(counts: Counts, suffix: str) -> list[tuple[str, str, int]]:
    values = [(name, unit, getattr(counts, name)) for name, unit in _UNITS.items()]
    return [(f"{name}{suffix}", unit, value) for name, unit, value in values if value is not None]


def _guest(device: Device) -> str:
    """Return the digest of all that a core's guests may run; empty where that is this machine's own."""
    sysroot = qemu.sysroot_of(device.name.removeprefix(qemu.PREFIX))
    return systems.content(sysroot, sysroot.runtimes[0]) if sysroot else ""


def _on_core(store: Store, shipped: Lowered, floating: Lowered, device: Device) -> CoreCounts:
    key = digest("instructions", [shipped.key, floating.key], counting.identity(device), _guest(device))
    folder = store.get(key)
    if folder is not None:
        return msgspec.json.decode((folder / "counts.json").read_bytes(), type=CoreCounts)
    start = time.perf_counter()
    is_alone = shipped.artifact.path == floating.artifact.path
    files = [shipped, *([] if is_alone else [floating])]
    result = counting.count([file.artifact.path for file in files], device)
    precision: str = shipped.artifact.precision
    if not is_alone and precision == floating.artifact.precision == "float32":
        precision = f"sparse {precision}"
    counts = CoreCounts(
        precision=precision,
        macs=sum(cost.macs for cost in shipped.costs),
        shipped=result.counts[0],
        floating=None if is_alone else result.counts[1],
        runtime=f"{result.runtime} {result.runtime_version}",
        seconds=time.perf_counter() - start,
    )
    with store.put(key) as fresh:
        (fresh / "counts.json").write_bytes(msgspec.json.encode(counts))
    return counts
