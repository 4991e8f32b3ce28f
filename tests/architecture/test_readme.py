"""README commands exist: every subcommand, flag and make target that it shows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_lines(markdown: str) -> list[str]:
    """Return the lines of all fenced `sh` blocks, with continued lines joined and without comments and prompts."""
    blocks = re.findall(r"^```sh\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def commands(program: str) -> list[list[str]]:
    """Return the words of each shown command of that program, without what it is piped into."""
    found = []
    for line in shell_lines(README):
        words = shlex.split(line, comments=True)
        ends = [index for index, word in enumerate(words) if word in {"|", "&&", ";", ">", "2>", "||"}]
        words = words[: ends[0]] if ends else words
        if words and Path(words[0]).name == program:
            found.append(words[1:])
    return found


@cache
def help_of(*subcommand: str) -> str:
    """Return what `edgeport SUBCOMMAND --help` prints; fails where there is no such subcommand."""
    code = "import sys; from edgeport.cli import main; sys.exit(main())"
    environment = os.environ | {"COLUMNS": "240", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-c", code, *subcommand, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"edgeport {' '.join(subcommand)} --help: {done.stderr or done.stdout}"
    return done.stdout


def test_readme_shows_how_to_build() -> None:
    assert any(words[:1] == ["build"] for words in commands("edgeport"))
    assert ["build"] in commands("make")


@pytest.mark.parametrize("words", commands("edgeport"), ids=" ".join)
def test_edgeport_command_exists(words: list[str]) -> None:
    subcommand = [word for word in words[:1] if not word.startswith("-")]
    known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", help_of(*subcommand)))
    for word in words:
        if word.startswith("-"):
            flag = word.partition("=")[0]
            assert flag in known | {"--help"}, f"{flag} is not a flag of `edgeport {' '.join(subcommand)}`"


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_make_target_exists(words: list[str]) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_shell_lines_joins_continued_lines_and_drops_comments() -> None:
    text = "a\n```sh\n# why\nedgeport build \\\n    --target cpu   # here\n\nmake test\n```\n```python\nmake no\n```\n"
    assert [line.split() for line in shell_lines(text)] == [
        ["edgeport", "build", "--target", "cpu", "#", "here"],
        ["make", "test"],
    ]
