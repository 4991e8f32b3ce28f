"""Progress: bars on a terminal, plain lines elsewhere, nothing in a library call."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from edgeport.report.progress import TerminalProgress
from edgeport.stages.context import SILENT, Progress


def shown(*, is_terminal: bool) -> tuple[TerminalProgress, io.StringIO]:
    out = io.StringIO()
    return TerminalProgress(Console(file=out, force_terminal=is_terminal, width=100)), out


def work(progress: Progress) -> None:
    """Do what a build does: a task, another inside it, notes and lines."""
    with progress.task("validate", 2) as task:
        task.note("board [x]")
        for _ in range(2):
            with progress.task("evaluate float", 10) as inner:
                inner.advance(7)
                progress.log("a line [y]")
                inner.advance()
            task.advance()


def test_log_file_gets_plain_lines() -> None:
    progress, out = shown(is_terminal=False)
    work(progress)
    assert out.getvalue().splitlines() == [
        "validate ...",
        "evaluate float ...",
        "a line [y]",
        "evaluate float ...",
        "a line [y]",
    ]


def test_terminal_gets_bars_one_inside_the_other() -> None:
    progress, out = shown(is_terminal=True)
    work(progress)
    for text in ("validate", "board [x]", "evaluate float", "a line [y]"):
        assert text in out.getvalue()


def test_bars_are_gone_at_the_end_and_can_come_again() -> None:
    progress, out = shown(is_terminal=True)
    for _ in range(2):
        work(progress)
        after = out.getvalue().rpartition("\x1b[2K")[2]  # erase the line: the last of them
        assert re.sub(r"\x1b\[[?0-9]*[A-Za-z]", "", after).strip() == ""
        assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h")  # cursor hidden, cursor shown


@pytest.mark.parametrize("is_terminal", [True, False])
def test_error_ends_the_display(is_terminal: bool) -> None:
    progress, out = shown(is_terminal=is_terminal)

    def fail() -> None:
        with progress.task("outer", 1), progress.task("inner", 1):
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    work(progress)  # usable again
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h")


def test_library_call_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    work(SILENT)
    assert capfd.readouterr() == ("", "")
