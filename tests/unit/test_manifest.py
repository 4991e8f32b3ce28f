"""The manifest: digests by hand, no path, no time."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

from edgeport import __version__
from edgeport.manifest import code_digest, manifest, package_versions


def test_files_are_listed_below_the_folder_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "abc").write_bytes(b"abc")
    (tmp_path / "a").write_bytes(b"")
    text = manifest(tmp_path, [tmp_path / "b" / "abc", tmp_path / "a"], {"seed": 1})
    assert json.loads(text) == {
        "schema": 1,
        "edgeport": __version__,
        "seed": 1,
        "files": {  # SHA-256 of nothing and of abc: FIPS 180-2
            "a": {"sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "bytes": 0},
            "b/abc": {"sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "bytes": 3},
        },
    }
    assert list(json.loads(text)["files"]) == ["a", "b/abc"]
    assert text == manifest(tmp_path, [tmp_path / "a", tmp_path / "b" / "abc"], {"seed": 1})
    assert str(tmp_path) not in text


def test_versions_are_those_installed() -> None:
    assert package_versions(["torch", "no-such-distribution", "numpy"]) == {
        "torch": metadata.version("torch"),
        "no-such-distribution": "missing",
        "numpy": metadata.version("numpy"),
    }
    assert package_versions([]) == {}


def test_code_digest_is_a_digest() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", code_digest())
    assert code_digest() == code_digest()
