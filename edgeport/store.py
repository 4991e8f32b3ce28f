"""Content-addressed results on disk: a finished step is never done twice, an unfinished one leaves nothing behind.

An entry is a folder named by the digest of everything its content depends on. It is filled under a temporary name,
synced, and renamed into place in one step, so that readers, other builds and a killed process see all of it or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from edgeport.errors import ConfigError

LARGEST_BYTES = 8 << 30  # past this, entries not used for a day are dropped, oldest first
KEEP_SECONDS = 24 * 3600
ABANDONED_SECONDS = 7 * 24 * 3600  # after that, nobody resumes a killed training


def digest(*parts: object) -> str:
    """Return the hex digest of JSON values; equal values in equal order give equal digests on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_root() -> Path:
    """Return the store of this user: `$EDGEPORT_STORE`, else `edgeport` in the user's cache folder."""
    if chosen := os.environ.get("EDGEPORT_STORE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeport"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well it is synced and renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None:  # a full disk is told without saying which
            error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def copy_atomic(source: Path, target: Path) -> None:
    """Copy a file so that `target` is at every moment either the old file or the whole new one."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class Store:
    """A folder of entries; any number of builds may use it at once."""

    def __init__(self, root: Path) -> None:
        """Use `root`; it is made when the first entry is written."""
        self.root = root

    def prepare(self) -> None:
        """Make the store's folder.

        Raises:
            ConfigError: it cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"store folder '{self.root}' cannot be made: {error.strerror}; EDGEPORT_STORE names another"
            ) from error

    def get(self, key: str) -> Path | None:
        """Return the folder of a finished entry, or None."""
        folder = self._folder(key)
        if not folder.is_dir():
            return None
        with contextlib.suppress(OSError):  # a read-only store still serves
            os.utime(folder)
        return folder

    @contextmanager
    def put(self, key: str) -> Iterator[Path]:
        """Give an empty folder to fill; it becomes the entry when the block ends well."""
        final = self._folder(key)
        final.parent.mkdir(parents=True, exist_ok=True)
        with self.workspace() as temporary:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    _sync(file)
            try:
                temporary.rename(final)
            except OSError:
                if not final.is_dir():  # else another build finished the same entry first
                    raise
            _sync_folder(final.parent)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give an empty folder for the length of the block; what a killed process leaves in it, `sweep` removes."""
        folder = self.root / "tmp" / f"{os.getpid()}-{uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        try:
            yield folder
        except OSError as error:
            error.filename = error.filename or str(self.root)  # a full disk is told without saying which
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def scratch(self, key: str) -> Path:
        """Return a folder for the checkpoints of an unfinished step; it survives a killed build."""
        folder = self.root / "scratch" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_scratch(self, key: str) -> None:
        """Remove the checkpoints of a finished step."""
        shutil.rmtree(self.root / "scratch" / key, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed builds left, and the oldest entries when the store has outgrown `LARGEST_BYTES`."""
        now = time.time()
        for left in (self.root / "tmp").glob("*"):
            if not is_running(left.name.split("-")[0]):
                shutil.rmtree(left, ignore_errors=True)
        for left in (self.root / "scratch").glob("*"):
            if now - _modified(left) > ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        entries = sorted((self.root / "entries").glob("*/*"), key=_modified)
        sizes = {entry: _size(entry) for entry in entries}
        excess = sum(sizes.values()) - LARGEST_BYTES
        for entry in entries:
            if excess <= 0 or now - _modified(entry) < KEEP_SECONDS:
                break
            shutil.rmtree(entry, ignore_errors=True)
            excess -= sizes[entry]

    def _folder(self, key: str) -> Path:
        return self.root / "entries" / key[:2] / key


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except FileNotFoundError:
        return 0


def is_running(pid: str) -> bool:
    """Return whether a process of that number runs; True for what is no number."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
