"""How a command ends: one line and an exit code for every error, and results alone on stdout."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeport import environment
from edgeport.errors import ConfigError, EdgeportError, StageError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # EFBIG: over `ulimit -f`
WRONG_PLACE = {errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}


@contextmanager
def reported() -> Iterator[None]:
    """Turn every error into one line and its exit code; `EDGEPORT_DEBUG=1` shows the traceback instead.

    Raises:
        typer.Exit: with that code, after the line was printed to stderr.
    """
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error
    except Exception as error:  # the outermost frame: a defect of ours is told in one line too
        if os.environ.get("EDGEPORT_DEBUG") == "1":
            raise
        if _is_interruption(error):
            raise typer.Exit(INTERRUPTED) from error
        raise typer.Exit(tell(*explained(error))) from error


def explained(error: Exception) -> tuple[str, int]:
    """Return what to say of an error, and the exit code."""
    if isinstance(error, EdgeportError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        place = error.filename2 or error.filename  # of a copy, the second is where it goes
        where = f" at '{place}'" if place else ""
        if error.errno in NO_SPACE:
            return f"no space left on the device{where}; nothing half-written was kept", StageError.exit_code
        if error.errno in WRONG_PLACE:
            return f"cannot write or read{where}: {error.strerror}", ConfigError.exit_code
        if error.errno == errno.EPIPE:
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # for what is still in its buffer
            return "nobody reads the output any more", 1
    return f"unexpected {type(error).__name__}: {error} (EDGEPORT_DEBUG=1 shows where)", 1


def _is_interruption(error: BaseException) -> bool:
    """Whether a Ctrl-C is behind an error: libraries wrap it where it meets a callback from C++."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt) or "KeyboardInterrupt" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def tell(message: str, code: int) -> int:
    """Print an error as one line to stderr and return `code`."""
    typer.echo(f"edgeport: error: {' '.join(message.split())}", err=True)
    return code


@contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """Send what a network's own code, or a library, prints while a build runs to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def quiet_environment(threads: int | None) -> None:
    """Prepare for heavy packages."""
    environment.prepare(threads or 1)
    if os.environ.get("EDGEPORT_DEBUG") != "1":
        warnings.simplefilter("ignore")  # libraries' deprecations of their own internals: nothing a user can act on


def stdout() -> Console:
    """Return a console for results; wide where stdout is not a terminal, so that nothing is cut."""
    return terminal(width=None if sys.stdout.isatty() else 160)


def terminal(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console without any styles under `NO_COLOR`; by itself, rich would still print bold."""
    from rich.console import Console

    return Console(stderr=stderr, width=width, color_system=None if os.environ.get("NO_COLOR") else "auto")
