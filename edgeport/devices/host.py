"""Runs an artifact on this machine, or on another device: the single-file agent in a process of its own.

A process of its own, because then the peak memory is that of one file, a runtime that crashes takes nothing along, and
it is the very script that runs on devices.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeport.devices.device import AGENT, HOST, Device, call
from edgeport.formats import OpTime

__all__ = ["AGENT", "HOST", "RunResult", "Timing", "bench", "profile", "run", "run_together"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Latency of one file, batch one: setting inputs, computing, fetching outputs.

    Attributes:
        p50_ms: median.
        p90_ms: nine of ten inferences took at most this.
        min_ms: the fastest.
        samples: how many inferences were timed.
    """

    p50_ms: float
    p90_ms: float
    min_ms: float
    samples: int


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What one file did.

    Attributes:
        outputs: an array a network output, (N, ...) in PyTorch's order and layout, float32 (integers that are not
            quantized values keep their dtype).
        timing: latency; interleaved with the other files of the same call.
        peak_rss_bytes: peak resident memory of a process that has only this file loaded; None where the system does not
            tell, and for all but the first file of a call.
        runtime: package that ran it.
        runtime_version: its version.
        machine: `platform.machine()` of where it ran.
        threads: threads that the runtime had.
        seconds: wall seconds of the whole call.
    """

    outputs: tuple[NDArray[Any], ...]
    timing: Timing
    peak_rss_bytes: int | None
    runtime: str
    runtime_version: str
    machine: str
    threads: int
    seconds: float


def run(  # noqa: PLR0913  # keyword-only past the second
    path: Path,
    inputs: Sequence[Path],
    *,
    threads: int = 1,
    io: Path | None = None,
    samples: int | None = None,
    device: Device = HOST,
) -> RunResult:
    """Run one file over the samples; see `run_together`."""
    wanted = None if samples is None else (samples,)
    return run_together((path,), inputs, threads=threads, io=io, samples=wanted, device=device)[0]


def run_together(  # noqa: PLR0913  # keyword-only past the second
    paths: Sequence[Path],
    inputs: Sequence[Path],
    *,
    threads: int = 1,
    io: Path | None = None,
    samples: Sequence[int] | None = None,
    device: Device = HOST,
) -> tuple[RunResult, ...]:
    """Run files of one runtime over the same samples in one process, ten samples of each in turn.

    So one pass gives the outputs, interleaved latencies (no extra inferences), and the first file's peak memory,
    which is read before the next file is loaded.

    Args:
        paths: the files; all with the same suffix.
        inputs: an .npy file a network input, (N, ...) float32, channels first.
        threads: threads of the runtime.
        io: map of inputs and outputs; None: `io.json` beside each file.
        samples: how many of the first samples each file runs; None: all. Latencies are taken while all are running.
        device: where; what an emulator needs is no latency.

    Raises:
        MissingPackageError: the runtime is not installed.
        StageError: a file does not load, crashes, does not fit the inputs, or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="edgeport-") as folder:
        results = [Path(folder) / f"{index}.npz" for index in range(len(paths))]
        arguments = ["run", *_texts(paths), "--inputs", *_texts(inputs), "--outputs", *_texts(results)]
        if samples is not None:
            arguments += ["--samples", *(str(count) for count in samples)]
        arguments += ["--warmup", "0"] if device.is_emulated else []
        report = call(device, arguments, paths, threads=threads, io=io)
        outputs = [_read(result) for result in results]
    return tuple(
        RunResult(
            outputs=found,
            timing=_timing(model),
            peak_rss_bytes=report["peak_rss_bytes"] if index == 0 else None,
            runtime=report["runtime"],
            runtime_version=report["runtime_version"],
            machine=report["machine"],
            threads=report["threads"],
            seconds=report["seconds"],
        )
        for index, (found, model) in enumerate(zip(outputs, report["models"], strict=True))
    )


def bench(  # noqa: PLR0913  # keyword-only past the first
    paths: Sequence[Path],
    *,
    threads: int = 1,
    inputs: Sequence[Path] = (),
    seconds: float = 1.0,
    rounds: int | None = None,
    device: Device = HOST,
) -> tuple[Timing, ...]:
    """Time files of one runtime side by side, in turn: rounds of ten inferences, fewer for files that take long.

    Args:
        paths: the files; all with the same suffix.
        threads: threads of the runtime.
        inputs: an .npy file a network input; none: seeded random numbers.
        seconds: time budget; ends after the round in which it is used up.
        rounds: at most this many rounds; None: as many as fit the budget.
        device: where; what an emulator needs is no latency.

    Raises:
        MissingPackageError: the runtime is not installed.
        StageError: a file does not load, crashes, does not fit the inputs, or takes too long.
    """
    arguments = ["bench", *_texts(paths), "--seconds", str(seconds)]
    arguments += ["--inputs", *_texts(inputs)] if inputs else []
    arguments += ["--rounds", str(rounds)] if rounds else []
    report = call(device, arguments, paths, threads=threads)
    return tuple(_timing(model) for model in report["models"])


def profile(
    paths: Sequence[Path], *, threads: int = 1, inputs: Sequence[Path] = (), runs: int = 50
) -> tuple[tuple[OpTime, ...], ...]:
    """Return for each file the operators that its runtime runs, in order, with times where the runtime tells.

    Args:
        paths: the files; all with the same suffix.
        threads: threads of the runtime.
        inputs: an .npy file a network input; none: seeded random numbers.
        runs: inferences a file.

    Raises:
        MissingPackageError: the runtime is not installed.
        StageError: a file does not load, crashes or does not fit the inputs.
    """
    arguments = ["profile", *_texts(paths), "--runs", str(runs)]
    arguments += ["--inputs", *_texts(inputs)] if inputs else []
    report = call(HOST, arguments, paths, threads=threads)
    return tuple(tuple(OpTime(**row) for row in model["operators"]) for model in report["models"])


def _texts(paths: Sequence[Path]) -> list[str]:
    return [str(path.absolute()) for path in paths]


def _timing(model: Mapping[str, Any]) -> Timing:
    names = ("p50_ms", "p90_ms", "min_ms")
    return Timing(samples=model["samples"], **{name: float(model[name]) for name in names})


def _read(path: Path) -> tuple[NDArray[Any], ...]:
    with np.load(path, allow_pickle=False) as archive:
        return tuple(archive[f"out{index}"] for index in range(len(archive.files)))
