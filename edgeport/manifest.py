"""What a build was made of, and the digest of every file it wrote. No path, no time: rebuilds are identical."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from edgeport import __version__
from edgeport.store import file_digest


@cache
def code_digest() -> str:
    """Return a digest of edgeport's own source: results of other code are never taken from the store."""
    package = Path(__file__).resolve().parent
    state = hashlib.blake2b(digest_size=20)
    for file in sorted(package.rglob("*.py")):
        state.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return state.hexdigest()


def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return distribution name -> installed version; `missing` where it is not installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def manifest(folder: Path, files: Sequence[Path], facts: Mapping[str, object]) -> str:
    """Return the text of `manifest.json`.

    Args:
        folder: the output folder.
        files: files below it that belong to the build.
        facts: what the build was made of (JSON values).
    """
    listed = {
        file.relative_to(folder).as_posix(): {"sha256": file_digest(file), "bytes": file.stat().st_size}
        for file in sorted(files)
    }
    return json.dumps({"schema": 1, "edgeport": __version__, **facts, "files": listed}, indent=1) + "\n"
