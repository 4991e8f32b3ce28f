"""The part of a build's validation that runs on an emulated processor, kept in the store like every other figure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from edgeport.devices import qemu
from edgeport.errors import ConfigError, MissingPackageError, StageError
from edgeport.profile import TargetProfile
from edgeport.store import Store, digest
from edgeport.types import Metric
from edgeport.validation import isa
from edgeport.validation.emulated import NO_EMULATE
from edgeport.validation.exact import write_exact

if TYPE_CHECKING:
    from edgeport.stages.lower import Lowered


@dataclass(frozen=True, kw_only=True)
class Proven:
    """What a build says of a target's file on an emulated processor.

    Attributes:
        metrics: figures, judged; none where the target needs none or it could not be run.
        notes: why it could not be run, or what is wrong.
        seconds: wall seconds that it took when it ran.
    """

    metrics: tuple[Metric, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


class _Kept(msgspec.Struct, frozen=True):
    proof: isa.Proof
    seconds: float


def proven(  # noqa: PLR0913  # keyword-only past the fourth
    store: Store,
    shipped: Lowered,
    profile: TargetProfile,
    inputs: Callable[[], tuple[Path, ...]],
    *,
    samples_digest: str,
    emulate: bool = True,
) -> Proven:
    """Return how an int8 file does on Haswell, where the target may have to run on such a processor.

    Without the emulator, and where it fails, the build goes on: a note says that the file was not verified, and why.

    Args:
        store: where the figures are kept.
        shipped: the file.
        profile: the target.
        inputs: gives an .npy file a network input, all evaluation samples; called only when it has to run.
        samples_digest: of those samples.
        emulate: whether to run it at all.

    Raises:
        MissingPackageError: the runtime is not installed.
    """
    if shipped.artifact.precision != "int8" or not isa.needs_proof(profile):
        return Proven()
    if not emulate:
        return Proven(notes=(_not_verified(shipped.artifact.path, NO_EMULATE),))
    try:
        device = qemu.device(isa.HASWELL)
    except (ConfigError, MissingPackageError) as error:
        return Proven(notes=(_not_verified(shipped.artifact.path, str(error)),))
    count = isa.sample_count(sum(cost.macs for cost in shipped.costs))
    key = digest("emulated", shipped.key, samples_digest, count, profile.threads, device.name, qemu.version(device))
    folder = store.get(key)
    if folder is None:
        start = time.perf_counter()
        with TemporaryDirectory(prefix="edgeport-") as few:
            rows = isa.evenly_spaced(inputs(), count, Path(few))
            try:
                proof = isa.prove(shipped.artifact.path, rows, device=device, threads=profile.threads)
            except StageError as error:
                return Proven(notes=(_not_verified(shipped.artifact.path, str(error)),))
        kept = _Kept(proof, time.perf_counter() - start)
        with store.put(key) as fresh:
            (fresh / "proof.json").write_bytes(msgspec.json.encode(kept))
    else:
        kept = msgspec.json.decode((folder / "proof.json").read_bytes(), type=_Kept)
    wrong = isa.sentence(kept.proof)
    notes = (wrong,) if wrong else ()
    return Proven(metrics=isa.metrics(kept.proof, profile.limits), notes=notes, seconds=kept.seconds)


def _not_verified(path: Path, why: str) -> str:
    """Return the note of a file that was not run, with what its weights alone tell."""
    with TemporaryDirectory(prefix="edgeport-") as folder:
        layers = write_exact(path, Path(folder) / path.name)
    why = why.replace(str(path), path.name)  # a report names no folder of this machine
    tell = isa.named(layers) + " can saturate there" if layers else "by its weights alone, nothing can saturate there"
    return f"not verified on Haswell: {why} ({tell})"
