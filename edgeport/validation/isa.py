"""Whether an integer file answers the same on a processor that is not here, under emulation.

Held against exact arithmetic (`exact`), not against this machine, whose kernels may saturate as well. Where the
emulated processor gives the bits of the exact form on this machine, nothing saturates and all is said. Where it does
not, the exact form runs on the emulated processor too: then all float kernels are the same, and what still differs is
integer arithmetic alone. So a difference of 0 is the only passing one, and rounding never counts as a flip.

A file none of whose layers can saturate is its own exact form: what differs from this machine then is float rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeport.devices import host
from edgeport.devices.device import Device
from edgeport.errors import StageError
from edgeport.profile import Limits, TargetProfile
from edgeport.types import Metric
from edgeport.validation.exact import write_exact
from edgeport.validation.judge import judge
from edgeport.validation.parity import class_scores

HASWELL = "haswell"  # AVX2 without VNNI: the weakest processor that x86 targets promise to be right on
MACS_BUDGET = 6e9  # of emulated inferences: about half a minute (ResNet-20, 41 M: 0.2 s an image; start-up 5 s)
FEWEST, MOST = 16, 64  # samples
SHOWN = 4  # layers in a sentence

Outputs = Sequence[NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs of the same samples.

    Attributes:
        flips: samples whose top-1 differs; None where no output holds class scores.
        logit_difference: largest absolute difference of any output value.
    """

    flips: int | None
    logit_difference: float


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a file does on an emulated processor.

    Attributes:
        isa: the processor's name.
        samples: how many samples it ran.
        emulated: the emulated processor against exact arithmetic: what saturation does there.
        native: this machine against exact arithmetic.
        against_native: the emulated processor against this machine: saturation on either, and float rounding.
        layers: names of the layers whose weights let products saturate for some input.
    """

    isa: str
    samples: int
    emulated: Comparison
    native: Comparison
    against_native: Comparison
    layers: tuple[str, ...]


def needs_proof(profile: TargetProfile) -> bool:
    """Whether a target's files may run on x86 processors whose integer products saturate."""
    return profile.isa == "any" or (profile.isa == "x86_64" and profile.int8.accumulator == "int16_pairs")


def sample_count(macs: int) -> int:
    """Return how many samples are emulated for a network of so many multiply-adds."""
    return int(min(MOST, max(FEWEST, MACS_BUDGET // max(1, macs))))


def compare(outputs: Outputs, expected: Outputs, *, name: str) -> Comparison:
    """Return how two runs differ.

    Args:
        outputs: an array an output, (N, ...).
        expected: the same shapes.
        name: of the file, for messages.

    Raises:
        StageError: the shapes differ, or a value is not finite.
    """
    shapes = [output.shape for output in outputs], [output.shape for output in expected]
    if shapes[0] != shapes[1]:
        raise StageError(f"{name} gives outputs of shapes {shapes[0]} and of {shapes[1]}")
    if not all(np.isfinite(output).all() for output in (*outputs, *expected)):
        raise StageError(f"{name} gives NaN or infinity")
    scores, others = class_scores(outputs), class_scores(expected)
    flips = None
    if scores is not None and others is not None:
        flips = int(np.sum(scores.argmax(axis=1) != others.argmax(axis=1)))
    pairs = zip(outputs, expected, strict=True)
    largest = max(float(np.abs(ours.astype(np.float64) - theirs).max()) for ours, theirs in pairs)
    return Comparison(flips=flips, logit_difference=largest)


def prove(path: Path, inputs: Sequence[Path], *, device: Device, threads: int = 1, io: Path | None = None) -> Proof:
    """Run a file here, in exact arithmetic and on an emulated processor.

    Args:
        path: the file.
        inputs: an .npy file a network input, (N, ...), channels first.
        device: the emulated processor.
        threads: threads of the runtime.
        io: map of inputs and outputs; None: `io.json` beside the file.

    Raises:
        StageError: the file fails in its runtime, here or there, or has no exact form.
        MissingPackageError: the runtime is not installed.
    """
    io = io or path.with_name("io.json")
    bindings = io if io.is_file() else None
    with TemporaryDirectory(prefix="edgeport-") as folder:
        exact = Path(folder) / path.name
        layers = write_exact(path, exact)
        native = host.run(path, inputs, threads=threads, io=bindings).outputs
        emulated = host.run(path, inputs, threads=threads, io=bindings, device=device).outputs
        here = host.run(exact, inputs, threads=threads, io=bindings).outputs if layers else native
        there = here
        if compare(emulated, here, name=path.name).logit_difference:
            there = emulated
            if layers:
                there = host.run(exact, inputs, threads=threads, io=bindings, device=device).outputs
            elif path.suffix == ".tflite":  # has no exact form to tell rounding from saturation by
                there = native
    return Proof(
        isa=device.name.rpartition(":")[2],
        samples=len(native[0]),
        emulated=compare(emulated, there, name=path.name),
        native=compare(native, here, name=path.name),
        against_native=compare(emulated, native, name=path.name),
        layers=layers,
    )


def metrics(proof: Proof, limits: Limits) -> tuple[Metric, ...]:
    """Return `flips@haswell` (where there are class scores), `logit_difference_max@haswell` and `samples@haswell`."""
    at = f"@{proof.isa}"
    found = []
    if proof.emulated.flips is not None:
        flips = Metric(name=f"flips{at}", value=proof.emulated.flips, unit="samples", origin="emulated")
        found.append(judge(flips, at_most=limits.max_flips))
    difference = proof.emulated.logit_difference
    largest = Metric(name=f"logit_difference_max{at}", value=difference, unit="logits", origin="emulated")
    found.append(judge(largest, at_most=limits.max_logit_difference))
    found.append(Metric(name=f"samples{at}", value=proof.samples, unit="samples", origin="emulated"))
    return tuple(found)


def sentence(proof: Proof) -> str:
    """Return what a person should know of a file's answers there; empty where all is well."""
    if not proof.emulated.logit_difference:
        if proof.native.logit_difference or not proof.against_native.flips:
            return ""
        return (
            f"gives {proof.against_native.flips} of {proof.samples} samples another top-1 on {proof.isa} than on this "
            "machine; its integers are right there, its float layers round otherwise"
        )
    culprits = f": products of {named(proof.layers)} leave 16 bits" if proof.layers else ""
    return (
        f"answers otherwise on {proof.isa} than in exact arithmetic{culprits}; those of 7-bit weights cannot "
        "(int8.weight_bits = 7 in the target file)"
    )


def named(layers: Sequence[str]) -> str:
    """Return the first few layers' names and how many more there are."""
    more = len(layers) - SHOWN
    return ", ".join(layers[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def evenly_spaced(arrays: Sequence[Path], count: int, folder: Path) -> tuple[Path, ...]:
    """Write `count` rows of each .npy, evenly spaced so that every class of sorted data has its part."""
    made = []
    for path in arrays:
        whole = np.load(path, mmap_mode="r", allow_pickle=False)
        rows = np.linspace(0, len(whole) - 1, min(count, len(whole))).round().astype(int)
        made.append(folder / f"few-{path.name}")
        np.save(made[-1], whole[rows])
    return tuple(made)
