"""Makes the systems that guests run on, part by part: the one place of edgeport that uses the network.

Parts come from Debian's and PyPI's packages through their ordinary clients, mmdebstrap and pip, which check signatures
and hashes. A part is made under a temporary name and renamed when it is whole, its record last; so a setup that was
killed, or lost the network, goes on with the part it was in. Nothing outside the cache folder is touched, and no root
is needed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from edgeport.devices import sysroot as systems
from edgeport.devices.cores import CORES, write_prefix
from edgeport.devices.device import execute
from edgeport.devices.qemu import PACKAGE, find, guest
from edgeport.devices.sysroot import Runtime, Sysroot
from edgeport.errors import ConfigError, MissingPackageError, StageError
from edgeport.store import digest, write_atomic

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")  # where Debian and Ubuntu have it
TIMEOUT_SECONDS = 1800.0  # of one client; 80 MB of packages
_NO_NETWORK = re.compile(
    r"could not (connect|resolve)|failed to (establish|fetch)|temporary failure|unreachable|connection broken|timeout",
    re.IGNORECASE,
)
_NO_SPACE = re.compile(r"no space left|enough free space|quota exceeded", re.IGNORECASE)
_REASON = re.compile(r"\[Errno -?\d+\] ([^\"')\]]+)")  # in pip's line of a lost network


@dataclass(frozen=True, kw_only=True)
class Step:
    """One part of a system.

    Attributes:
        name: of its folder.
        label: what is said while it is made.
        make: fills that folder, which does not exist yet.
    """

    name: str
    label: str
    make: Callable[[Path], None]


def steps(sysroot: Sysroot) -> tuple[Step, ...]:
    """Return the parts of a system in the order they are made; a later one may use the earlier ones.

    A part that no guest needs (`edgeport.devices.sysroot.missing`) is one more `Step` here and nothing elsewhere: it is
    made again when its label changes.
    """
    found = [
        Step(
            name=systems.SYSTEM,
            label=f"Debian {systems.SUITE} for {sysroot.architecture}",
            make=partial(_make_system, sysroot),
        ),
        Step(name=systems.PREFIXES, label=", ".join(sysroot.cores), make=partial(_make_prefixes, sysroot)),
    ]
    for runtime in sysroot.runtimes:
        found += [
            Step(
                name=runtime.name,
                label=", ".join(name for name, _ in runtime.requirements),
                make=partial(_make_runtime, sysroot, runtime),
            ),
            Step(
                name=systems.bytecode_part(runtime),
                label=f"{runtime.name} loaded once by an emulated {sysroot.cores[0]}",
                make=partial(_make_bytecode, sysroot, runtime),
            ),
        ]
    return tuple(found)


def set_up(sysroot: Sysroot, say: Callable[[str], None]) -> None:
    """Make what is not finished of a system; what is, is read to the last byte and made again where it changed.

    Args:
        sysroot: which.
        say: is given a line a part.

    Raises:
        MissingPackageError: a tool is missing; with the command that installs it.
        ConfigError: another setup runs.
        StageError: a client failed; says whether there is no network.
        OSError: the disk is full.
    """
    check_tools(sysroot)
    place = sysroot.place
    place.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        _sweep(place)
        for step in steps(sysroot):
            part = place / step.name
            recipe = systems.recipes(sysroot).get(step.name) or digest("part", step.name, step.label)
            record = systems.read_record(part)
            if record is not None and part.is_dir() and systems.recorded(part, recipe) == record:
                say(f"ok    {step.name}: {record.content[:12]}, {record.size_bytes / 1e6:.0f} MB")
                continue
            say(f"make  {step.name}: {step.label}")
            record = _made(step, part, recipe, sysroot)
            say(f"ok    {step.name}: {record.content[:12]}, {record.size_bytes / 1e6:.0f} MB")


def check_tools(sysroot: Sysroot) -> None:
    """Check that the clients and the emulator are installed.

    Raises:
        MissingPackageError: with the one command that installs what is missing.
    """
    tools = {
        "mmdebstrap": (shutil.which("mmdebstrap"), "mmdebstrap"),
        sysroot.program: (find(sysroot.program), PACKAGE),
        "debian-archive-keyring": (KEYRING.is_file(), "debian-archive-keyring"),
    }
    absent = {name: package for name, (found, package) in tools.items() if not found}
    if absent:
        packages = " ".join(dict.fromkeys(absent.values()))
        raise MissingPackageError(f"{', '.join(absent)} not found: apt-get install {packages}")


def _made(step: Step, part: Path, recipe: str, sysroot: Sysroot) -> systems.Record:
    """Make a part under a temporary name, and give it its name and its record."""
    fresh = part.with_name(f".{step.name}.tmp")
    systems.record_file(part).unlink(missing_ok=True)  # from here on the part is not finished
    shutil.rmtree(part, ignore_errors=True)
    try:
        step.make(fresh)
        record = systems.recorded(fresh, recipe)
        fresh.rename(part)
        write_atomic(systems.record_file(part), msgspec.json.encode(record).decode() + "\n")
    except StageError as error:
        again = f"edgeport devices setup qemu:{sysroot.name}"
        raise StageError(
            f"qemu:{sysroot.name}, {step.name}: {error}; what is finished is kept, {again} goes on"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return record


def _make_system(sysroot: Sysroot, part: Path) -> None:
    mode = "root" if os.geteuid() == 0 else "chrootless"  # unpacking alone needs neither root nor a user namespace
    command = [
        "mmdebstrap",
        f"--mode={mode}",
        "--variant=extract",
        f"--architectures={sysroot.architecture}",
    ]
    command += [f"--include={','.join(sysroot.packages)}", f"--keyring={KEYRING}", "--format=directory"]
    _run_client([*command, systems.SUITE, str(part), systems.MIRROR], part.parent)
    for name in systems.DROPPED:
        dropped = part / name
        if dropped.is_dir() and not dropped.is_symlink():
            shutil.rmtree(dropped)
        else:
            dropped.unlink(missing_ok=True)
    if not (part / systems.PYTHON).is_file():
        raise StageError(f"mmdebstrap made a system without {systems.PYTHON}")


def _make_prefixes(sysroot: Sysroot, part: Path) -> None:
    system = sysroot.place / systems.SYSTEM
    for name in sysroot.cores:
        write_prefix(part / name, CORES[name], system, sorted(entry.name for entry in system.iterdir()))


def _make_runtime(sysroot: Sysroot, runtime: Runtime, part: Path) -> None:
    wanted = part.with_name(f".{runtime.name}.txt.tmp")
    wanted.write_text("".join(f"{name} --hash=sha256:{known}\n" for name, known in runtime.requirements))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile", "--retries=2"]
    command += ["--python-version=3.11", "--implementation=cp", "--abi=cp311"]
    command += [f"--platform={platform}" for platform in sysroot.platforms]
    try:
        _run_client([*command, f"--target={part}", f"--requirement={wanted}"], part.parent)
    finally:
        wanted.unlink(missing_ok=True)


def _make_bytecode(sysroot: Sysroot, runtime: Runtime, part: Path) -> None:
    """Let a guest load what the agent loads, and keep what it compiles: the proof that all parts go together."""
    part.mkdir()
    modules = ["argparse", "contextlib", "json", "tempfile", "zipfile", "numpy", *runtime.modules]
    loaded = guest(sysroot, runtime, sysroot.cores[0], bytecode=part)
    execute(loaded, ["-c", f"import {', '.join(modules)}"], threads=1, where=loaded.name)


def _run_client(command: Sequence[str], place: Path) -> None:
    """Run mmdebstrap or pip to its end, with its temporary files in the cache folder.

    Raises:
        StageError: it failed, with its own words; OSError where the disk is full.
    """
    name = "pip" if command[0] == sys.executable else command[0]
    temporary = place / f".{name}.tmp"
    temporary.mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "TMPDIR": str(temporary), "SOURCE_DATE_EPOCH": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StageError(f"{name} still running after {TIMEOUT_SECONDS:g} s, ended") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if done.returncode:
        said = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        if any(_NO_SPACE.search(line) for line in said):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
        raise StageError(f"{name}: {_telling(said)}")


def _telling(said: Sequence[str]) -> str:
    """Return the line of a failed client that says most; that of a lost network before all others."""
    lost = [line for line in said if _NO_NETWORK.search(line)]
    errors = [line for line in said if line.startswith(("E: ", "ERROR: "))]
    if lost:
        reason = _REASON.search(lost[0])
        return f"is there no network? {reason[1] if reason else _plain(lost[0])}"
    return _plain(next(iter((*errors, *said[-1:])), "no message"))


def _plain(line: str) -> str:
    return re.sub(r"^(E|ERROR|WARNING|Err:\d+):? ", "", line)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the lock of a system's folder.

    Raises:
        ConfigError: another setup holds it.
    """
    with (place / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another edgeport devices setup works in '{place}'; wait for it") from error
        yield


def _sweep(place: Path) -> None:
    """Remove what a killed setup left."""
    for left in place.glob(".*.tmp"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
