"""QEMU's plugin header, which the instruction counter is compiled against: found on this machine, or fetched once.

Distributions ship the emulator without it, so it comes from the source package of the very version that is installed,
through the distribution's own client with folders of its own: nothing outside the user's cache folder is touched.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeport.errors import ConfigError, MissingPackageError, StageError
from edgeport.store import atomic_path

VARIABLE = "EDGEPORT_QEMU_HEADER"  # a qemu-plugin.h, or the folder that holds it
NAME = "qemu-plugin.h"
SETUP = "edgeport devices setup qemu:arm64"  # the one command that may use the network
FETCH_SECONDS = 900.0  # 24 MB of sources and 10 MB of package lists
_SYSTEM = (Path("/usr/include"), Path("/usr/include/qemu"), Path("/usr/local/include"))
_SOURCES = Path("/etc/apt")


def cache_folder() -> Path:
    """Return where the header and the compiled counter lie: `edgeport/counter` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeport" / "counter"


def find_header(qemu_version: str) -> Path:
    """Return the plugin header for a version of QEMU, e.g. `7.2.22`.

    `$EDGEPORT_QEMU_HEADER` goes first, then what `fetch_header` left for that version, then the system's folders.

    Raises:
        ConfigError: the variable names no such file.
        MissingPackageError: there is none.
    """
    if chosen := os.environ.get(VARIABLE):
        path = Path(chosen) / NAME if Path(chosen).is_dir() else Path(chosen)
        if path.name != NAME or not path.is_file():
            raise ConfigError(f"{VARIABLE} names '{chosen}', where there is no {NAME}")
        return path
    places = [_fetched(qemu_version), *(folder / NAME for folder in _SYSTEM)]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise MissingPackageError(
            f"no {NAME} of QEMU {qemu_version}, which counting instructions needs: {SETUP}"
            f" (or {VARIABLE}=FILE where you have one)"
        )
    return found


def make_ready(qemu_version: str, say: Callable[[str], None]) -> Path:
    """Return the header, found or else fetched: what a setup does, and nothing else, for it uses the network.

    Args:
        qemu_version: of the installed emulator, e.g. `7.2.22`.
        say: is given a line on what takes a while.

    Raises:
        ConfigError: `$EDGEPORT_QEMU_HEADER` names no header.
        MissingPackageError: there is none, and no apt.
        StageError: apt fails (its last words), or its package is of another version.
    """
    try:
        return find_header(qemu_version)
    except MissingPackageError:
        say(f"fetch {NAME} from the sources of QEMU {qemu_version} (34 MB)")
        return fetch_header(qemu_version)


def fetch_header(qemu_version: str) -> Path:
    """Return the header, fetched from the distribution's source package of QEMU where it is not here yet.

    Args:
        qemu_version: of the installed emulator, e.g. `7.2.22`.

    Raises:
        MissingPackageError: there is no apt.
        StageError: apt fails (its last words), or its package is of another version.
    """
    final = _fetched(qemu_version)
    if final.is_file():
        return final
    if shutil.which("apt-get") is None:
        raise MissingPackageError(
            f"no apt-get to fetch {NAME} with: take it from the sources of QEMU {qemu_version} and set {VARIABLE}=FILE"
        )
    with TemporaryDirectory(prefix="edgeport-apt-") as name:
        folder = Path(name)
        options = _private_apt(folder)
        _apt([*options, "update"], folder)
        _apt([*options, "source", "--download-only", "qemu"], folder)
        archive = next(iter(sorted(folder.glob("qemu_*.orig.tar.*"))), None)
        if archive is None:
            raise StageError("apt-get source qemu left no qemu_*.orig.tar.*")
        offered = archive.name.removeprefix("qemu_")
        if not offered.startswith(_minor(qemu_version)):
            raise StageError(
                f"apt offers the sources {archive.name}, but QEMU {qemu_version} is installed: set {VARIABLE}=FILE"
            )
        content = _member(archive)
    with atomic_path(final) as temporary:
        temporary.write_bytes(content)
    return final


def source_entries(texts: Iterable[tuple[str, str]], codename: str) -> str:
    """Return the distribution's own package sources as `deb-src` stanzas.

    Args:
        texts: (file name, content) of sources lists; `.sources` are stanzas, others have a line an entry.
        codename: of the release, e.g. `bookworm`; entries of other suites are somebody else's and left out.
    """
    stanzas = []
    for name, text in texts:
        if name.endswith(".sources"):
            found = [
                dict(re.findall(r"^([\w-]+):[ \t]*(.+)$", part, re.MULTILINE)) for part in re.split(r"\n\s*\n", text)
            ]
        else:
            found = [entry for line in text.splitlines() if (entry := _of_line(line)) is not None]
        for stanza in found:
            suites = [suite for suite in stanza.get("Suites", "").split() if suite.startswith(codename)]
            if suites and stanza.get("Enabled", "yes").strip() != "no":
                kept = {key: value for key, value in stanza.items() if key in ("URIs", "Components", "Signed-By")}
                stanzas.append({"Types": "deb-src", "Suites": " ".join(suites), **kept})
    return "\n\n".join("\n".join(f"{key}: {value}" for key, value in stanza.items()) for stanza in stanzas) + "\n"


def _of_line(line: str) -> dict[str, str] | None:
    matched = re.match(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)", line)
    if matched is None:
        return None
    signed = re.search(r"signed-by=(\S+)", matched["options"] or "")
    entry = {"URIs": matched["uri"], "Suites": matched["suite"], "Components": matched["components"].strip()}
    return {**entry, "Signed-By": signed[1]} if signed else entry


def _private_apt(folder: Path) -> list[str]:
    """Return options that keep apt within a folder; write the sources that it reads there."""
    lists = [*_SOURCES.glob("sources.list"), *sorted((_SOURCES / "sources.list.d").glob("*"))]
    texts = [(path.name, path.read_text(encoding="utf-8", errors="replace")) for path in lists if path.is_file()]
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    entries = source_entries(texts, codename) if codename else "\n"
    if not entries.strip():
        raise StageError(f"no package sources of '{codename}' in {_SOURCES} to fetch {NAME} from: set {VARIABLE}=FILE")
    for part in ("lists/partial", "cache/archives/partial", "sources"):
        (folder / part).mkdir(parents=True)
    (folder / "sources" / "own.sources").write_text(entries, encoding="utf-8")
    settings = {
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": folder / "sources",
        "APT::Sandbox::User": "",  # its unprivileged user may not enter this user's folder
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def _apt(arguments: list[str], folder: Path) -> None:
    command = ["apt-get", "-q", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise StageError(f"apt-get {arguments[-1]}: still running after {FETCH_SECONDS:g} s, ended") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["no message"]
        raise StageError(f"apt-get {' '.join(arguments[-2:])}: {errors[-1].removeprefix('E:').strip()}")


def _member(archive: Path) -> bytes:
    try:
        with tarfile.open(archive) as whole:
            for member in whole:
                if member.name.endswith(f"/include/qemu/{NAME}"):
                    file = whole.extractfile(member)
                    if file is not None:
                        return file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise StageError(f"{archive.name} cannot be read: {error}") from error
    raise StageError(f"{archive.name} holds no include/qemu/{NAME}")


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _fetched(version: str) -> Path:
    return cache_folder() / f"qemu-{_minor(version)}" / NAME
