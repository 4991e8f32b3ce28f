"""The instruction counter before anything is counted: finding a header, compiling, loading, and what each says."""

from __future__ import annotations

import platform
import shutil
import tarfile
from pathlib import Path

import pytest

from edgeport.devices import counter, counter_header
from edgeport.devices.counter_header import NAME, VARIABLE, fetch_header, find_header, make_ready, source_entries
from edgeport.errors import ConfigError, MissingPackageError, StageError

HEADER = "#define QEMU_PLUGIN_VERSION 1\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache folder of its own and no header from elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(counter_header, "_SYSTEM", (tmp_path / "system",))
    return tmp_path / "cache" / "edgeport" / "counter"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)
    return folder


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def header(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(HEADER, encoding="utf-8")
    return folder / NAME


def test_header_of_the_variable_goes_first(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, fetched, own = (header(place) for place in (tmp_path / "system", cache / "qemu-7.2", tmp_path / "own"))
    monkeypatch.setenv(VARIABLE, str(own))
    assert find_header("7.2.22") == own
    monkeypatch.setenv(VARIABLE, str(own.parent))
    assert find_header("7.2.22") == own
    monkeypatch.delenv(VARIABLE)
    assert find_header("7.2.22") == fetched
    assert find_header("9.1.0") == system  # what was fetched for another version does not fit


def test_absent_header_is_told_with_the_command() -> None:
    with pytest.raises(
        MissingPackageError, match=rf"^no {NAME} of QEMU 7\.2\.22, .*: edgeport devices setup qemu:arm64"
    ):
        find_header("7.2.22")


def test_variable_that_names_no_header_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (tmp_path, tmp_path / "absent" / NAME, script(tmp_path, "other.h", "")):
        monkeypatch.setenv(VARIABLE, str(place))
        with pytest.raises(ConfigError, match=f"^{VARIABLE} names '.*', where there is no {NAME}$"):
            find_header("7.2.22")


def test_absent_compiler_is_told_with_the_command(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingPackageError, match=r"^no C compiler 'cc', .*: apt-get install gcc$"):
        counter.compiler()
    monkeypatch.setenv("CC", "mycc")
    with pytest.raises(MissingPackageError, match=r"^no C compiler 'mycc'"):
        counter.compiler()
    script(programs, "mycc", "")
    assert counter.compiler() == str(programs / "mycc")


def test_compiled_counter_is_kept_until_something_changes(cache: Path, programs: Path) -> None:
    made = header(cache / "qemu-7.2")
    compile_ = f'echo x >> {programs}/calls; while [ "$1" != -o ]; do shift; done; echo made > "$2"'
    script(programs, "cc", f'[ "$1" = --version ] && echo "cc 12.2" && exit\n{compile_}')
    first = counter.library("7.2.22")
    assert first.read_text() == "made\n"
    assert counter.library("7.2.22") == first
    assert (programs / "calls").read_text() == "x\n"
    made.write_text(HEADER + "/* another */\n", encoding="utf-8")
    second = counter.library("7.2.22")
    script(programs, "cc", f'[ "$1" = --version ] && echo "cc 13" && exit\n{compile_}')
    assert len({first, second, counter.library("7.2.22")}) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"echo '{counter.SOURCE}:9:1: error: unknown type' >&2", "instruction_counter.c:9:1: error: unknown type"),
        ("echo 'collect2: error: ld: No space left on device' >&2", "collect2: error: ld: No space left on device"),
        ("exit 9", "exit code 9"),
    ],
)
def test_failed_compilation_is_one_line_and_leaves_nothing(cache: Path, programs: Path, text: str, said: str) -> None:
    header(cache / "qemu-7.2")
    script(programs, "cc", f'[ "$1" = --version ] && exit\n{text}\nexit 9')
    with pytest.raises(StageError, match=r"^cc cannot compile the instruction counter: ") as caught:
        counter.library("7.2.22")
    assert str(caught.value).endswith(f": {said}")
    assert [path for path in cache.rglob("*") if path.is_file()] == [cache / "qemu-7.2" / NAME]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        (
            "unknown option 'plugin'",
            MissingPackageError,
            "takes no plugins; no statically linked QEMU does",
        ),
        (
            "Could not load plugin x: TCG plugin requires API version 4, but this QEMU supports 1",
            MissingPackageError,
            "was compiled for another QEMU than",
        ),
        (
            "undefined symbol: qemu_plugin_insn_data",
            StageError,
            "does not load the instruction counter: undefined symbol",
        ),
        ("", StageError, "does not load the instruction counter: exit code 1"),
    ],
)
def test_emulator_that_does_not_load_the_plugin_is_told(
    tmp_path: Path, text: str, kind: type[Exception], said: str
) -> None:
    program = script(tmp_path, "qemu-aarch64", f'echo "{text}" >&2; exit 1')
    with pytest.raises(kind) as caught:
        counter.check(str(program), tmp_path / "counter.so")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plugin_that_opens_its_file_is_loaded(tmp_path: Path) -> None:
    program = script(tmp_path, "qemu-aarch64", 'touch "${2##*out=}"; exit 1')
    counter.check(str(program), tmp_path / "counter.so")


def test_commas_in_paths_are_doubled() -> None:
    assert counter.escaped(Path("a,b/c.so")) == "a,,b/c.so"


SOURCES = """Types: deb
# a comment
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://example.org/security
Suites: bookworm-security
Enabled: no
Components: main
"""
LIST = """# deb http://example.org/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://example.org/debian bookworm main contrib
deb https://packages.example.org/apt cloud-sdk-bookworm main
deb-src http://example.org/debian bookworm main
"""


def test_package_sources_become_source_entries_of_the_release() -> None:
    assert source_entries([("debian.sources", SOURCES), ("sources.list", LIST)], "bookworm") == (
        "Types: deb-src\nSuites: bookworm bookworm-updates\nURIs: http://deb.debian.org/debian\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
        "Types: deb-src\nSuites: bookworm\nURIs: http://example.org/debian\nComponents: main contrib\n"
        "Signed-By: /k.gpg\n"
    )
    assert source_entries([("sources.list", LIST)], "trixie").strip() == ""


@pytest.fixture
def apt(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder whose `qemu.tar` an apt-get of ours hands out as the source package."""
    lists = tmp_path / "etc"
    lists.mkdir()
    (lists / "sources.list").write_text("deb http://example.org/debian bookworm main\n", encoding="utf-8")
    monkeypatch.setattr(counter_header, "_SOURCES", lists)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    copy = shutil.which("cp", path="/bin:/usr/bin")
    text = f'for word; do last=$word; done; [ "$last" = qemu ] && {copy} {tmp_path}/qemu.tar qemu_7.2+dfsg.orig.tar.xz'
    script(programs, "apt-get", f"{text}\nexit 0")
    return tmp_path


def source_package(folder: Path, name: str = f"qemu-7.2.0/include/qemu/{NAME}") -> None:
    place = folder / "content"
    place.write_text(HEADER, encoding="utf-8")
    with tarfile.open(folder / "qemu.tar", "w:xz") as archive:
        archive.add(place, arcname=name)


def test_header_is_fetched_once_from_the_source_package(apt: Path, cache: Path, programs: Path) -> None:
    source_package(apt)
    said: list[str] = []
    fetched = make_ready("7.2.22", said.append)
    assert said == [f"fetch {NAME} from the sources of QEMU 7.2.22 (34 MB)"]
    assert fetched == cache / "qemu-7.2" / NAME == find_header("7.2.0")
    assert fetched.read_text() == HEADER
    (programs / "apt-get").unlink()
    assert fetch_header("7.2.22") == fetched == make_ready("7.2.22", said.append)
    assert len(said) == 1


def test_failed_fetch_says_why_and_leaves_nothing(apt: Path, cache: Path, programs: Path) -> None:
    source_package(apt, "qemu-7.2.0/README")
    with pytest.raises(StageError, match=rf"^qemu_7\.2\+dfsg\.orig\.tar\.xz holds no include/qemu/{NAME}$"):
        fetch_header("7.2.22")
    (apt / "qemu.tar").write_bytes(b"cut short")
    with pytest.raises(StageError, match=r"^qemu_7\.2\+dfsg\.orig\.tar\.xz cannot be read: "):
        fetch_header("7.2.22")
    source_package(apt)
    with pytest.raises(StageError, match=r"^apt offers the sources qemu_7\.2.*, but QEMU 9\.1\.2 is installed"):
        fetch_header("9.1.2")
    script(programs, "apt-get", "echo 'W: a warning' >&2; echo 'E: Temporary failure resolving' >&2; exit 100")
    with pytest.raises(StageError, match=r"^apt-get .*update: Temporary failure resolving$"):
        fetch_header("7.2.22")
    (programs / "apt-get").unlink()
    with pytest.raises(MissingPackageError, match=f"^no apt-get to fetch {NAME} with: .* set {VARIABLE}=FILE$"):
        fetch_header("7.2.22")
    assert not cache.exists()
