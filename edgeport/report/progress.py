"""Progress on a terminal: a bar with the time left on stderr; plain lines where stderr is not a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edgeport.stages.context import Task


class TerminalProgress:
    """Shows the running work of a build on one console."""

    def __init__(self, console: Console) -> None:
        """Show on `console`, which should write to stderr."""
        self.console = console
        self._bars: Progress | None = None

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        """Show work of `total` steps while the block runs; inside another task's block, one more bar below its own."""
        if not self.console.is_terminal:
            self.console.print(f"{label} ...", highlight=False, markup=False)
            yield _Lines()
            return
        with self._shown() as bars:
            bar = _Bar(bars, label, total)
            try:
                yield bar
            finally:
                bars.remove_task(bar.id)

    @contextmanager
    def _shown(self) -> Iterator[Progress]:
        """Give the bars on the screen: a console takes one live display at a time (rich before 14.1)."""
        if self._bars is not None:
            yield self._bars
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            self._bars = bars
            try:
                yield bars
            finally:
                self._bars = None

    def log(self, message: str) -> None:
        """Show one line."""
        self.console.print(message, highlight=False, markup=False)


class _Bar:
    def __init__(self, bars: Progress, label: str, total: int) -> None:
        self.bars = bars
        self.id = bars.add_task(label, total=total, note="")

    def advance(self, steps: int = 1) -> None:
        self.bars.advance(self.id, steps)

    def note(self, text: str) -> None:
        self.bars.update(self.id, note=text)


class _Lines:
    def advance(self, steps: int = 1) -> None:
        """Show nothing: a log file needs no bar."""

    def note(self, text: str) -> None:
        """Show nothing: a log file needs no bar."""
