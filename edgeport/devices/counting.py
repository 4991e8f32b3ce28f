"""Counts what a processor executes in one inference: the agent under QEMU, with the instruction counter loaded.

Only the runtime's own call is counted (`interpreter.invoke()`, without setting inputs or fetching outputs), and what an
empty call costs is taken off. Each file has two regions in one process, and a figure is the lower one: what disturbs it
adds, and in the first region caches are cold. Hash seeds are fixed, garbage collection is off, and the guest hears none
of this process's variables (their length moves its stack), so two processes give the same figures. Batch one, one
thread.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from edgeport.devices import counter, qemu
from edgeport.devices.caches import CACHES
from edgeport.devices.device import Device, call
from edgeport.errors import ConfigError, StageError

REPEATS = 2  # regions a file
_KEPT = ("LD_LIBRARY_PATH",)  # of this process's variables, where a guest that is this machine's own Python needs them

MULTIPLIES = ("sdot", "smmla", "smlal", "smull", "mla", "fmla")  # classes that multiply and, but for `smull`, add


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What one inference with batch one executes.

    Attributes:
        instructions: all of them.
        load_bytes: bytes read from memory by instructions, caches disregarded.
        store_bytes: bytes written.
        l1d_misses: lines not found in the modelled first level; None without a row in `caches.CACHES`.
        l2_misses: of those, lines not found in the second level either.
        classes: instructions by class, A64 only: `branch`, `load_store`, `integer` and `simd` are all there are;
            `sdot`, `smmla`, `smlal`, `smull`, `mla` and `fmla` are families of multiplying ones within `simd`
            (`a64_classes.h`).
    """

    instructions: int
    load_bytes: int
    store_bytes: int
    l1d_misses: int | None = None
    l2_misses: int | None = None
    classes: Mapping[str, int] = {}

    @property
    def multiplies(self) -> dict[str, int]:
        """Multiplying instructions by family, the most frequent first; only those that occur."""
        found = {name: self.classes.get(name, 0) for name in MULTIPLIES}
        return {name: number for name, number in sorted(found.items(), key=lambda item: -item[1]) if number}


class _Said(msgspec.Struct):
    runtime: str
    runtime_version: str


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What one device counted.

    Attributes:
        counts: a value a file, in the order they were given.
        runtime: package that ran them.
        runtime_version: its version.
    """

    counts: tuple[Counts, ...]
    runtime: str
    runtime_version: str


def identity(device: Device) -> str:
    """Return what names a device's figures: the processor, the emulator, the counter and the cache model.

    Raises:
        MissingPackageError: no compiler, or no header of that QEMU.
        ConfigError: `$EDGEPORT_QEMU_HEADER` names no header; the device is not emulated.
    """
    version = _version(device)
    return " ".join([device.name, version, counter.key(version), *_cache_options(device), str(REPEATS)])


def count(
    paths: Sequence[Path],
    device: Device,
    *,
    inputs: Sequence[Path] = (),
    io: Path | None = None,
    repeats: int = REPEATS,
) -> Counted:
    """Count one inference of each file.

    Args:
        paths: the files; all with the same suffix. They are loaded side by side into one process.
        device: an emulated processor; its command starts with QEMU's program.
        inputs: an .npy file a network input, whose first sample runs; none: seeded random numbers.
        io: map of inputs and outputs; None: `io.json` beside each file.
        repeats: regions a file; its figures are their lowest.

    Raises:
        MissingPackageError: no compiler, no header, or an emulator without plugins or of another interface.
        ConfigError: the device is not emulated.
        StageError: a file does not load, the guest crashes or hangs, the disk is full.
    """
    plugin = counter.library(_version(device))
    program = device.command[0]
    counter.check(program, plugin)
    arguments = ["count", *(str(path.absolute()) for path in paths), "--repeats", str(repeats)]
    arguments += ["--inputs", *(str(path.absolute()) for path in inputs)] if inputs else []
    with TemporaryDirectory(prefix="edgeport-") as folder:
        out = Path(folder) / "regions"
        options = ",".join([counter.escaped(plugin), f"out={counter.escaped(out)}", *_cache_options(device)])
        words = ["-sP" if word == "-I" else word for word in device.command[1:]]  # -I would leave the hash seed random
        counting = replace(device, command=("env", "-i", *_variables(device), program, "-plugin", options, *words))
        said = msgspec.convert(call(counting, arguments, paths, threads=1, io=io), _Said)
        regions = parse(out.read_text(encoding="utf-8"), expected=repeats * (1 + len(paths)))
    return Counted(counts=lowest(regions, 1 + len(paths)), runtime=said.runtime, runtime_version=said.runtime_version)


def parse(text: str, *, expected: int) -> list[dict[str, int]]:
    """Return the regions that the counter wrote, in order.

    Args:
        text: a line of JSON a region, and a last one that tells how many there are.
        expected: how many regions the agent marked.

    Raises:
        StageError: the text is not whole, or has another number of regions.
    """
    try:
        lines: list[dict[str, int]] = [json.loads(line) for line in text.splitlines()]
    except ValueError as error:
        raise StageError(f"the instruction counter's file is damaged: {error}") from error
    if not lines or lines[-1] != {"regions": len(lines) - 1}:
        raise StageError(f"the instruction counter's file ends after {len(lines)} lines, unfinished")
    if len(lines) - 1 != expected:
        raise StageError(f"the instruction counter saw {len(lines) - 1} regions, the agent marked {expected}")
    return lines[:-1]


def lowest(regions: Sequence[Mapping[str, int]], period: int) -> tuple[Counts, ...]:
    """Return each file's figures: the lowest of its regions, less those of the empty one.

    Args:
        regions: the empty one and then one a file, and so on for every repeat.
        period: 1 + the number of files.
    """
    found = [
        {name: min(region[name] for region in regions[place::period]) for name in regions[place]}
        for place in range(period)
    ]
    return tuple(_counts({name: max(0, value - found[0][name]) for name, value in one.items()}) for one in found[1:])


def _counts(figures: Mapping[str, int]) -> Counts:
    own = ("instructions", "load_bytes", "store_bytes", "l1d_misses", "l2_misses")
    return Counts(
        instructions=figures["instructions"],
        load_bytes=figures["load_bytes"],
        store_bytes=figures["store_bytes"],
        l1d_misses=figures.get("l1d_misses"),
        l2_misses=figures.get("l2_misses"),
        classes={name: value for name, value in figures.items() if name not in own},
    )


def _variables(device: Device) -> list[str]:
    """Return all variables of the guest, as `env` takes them."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    variables = {**kept, **device.environment, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    return [f"{name}={value}" for name, value in variables.items()]


def _cache_options(device: Device) -> tuple[str, ...]:
    caches = CACHES.get(device.name.rpartition(":")[2])
    return caches.options if caches else ()


def _version(device: Device) -> str:
    if not device.is_emulated:
        raise ConfigError(f"instructions are counted under emulation, '{device.name}' is not emulated")
    version = qemu.version(device)
    if not version:
        raise StageError(f"{device.command[0]} --version tells no version")
    return version
