"""What every stage may use besides the model: data, seed, threads, a place for checkpoints, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgeport.dataset import Dataset
    from edgeport.types import Model


class Task(Protocol):
    """A running piece of work with a known length."""

    def advance(self, steps: int = 1) -> None:
        """Say that `steps` more are done."""

    def note(self, text: str) -> None:
        """Show a few words beside the bar, such as the current loss."""


class Progress(Protocol):
    """Where progress is shown; a terminal bar in the CLI, nowhere in a library call."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        """Show work of `total` steps while the block runs."""
        ...

    def log(self, message: str) -> None:
        """Show one line."""


class _Silence:
    def advance(self, steps: int = 1) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        """Show nothing."""
        yield self

    def log(self, message: str) -> None:
        """Show nothing."""


SILENT: Progress = _Silence()


@dataclass(frozen=True, kw_only=True)
class Context:
    """Surroundings of a stage; the same object for every stage of a build.

    Attributes:
        seed: the one seed of the build.
        threads: threads for torch.
        scratch: a folder that survives a killed build, for a stage's checkpoints; None: nothing is kept.
        teachers: what a student learns from: the traced float network as it came in, or networks named instead of it.
        calibrate: calibration samples.
        train: training samples.
        tune: samples on which choices are made; None: there are none.
        original: the float network as it came in, which shares of a budget are of; None: the one that a stage is given.
        latency: returns a network's latency as a share of `original`'s, the worst of all targets; None: not known.
        classes_elsewhere: classes that labels or names of the build's data speak of, for training samples that have
            neither; 0: none.
        progress: where to show progress.
    """

    seed: int = 0
    threads: int = 1
    scratch: Path | None = None
    teachers: tuple[Model, ...] = ()
    calibrate: Dataset | None = None
    train: Dataset | None = None
    tune: Dataset | None = None
    original: Model | None = None
    latency: Callable[[Model], float] | None = None
    classes_elsewhere: int = 0
    progress: Progress = field(default=SILENT)
