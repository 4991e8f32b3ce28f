"""Stand-ins for the clients of `edgeport devices setup` and for the emulator: scripts that do as little as counts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeport.devices import qemu, setup, sysroot

MMDEBSTRAP = """
for last; do part=$folder; folder=$mirror; mirror=$last; done
echo "$part $folder" >> "$0.calls"
[ -f "$0.fails" ] && { cat "$0.fails" >&2; exit 25; }
mkdir -p "$folder/usr/bin" "$folder/etc" "$folder/var"
echo python > "$folder/usr/bin/python3.11"
echo this-machine > "$folder/etc/hostname"
ln -s usr/bin "$folder/bin"
"""
PIP = """
import pathlib, sys
here = pathlib.Path(__file__).parent
target = next(word for word in sys.argv if word.startswith("--target=")).partition("=")[2]
wanted = next(word for word in sys.argv if word.startswith("--requirement=")).partition("=")[2]
with open(here / "calls", "a") as file:
    file.write(pathlib.Path(wanted).read_text().split()[0] + "\\n")
if (here / "fails").exists():
    sys.exit((here / "fails").read_text())
pathlib.Path(target, "package").mkdir(parents=True)
pathlib.Path(target, "package", "__init__.py").write_text("x = 1")
"""
EMULATOR = """
[ "$1" = --version ] && { echo "qemu-aarch64 version 7.2.22"; exit 0; }
[ -f "$0.fails" ] && { cat "$0.fails" >&2; kill -SEGV $$; }
mkdir -p "$PYTHONPYCACHEPREFIX" && echo compiled > "$PYTHONPYCACHEPREFIX/a.pyc"
"""


class Tools:
    """Fake clients in a folder of their own.

    Attributes:
        folder: where they are.
        say: called with every line of a setup; `said` collects them.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.say: Callable[[str], None] = self.said.append
        script(folder / "mmdebstrap", MMDEBSTRAP)
        script(folder / "qemu-aarch64", EMULATOR)
        (folder / "modules" / "pip").mkdir(parents=True)
        (folder / "modules" / "pip" / "__init__.py").touch()
        (folder / "modules" / "pip" / "__main__.py").write_text(PIP)
        (folder / "keyring").touch()
        monkeypatch.setattr(setup, "KEYRING", folder / "keyring")
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        monkeypatch.setenv("PYTHONPATH", str(folder / "modules"))
        monkeypatch.setenv(qemu.FOLDER, str(folder))
        monkeypatch.setenv(sysroot.FOLDER, str(folder / "devices"))

    def calls(self, client: str) -> list[str]:
        """Return what a client was called with, a line a call."""
        file = self.folder / ("modules/pip/calls" if client == "pip" else f"{client}.calls")
        return file.read_text().splitlines() if file.exists() else []

    def fails(self, client: str, words: str | None) -> None:
        """Let a client fail from now on with these last words; None: no more."""
        file = self.folder / ("modules/pip/fails" if client == "pip" else f"{client}.fails")
        file.unlink(missing_ok=True)
        if words is not None:
            file.write_text(words)

    def set_up(self) -> None:
        """Set up arm64."""
        setup.set_up(sysroot.SYSROOTS["arm64"], self.say)

    @property
    def place(self) -> Path:
        """The folder of arm64's parts."""
        return self.folder / "devices" / "arm64"


def script(file: Path, text: str) -> None:
    """Write a shell script."""
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def pretended_core(folder: Path) -> None:
    """Write an emulator that runs this machine's own Python instead of a guest's."""
    version = '[ "$1" = --version ] && { echo "qemu-aarch64 version 7.2.22"; exit 0; }'
    script(folder / "qemu-aarch64", f'{version}\nunset PYTHONPATH; shift 6; exec {sys.executable} "$@"')
