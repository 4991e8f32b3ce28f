"""Work with a finished output folder: check it, run it, time it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from edgeport.dataset import open_dataset
from edgeport.devices import host, qemu
from edgeport.devices.host import bench
from edgeport.errors import ConfigError, LimitError
from edgeport.store import file_digest
from edgeport.validation import cores
from edgeport.validation import isa as emulation
from edgeport.validation.probe import random_inputs, sample_inputs

if TYPE_CHECKING:
    from edgeport.dataset import Dataset
    from edgeport.devices.device import Device

LARGEST_CHANGE_PERCENT = 5.0  # of answers, from one processor to another: as `Limits.min_agreement`
SUFFIXES = (".tflite", ".xml", ".onnx")


class _File(msgspec.Struct, frozen=True):
    sha256: str


class _Manifest(msgspec.Struct, frozen=True):
    files: dict[str, _File]


def artifacts(bundle: Path) -> tuple[Path, ...]:
    """Return the shipped files of an output folder, or of one target's folder.

    Raises:
        ConfigError: there is none.
    """
    found = sorted(file for file in (*bundle.glob("model.*"), *bundle.glob("*/model.*")) if file.suffix in SUFFIXES)
    if not found:
        raise ConfigError(f"no model.tflite, model.xml or model.onnx in '{bundle}' or its folders")
    return tuple(found)


def verify_bundle(bundle: Path) -> Iterator[str]:
    """Check each listed file's digest, then run every artifact once; yield a line a finding.

    Raises:
        ConfigError: no manifest.
        LimitError: a file is missing or changed.
    """
    damaged = []
    for name, known in _listed(bundle).items():
        file = bundle / name
        state = "missing" if not file.is_file() else "ok" if file_digest(file) == known.sha256 else "changed"
        yield f"{state:<8} {name}"
        if state != "ok":
            damaged.append(f"{name} is {state}")
    if damaged:
        raise LimitError("; ".join(damaged))
    for file in artifacts(bundle):
        timing = bench([file], threads=1, rounds=1)[0]
        yield f"runs     {file.relative_to(bundle)} ({timing.p50_ms:.3f} ms, measured on this machine)"


def verify_isa(bundle: Path, device: Device, *, evaluate: str | None, samples: int) -> Iterator[str]:
    """Run every shipped file here, in exact arithmetic and on an emulated processor; yield a line a file.

    Args:
        bundle: an output folder, or one target's folder.
        device: the processor.
        evaluate: data to run, or None: random numbers of the range that each file takes.
        samples: how many.

    Raises:
        ConfigError: wrong data, or no files.
        MissingPackageError: a runtime is not installed.
        StageError: a file fails in its runtime, here or there.
        LimitError: a file answers otherwise there than in exact arithmetic.
    """
    data = None if evaluate is None else open_dataset(evaluate)
    wrong = []
    for file in artifacts(bundle):
        with TemporaryDirectory(prefix="edgeport-") as folder:
            inputs = _inputs(file, data, samples, Path(folder))
            proof = emulation.prove(file, inputs, device=device)
        name = file.relative_to(bundle)
        chosen = f"samples of {data.name}" if data else "random samples, for want of --evaluate"
        yield (
            f"{proof.isa:<8} {name}: {_told(proof.emulated)} against exact arithmetic, "
            f"{_told(proof.against_native)} against this machine ({proof.samples} {chosen})"
        )
        if said := emulation.sentence(proof):
            yield f"{'':<8} {name}: {said}"
        if proof.emulated.logit_difference:
            wrong.append(f"{name} answers otherwise on {proof.isa}: {_told(proof.emulated)}")
    if wrong:
        raise LimitError("; ".join(wrong))


def verify_core(bundle: Path, core: str, *, evaluate: str | None, samples: int) -> Iterator[str]:
    """Run every shipped file on an emulated ARM core, in each of its runtimes; yield a line a file and runtime.

    Args:
        bundle: an output folder, or one target's folder.
        core: the core's name.
        evaluate: data to run, or None: random numbers of the range that each file takes.
        samples: how many.

    Raises:
        ConfigError: wrong data, no files, or none that a runtime of that core can run.
        MissingPackageError: a runtime is not installed, or the core is not set up.
        StageError: a file fails in its runtime, here or there.
        LimitError: on samples of data, a file has fewer than 95 % of its answers in common with this machine.
    """
    sysroot = qemu.sysroot_of(core)
    if sysroot is None:
        raise ConfigError(f"{core} is no ARM core that can be emulated")
    data = None if evaluate is None else open_dataset(evaluate)
    chosen = f"samples of {data.name}" if data else "random samples, for want of --evaluate"
    pairs = [(file, runtime) for file in artifacts(bundle) for runtime in sysroot.runtimes]
    pairs = [(file, runtime) for file, runtime in pairs if file.suffix in runtime.suffixes]
    if not pairs:
        raise ConfigError(f"no file in '{bundle}' is for a runtime of {core}")
    wrong = []
    for file, runtime in pairs:
        with TemporaryDirectory(prefix="edgeport-") as folder:
            inputs = _inputs(file, data, samples, Path(folder))
            native = host.run(file, inputs).outputs
            held = cores.Yardstick(inputs=inputs, native=native, expected=native)
            found = cores.run_on(file, qemu.device(core, runtime.name), held, threads=1)
        name = f"{file.relative_to(bundle)} in {found.runtime} {found.runtime_version}"
        flips = "" if found.flips is None else f", {found.flips} of another top-1"
        yield (
            f"{core} {name}: {found.identical} of {found.samples} have the same bits as on this machine{flips}, "
            f"max |dlogit| {found.difference:.3g} ({found.samples} {chosen})"
        )
        if data and found.flips is not None and 100 * found.flips > LARGEST_CHANGE_PERCENT * found.samples:
            wrong.append(f"{name} answers {found.flips} of {found.samples} samples otherwise on {core}")
    if wrong:
        raise LimitError("; ".join(wrong))


def _inputs(file: Path, data: Dataset | None, samples: int, folder: Path) -> tuple[Path, ...]:
    return random_inputs(file, samples, folder) if data is None else sample_inputs(data, samples, folder)


def _told(found: emulation.Comparison) -> str:
    flips = "no class scores" if found.flips is None else f"{found.flips} flip{'' if found.flips == 1 else 's'}"
    return f"{flips} and max |dlogit| {found.logit_difference:.3g}"


def _listed(bundle: Path) -> Mapping[str, _File]:
    path = bundle / "manifest.json"
    try:
        listed = msgspec.json.decode(path.read_bytes(), type=_Manifest).files
    except FileNotFoundError as error:
        raise ConfigError(f"no manifest.json in '{bundle}'") from error
    except msgspec.MsgspecError as error:
        raise ConfigError(f"'{path}' is not a manifest of edgeport build: {error}") from error
    for name in listed:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ConfigError(f"'{path}' is not a manifest of edgeport build: '{name}' lies outside its folder")
    return listed


def bench_bundle(bundle: Path, *, threads: int) -> Iterator[str]:
    """Time each target's shipped file against its float file; yield a line a file."""
    for shipped in artifacts(bundle):
        pair = [shipped, shipped.with_name(f"model-float{shipped.suffix}")]
        timings = bench([file for file in pair if file.is_file()], threads=threads)
        for file, timing in zip(pair, timings, strict=False):
            yield (
                f"{file.relative_to(bundle)}: p50 {timing.p50_ms:.3f} ms, p90 {timing.p90_ms:.3f} ms, "
                f"{threads} thread{'s' if threads > 1 else ''}, measured on this machine"
            )
