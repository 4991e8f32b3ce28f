"""The instruction counter: a QEMU plugin, compiled here on first use (`instruction_counter.c` says what it does).

No binary is shipped, because a plugin must be of the very interface of the emulator that loads it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeport.devices.counter_header import SETUP, cache_folder, find_header
from edgeport.errors import MissingPackageError, StageError
from edgeport.store import atomic_path, digest

SOURCE = Path(__file__).with_name("instruction_counter.c")
PARTS = (SOURCE, SOURCE.with_name("a64_classes.h"))  # all that is compiled, but for QEMU's header
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror")
_ABSENT = "/nonexistent"  # a guest that cannot be opened: the emulator loads its plugins, then ends
_TOO_LONG = 120.0  # seconds of a compiler or of an emulator that runs nothing


def compiler() -> str:
    """Return the C compiler: `$CC`, else `cc`.

    Raises:
        MissingPackageError: there is none.
    """
    name = os.environ.get("CC") or "cc"
    found = shutil.which(name)
    if found is None:
        raise MissingPackageError(f"no C compiler '{name}', which the instruction counter needs: apt-get install gcc")
    return found


def key(qemu_version: str) -> str:
    """Return a digest of all that the compiled counter depends on.

    Raises:
        MissingPackageError: no compiler, or no header of that QEMU.
        ConfigError: `$EDGEPORT_QEMU_HEADER` names no header.
    """
    header = find_header(qemu_version)
    said = _run([compiler(), "--version"], "the C compiler").stdout.partition("\n")[0]
    return digest(
        "instruction counter", [part.read_text("utf-8") for part in PARTS], header.read_text("utf-8"), FLAGS, said
    )


def library(qemu_version: str) -> Path:
    """Return the compiled counter for a version of QEMU; compiles it where that has not been done.

    Raises:
        MissingPackageError: no compiler, or no header of that QEMU.
        ConfigError: `$EDGEPORT_QEMU_HEADER` names no header.
        StageError: the compiler fails.
    """
    final = cache_folder() / key(qemu_version) / "instruction_counter.so"
    if final.is_file():
        return final
    header = find_header(qemu_version)
    with atomic_path(final) as temporary:
        command = [compiler(), *FLAGS, f"-I{header.parent}", *_glib(header), "-o", str(temporary), str(SOURCE)]
        done = _run(command, "the C compiler")
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            said = errors[0].replace(str(SOURCE), SOURCE.name) if errors else f"exit code {done.returncode}"
            raise StageError(f"{Path(command[0]).name} cannot compile the instruction counter: {said}")
    return final


def check(program: str, plugin: Path) -> None:
    """Make sure that an emulator takes the plugin.

    Args:
        program: QEMU's user-mode program.
        plugin: the compiled counter.

    Raises:
        MissingPackageError: the emulator takes no plugins, or plugins of another interface.
        StageError: it fails otherwise.
    """
    with TemporaryDirectory(prefix="edgeport-") as folder:
        sign = Path(folder) / "loaded"  # the plugin opens its file as soon as it is loaded
        done = _run([program, "-plugin", f"{escaped(plugin)},out={escaped(sign)}", _ABSENT], program)
        if sign.is_file():
            return
    said = next((line for line in (done.stderr + done.stdout).splitlines() if line.strip()), "")
    if re.search(r"unknown option|invalid option|-plugin.*not supported", said):
        raise MissingPackageError(
            f"{program} takes no plugins; no statically linked QEMU does (qemu-user-static, Debian 13's qemu-user):"
            " EDGEPORT_QEMU=FOLDER names another, e.g. Debian 12's qemu-user"
        )
    if "API version" in said:
        raise MissingPackageError(
            f"the instruction counter was compiled for another QEMU than {program} ({said.strip()}):"
            f" {SETUP}, or name that version's header in EDGEPORT_QEMU_HEADER"
        )
    raise StageError(
        f"{program} does not load the instruction counter: {said.strip() or f'exit code {done.returncode}'}"
    )


def escaped(path: Path) -> str:
    """Return a path as it is written among QEMU's options, which commas separate."""
    return str(path).replace(",", ",,")


def _glib(header: Path) -> list[str]:
    """Return the flags for glib, which the headers of QEMU 8.2 and newer include."""
    if "glib.h" not in header.read_text("utf-8"):
        return []
    if shutil.which("pkg-config") is None:
        raise MissingPackageError(f"{header} includes glib.h: apt-get install pkg-config libglib2.0-dev")
    done = _run(["pkg-config", "--cflags", "glib-2.0"], "pkg-config")
    if done.returncode:
        raise MissingPackageError(f"{header} includes glib.h: apt-get install libglib2.0-dev")
    return done.stdout.split()


def _run(command: list[str], who: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=_TOO_LONG, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise StageError(f"{who}: still running after {_TOO_LONG:g} s, ended") from error
    except OSError as error:
        raise StageError(f"{who} does not run: {error.strerror}") from error
