"""Small Debian systems with Python and its runtimes, for guests of another kind than this machine: what is in them.

A system lies in the user's cache folder in parts, a folder each. Beside a finished part lies its record: the digest of
the recipe it was made by, and of its content. A folder without a record, or with another recipe's, is not finished.
`edgeport.devices.setup` makes parts; everybody else only asks whether they are there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec

from edgeport.devices.cores import CORES
from edgeport.store import digest, file_digest

FOLDER = "EDGEPORT_DEVICES"  # names the folder of all systems instead of the one in the user's cache
SYSTEM, PREFIXES, BYTECODE = "system", "cores", "bytecode"  # parts beside those of the runtimes
PYTHON = "usr/bin/python3.11"  # Debian 12's
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"  # Debian 12; packages are signed, so http will do
# What a guest never reads, or what is this machine's: names, addresses, the package manager's own state.
DROPPED = ("dev", "proc", "sys", "run", "tmp", "var", "etc/apt", "etc/hostname", "etc/resolv.conf", "etc/fstab")
_MANYLINUX = ("2_34", "2_28", "2_27", "2_17")  # of glibc: Debian 12 has 2.36


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One runtime with what it needs, in a folder for `PYTHONPATH`: two runtimes want two versions of numpy.

    Attributes:
        name: as the agent and the report call it; also the part's name.
        version: of it.
        suffixes: of the files that can be run from that folder.
        requirements: `name==version`, and the SHA-256 of its wheel on PyPI.
        modules: what the agent imports.
    """

    name: str
    version: str
    suffixes: tuple[str, ...]
    requirements: tuple[tuple[str, str], ...]
    modules: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sysroot:
    """One kind of guest.

    Attributes:
        name: `arm64`.
        architecture: Debian's name of it.
        machine: `platform.machine()` there, and the end of its wheels' platform.
        program: QEMU's.
        cores: names in `edgeport.devices.cores.CORES`.
        packages: of Debian, with what they depend on.
        libraries: folders in the system where libraries lie that the loader does not search by itself.
        runtimes: the first is the one that is meant where nothing else is said.
    """

    name: str
    architecture: str
    machine: str
    program: str
    cores: tuple[str, ...]
    packages: tuple[str, ...]
    runtimes: tuple[Runtime, ...]
    libraries: tuple[str, ...] = ()

    @property
    def platforms(self) -> tuple[str, ...]:
        """Platform tags of wheels that run there."""
        return tuple(f"manylinux_{version}_{self.machine}" for version in _MANYLINUX)

    @property
    def place(self) -> Path:
        """The folder of its parts."""
        return folder() / self.name

    @property
    def is_begun(self) -> bool:
        """Whether any part of it was ever made."""
        return any(self.place.glob("*.json")) or (self.place / SYSTEM).is_dir()

    def runtime(self, name: str) -> Runtime | None:
        """Return the runtime of that name, or None."""
        return next((runtime for runtime in self.runtimes if runtime.name == name), None)


LITERT, TFLITE_RUNTIME = "ai-edge-litert", "tflite-runtime"
_ARM64 = Sysroot(
    name="arm64",
    architecture="arm64",
    machine="aarch64",
    program="qemu-aarch64",
    cores=("cortex-a53", "cortex-a72", "cortex-a76"),
    packages=("python3", "libstdc++6", "libgomp1"),
    runtimes=(
        Runtime(
            name=LITERT,
            version="2.3.0",
            suffixes=(".tflite", ".onnx"),
            requirements=(
                ("ai-edge-litert==2.3.0", "853fc608f96da87bd5f3458465dfb9abbf18d5ae6b94eceacead407146f175ae"),
                ("numpy==2.4.6", "0ab0a9c4ffb1a6d95ef519fe4247dba8eb6b18ad93999f76b7f657039acabd47"),
                ("onnxruntime==1.32.0", "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c"),
            ),
            modules=("ai_edge_litert.interpreter", "onnxruntime"),
        ),
        Runtime(
            name=TFLITE_RUNTIME,
            version="2.14.0",
            suffixes=(".tflite",),
            requirements=(
                ("tflite-runtime==2.14.0", "ce9fa5d770a9725c746dcbf6f59f3178233b3759f09982e8b2db8d2234c333b0"),
                ("numpy==1.26.4", "7ab55401287bfec946ced39700c053796e7cc0e3acbef09993a9ad2adba6ca6e"),
            ),
            modules=("tflite_runtime.interpreter",),
        ),
    ),
)
_ARMV7 = Sysroot(
    name="armv7",
    architecture="armhf",
    machine="armv7l",
    program="qemu-arm",
    cores=("cortex-a7",),
    packages=("python3", "python3-numpy", "libstdc++6", "libgomp1", "libatomic1"),  # PyPI has no numpy for armv7
    libraries=("usr/lib/arm-linux-gnueabihf/blas", "usr/lib/arm-linux-gnueabihf/lapack"),
    runtimes=(
        Runtime(
            name=TFLITE_RUNTIME,
            version="2.14.0",
            suffixes=(".tflite",),
            requirements=(
                ("tflite-runtime==2.14.0", "c4e66a74165b18089c86788400af19fa551768ac782d231a9beae2f6434f7949"),
            ),
            modules=("tflite_runtime.interpreter",),
        ),
    ),
)
SYSROOTS = {sysroot.name: sysroot for sysroot in (_ARM64, _ARMV7)}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside a finished part.

    Attributes:
        recipe: digest of what decides its content.
        content: digest of every file's name, kind and bytes.
        files: how many files and links it has.
        size_bytes: of its files together.
    """

    recipe: str
    content: str
    files: int
    size_bytes: int


def folder() -> Path:
    """Return the folder of all systems: `$EDGEPORT_DEVICES`, else `edgeport-devices` in the user's cache folder."""
    if chosen := os.environ.get(FOLDER):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeport-devices"


def record_file(part: Path) -> Path:
    """Return where the record of a part lies."""
    return part.with_name(f"{part.name}.json")


def read_record(part: Path) -> Record | None:
    """Return a part's record; None where there is none that can be read."""
    try:
        return msgspec.json.decode(record_file(part).read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None


def recorded(part: Path, recipe: str) -> Record:
    """Return the record of a part as it lies there, read to the last byte."""
    lines, size = [], 0
    for entry in _entries(part):
        name = entry.relative_to(part).as_posix()
        if entry.is_symlink():
            lines.append([name, "link", str(entry.readlink())])
        else:
            lines.append([name, "file", file_digest(entry)])
            size += entry.stat().st_size
    content = sha256(msgspec.json.encode(lines)).hexdigest()
    return Record(recipe=recipe, content=content, files=len(lines), size_bytes=size)


def is_finished(part: Path) -> bool:
    """Whether a part has its record and as many files and bytes as that says: what takes no reading."""
    record = read_record(part)
    if record is None or not part.is_dir():
        return False
    found = list(_entries(part))
    size = sum(entry.stat().st_size for entry in found if not entry.is_symlink())
    return (len(found), size) == (record.files, record.size_bytes)


def missing(sysroot: Sysroot, runtime: Runtime) -> tuple[str, ...]:
    """Return the parts that one runtime needs and that are not finished, or were made by another recipe."""
    place, wanted = sysroot.place, recipes(sysroot)
    names = [SYSTEM, PREFIXES, runtime.name, bytecode_part(runtime)]
    records = {name: read_record(place / name) for name in names}
    return tuple(
        name
        for name, record in records.items()
        if record is None or record.recipe != wanted[name] or not is_finished(place / name)
    )


def bytecode_part(runtime: Runtime) -> str:
    """Return the name of the part with a runtime's modules as Python compiles them: a guest starts thrice as fast."""
    return f"{BYTECODE}-{runtime.name}"


def recipes(sysroot: Sysroot) -> dict[str, str]:
    """Return part -> digest of what decides its content; compiled modules hang on the sources that lie there."""
    shown = [CORES[name].cpuinfo() for name in sysroot.cores]
    found = {
        SYSTEM: digest("system", SUITE, MIRROR, sysroot.architecture, sysroot.packages, DROPPED),
        PREFIXES: digest("prefixes", shown),
    }
    for runtime in sysroot.runtimes:
        found[runtime.name] = digest("runtime", runtime.requirements, sysroot.platforms)
        found[bytecode_part(runtime)] = digest("bytecode", content(sysroot, runtime), runtime.modules)
    return found


def content(sysroot: Sysroot, runtime: Runtime) -> str:
    """Return the digest of everything that a guest of that runtime may run."""
    parts = (SYSTEM, PREFIXES, runtime.name)
    records = [read_record(sysroot.place / part) for part in parts]
    return digest("sysroot", [record.content if record else "" for record in records])


def _entries(part: Path) -> Iterator[Path]:
    """Yield every file and link below a folder, sorted; links are not followed."""
    for root, folders, files in os.walk(part):
        folders.sort()
        links = [name for name in folders if Path(root, name).is_symlink()]
        for name in sorted([*files, *links]):
            yield Path(root, name)
