"""The part of a build's validation that runs on the cores a target names, kept in the store core by core."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from edgeport.devices import host, qemu
from edgeport.devices import sysroot as systems
from edgeport.devices.agent import LACKS
from edgeport.devices.device import Device, end_running
from edgeport.devices.sysroot import Runtime, Sysroot
from edgeport.errors import ConfigError, MissingPackageError, StageError
from edgeport.profile import TargetProfile
from edgeport.store import Store, digest
from edgeport.types import Metric
from edgeport.validation.cores import (
    HOST_RUNTIMES,
    CoreRun,
    Yardstick,
    metrics,
    run_on,
    sample_count,
    spread,
    write_rows,
)

if TYPE_CHECKING:
    from edgeport.dataset import Dataset
    from edgeport.stages.lower import Lowered
    from edgeport.validation.validate import Reference

NO_EMULATE = "emulation is switched off (--no-emulate)"


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """What a build says of a target's file on the target's cores.

    Attributes:
        metrics: figures, judged.
        runs: a row a core and runtime.
        notes: what was not run, and why.
        seconds: wall seconds that the runs took, added up.
    """

    metrics: tuple[Metric, ...] = ()
    runs: tuple[CoreRun, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The samples, and what is known of them.

    Attributes:
        samples: all evaluation samples.
        inputs: gives an .npy file a network input, all of them; called only when a core has to run.
        reference: gives float PyTorch's outputs on all of them; called only then, too.
        key: of the reference.
    """

    samples: Dataset
    inputs: Callable[[], tuple[Path, ...]]
    reference: Callable[[], Reference]
    key: str


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a core and runtime: what it did, or that the runtime lacks an operator, which will not change."""

    run: CoreRun | None = None
    lacks: str = ""


@dataclass(frozen=True, kw_only=True)
class _Place:
    core: str
    runtime: Runtime
    device: Device
    key: str


def emulated(store: Store, shipped: Lowered, profile: TargetProfile, evidence: Evidence) -> Emulated:
    """Return how a file does on every core that its target names, in every runtime that the core has.

    Without the emulator or a core's system, and where a runtime lacks an operator, a note says what was not verified,
    and why. Where the file fails on a core (a crash, a hang, NaN), a figure beyond its limit says so too: the verdict
    is `fail`. Guests run beside each other, as many as this process has processors for.

    Args:
        store: where the figures are kept.
        shipped: the file.
        profile: the target.
        evidence: the samples.

    Raises:
        MissingPackageError: this machine's own runtime is not installed.
        StageError: the file fails on this machine.
    """
    if profile.isa in ("x86_64", "any"):  # a file for x86 is proven by `proof`
        return Emulated()
    count = sample_count(shipped.costs)
    places, notes = _places(shipped, profile, [evidence.key, evidence.samples.digest, count])
    kept = {place.key: _read(store.get(place.key)) for place in places}
    wanted = [place for place in places if kept[place.key] is None]
    failures: dict[str, str] = {}
    if wanted:
        with TemporaryDirectory(prefix="edgeport-") as folder:
            yardstick = _yardstick(shipped.artifact.path, profile, evidence, count, Path(folder))
            failures = _run_all(store, shipped.artifact.path, wanted, yardstick, threads=profile.threads)
        kept = {place.key: _read(store.get(place.key)) for place in places}
    found = [kept[place.key] or _Kept(lacks=failures[place.key]) for place in places]
    reasons = [(place, one.lacks) for place, one in zip(places, found, strict=True) if one.run is None]
    runs = [one.run for one in found if one.run is not None]
    notes += _unverified(reasons)
    return Emulated(
        metrics=(*metrics(runs, profile.limits), *_failures(reasons)),
        runs=tuple(runs),
        notes=tuple(notes),
        seconds=sum(run.seconds for run in runs),
    )


def switched_off(profile: TargetProfile) -> Emulated:
    """Return what a build says of a target whose cores it was told not to emulate."""
    known = [core for core in profile.cores if qemu.sysroot_of(core) is not None]
    return Emulated(notes=(f"not verified on {profile.name}: {NO_EMULATE}",) if known else ())


def _places(shipped: Lowered, profile: TargetProfile, evidence: list[object]) -> tuple[list[_Place], list[str]]:
    """Return every core and runtime that can run the file, and notes of those that cannot."""
    places: list[_Place] = []
    reasons: dict[str, None] = {}
    unknown = [core for core in profile.cores if qemu.sysroot_of(core) is None]
    for core in profile.cores:
        sysroot = qemu.sysroot_of(core)
        for runtime in sysroot.runtimes if sysroot else ():
            if sysroot is None or shipped.artifact.path.suffix not in runtime.suffixes:
                continue
            try:
                device = qemu.device(core, runtime.name)
            except (ConfigError, MissingPackageError) as error:
                reasons.setdefault(str(error))
                continue
            key = digest("emulated core", shipped.key, evidence, profile.threads, _identity(device, sysroot, runtime))
            places.append(_Place(core=core, runtime=runtime, device=device, key=key))
    notes = [f"not verified on {profile.name}: {why}" for why in reasons]
    if unknown:
        notes.append(f"not verified on {', '.join(unknown)}: QEMU has no such core")
    return places, notes


def _identity(device: Device, sysroot: Sysroot, runtime: Runtime) -> list[str]:
    """Return what decides a guest's answers, and this machine, which they are held against."""
    guest = [device.name, runtime.name, qemu.version(device), systems.content(sysroot, runtime)]
    return [*guest, platform.machine(), platform.node()]


def _yardstick(path: Path, profile: TargetProfile, evidence: Evidence, count: int, folder: Path) -> Yardstick:
    labels = evidence.samples.labels()
    rows = spread(count, len(evidence.samples), labels)
    inputs = write_rows(evidence.inputs(), rows, folder)
    return Yardstick(
        inputs=inputs,
        native=host.run(path, inputs, threads=profile.threads).outputs,
        expected=tuple(output[rows] for output in evidence.reference().outputs),
        labels=None if labels is None else labels[rows],
    )


def _run_all(
    store: Store, path: Path, places: Sequence[_Place], yardstick: Yardstick, *, threads: int
) -> dict[str, str]:
    """Run a file at every place, keep what was found, and return key -> why, for those that did not work."""

    def run(place: _Place) -> str:
        try:
            found = run_on(path, place.device, yardstick, threads=threads)
        except StageError as error:
            why = str(error).removeprefix(f"{path.name} on {place.device.name}: ")
            why = why.replace(str(path), path.name)  # a report names no folder of this machine
            if why.endswith(LACKS):
                _keep(store, place, _Kept(lacks=why))
            return why
        _keep(store, place, _Kept(run=found))
        return ""

    with ThreadPoolExecutor(max(1, _processors() // threads)) as pool:
        try:
            reasons = list(pool.map(run, places))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_running()  # guests hear no Ctrl-C
            raise
    return {place.key: why for place, why in zip(places, reasons, strict=True) if why}


def _failures(reasons: Sequence[tuple[_Place, str]]) -> list[Metric]:
    """Return `failures@cortex-a53`, or `failures@tflite-runtime`: runs that ended badly, of which there may be none."""
    names = [
        place.core if place.runtime.name in HOST_RUNTIMES else place.runtime.name
        for place, why in reasons
        if not why.endswith(LACKS)
    ]
    return [
        Metric(name=f"failures@{name}", value=count, unit="runs", origin="emulated", limit=0, passed=False)
        for name, count in Counter(names).items()
    ]


def _unverified(reasons: Sequence[tuple[_Place, str]]) -> list[str]:
    """Return a note for each reason that some places did not work."""
    cores: dict[tuple[str, str], list[str]] = {}
    for place, why in reasons:
        cores.setdefault((f"{place.runtime.name} {place.runtime.version}", why), []).append(place.core)
    return [f"not verified on {', '.join(names)} in {runtime}: {why}" for (runtime, why), names in cores.items()]


def _processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep(store: Store, place: _Place, kept: _Kept) -> None:
    with store.put(place.key) as fresh:
        (fresh / "core.json").write_bytes(msgspec.json.encode(kept))


def _read(folder: Path | None) -> _Kept | None:
    return None if folder is None else msgspec.json.decode((folder / "core.json").read_bytes(), type=_Kept)
