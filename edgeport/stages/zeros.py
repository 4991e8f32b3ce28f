"""Is a file without the zeros of its weights the better float file? Both are run and timed; one that loses is dropped.

What sparse kernels gain shows where this machine has them: not on x86 with AVX, where the dense kernels run on. There
the file has to be smaller and no slower, and what it saves on the target's cores is counted by emulation afterwards.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeport.devices import host
from edgeport.store import Store, digest
from edgeport.types import Origin

if TYPE_CHECKING:
    from edgeport.profile import TargetProfile
    from edgeport.stages.lower import Lowered

SECONDS = 0.8  # of timing, both files together
SLOWER = 1.05  # times the dense file's latency, in the median and at its best: less may be noise
LARGEST_ERROR = 1e-4  # of the largest output: sums of other order in float32 differ by less
ROWS = 4  # samples on which outputs are compared, at most; validation compares on all
NOTHING = "no weights take clearly fewer bytes without their zeros: the file is stored dense"
KERNELS = (
    "on ARM, XNNPACK skips zeros in chains of depthwise and 1x1 convolutions of which more than two thirds are zero;"
    " latencies predicted for boards know nothing of that"
)


class Zeros(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the zeros of a float file's weights; JSON values.

    Attributes:
        kept: whether the file without them ships.
        gain: latency of the dense file / of the one without zeros, medians, interleaved.
        error: largest difference of outputs, of the largest output.
        size_share: bytes of the file without zeros / of the dense one.
        origin: of `gain`.
    """

    kept: bool
    gain: float
    error: float
    size_share: float
    origin: Origin

    @property
    def note(self) -> str:
        """Say it in a sentence."""
        speed = f"{self.gain:.2f}x as fast ({self.origin})"
        what = f"{self.size_share:.2f} of the size, {speed}, largest error {self.error:.1e}"
        if not self.kept:
            return f"the file without zeros is not better and was dropped: {what}"
        return f"stored without zeros: {what}" + ("" if self.origin == "measured" else f"; {KERNELS}")


def choose_zeros(  # noqa: PLR0913  # each of them is needed
    store: Store,
    dense: Lowered,
    sparse: Lowered,
    profile: TargetProfile,
    examples: Callable[[], list[NDArray[Any]]],
    *,
    origin: Origin,
) -> Lowered:
    """Return the file that ships, with what there is to say about it.

    Args:
        store: where the choice is kept, so that a rebuild gives the same bytes.
        dense: the float file.
        sparse: the same without zeros; of the same size where no weight could be stored so.
        profile: the target.
        examples: gives real inputs, an array a network input, (N, ...), in PyTorch's layout.
        origin: of timings on this machine.

    Raises:
        StageError: a file does not run.
        MissingPackageError: the runtime is not installed.
    """
    if sparse.artifact.size_bytes >= dense.artifact.size_bytes:
        return replace(dense, chosen_notes=(NOTHING,))
    key = digest("zeros", [sparse.key, dense.key, origin], profile.threads, [platform.machine(), platform.node()])
    folder = store.get(key)
    if folder is None:
        found = _compared(dense, sparse, profile.threads, examples(), origin)
        with store.put(key) as fresh:
            (fresh / "zeros.json").write_bytes(msgspec.json.encode(found))
    else:
        found = msgspec.json.decode((folder / "zeros.json").read_bytes(), type=Zeros)
    figures: dict[str, object] = {"zeros": msgspec.to_builtins(found)}
    return replace(sparse if found.kept else dense, chosen=figures, chosen_notes=(found.note,))


def _compared(dense: Lowered, sparse: Lowered, threads: int, examples: list[NDArray[Any]], origin: Origin) -> Zeros:
    paths = (dense.artifact.path, sparse.artifact.path)
    with tempfile.TemporaryDirectory(prefix="edgeport-") as folder:
        inputs = []
        for index, example in enumerate(examples):
            inputs.append(Path(folder) / f"in{index}.npy")
            np.save(inputs[-1], example[:ROWS])
        results = host.run_together(paths, inputs, threads=threads)
    before, after = host.bench(paths, threads=threads, seconds=SECONDS)
    error = max(
        float(np.abs(theirs - ours).max() / (np.abs(theirs).max() or 1.0))
        for theirs, ours in zip(results[0].outputs, results[1].outputs, strict=True)
    )
    is_slower = after.p50_ms > SLOWER * before.p50_ms and after.min_ms > SLOWER * before.min_ms
    return Zeros(
        kept=error <= LARGEST_ERROR and not is_slower,
        gain=before.p50_ms / after.p50_ms,
        error=error,
        size_share=sparse.artifact.size_bytes / dense.artifact.size_bytes,
        origin=origin,
    )
