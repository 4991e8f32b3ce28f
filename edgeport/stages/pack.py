"""Put a build's files where the user asked, each in one step, the report last."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.devices import agent_file
from edgeport.errors import ConfigError
from edgeport.manifest import manifest
from edgeport.stages.lower import BINDINGS
from edgeport.stages.persistence import STRUCTURE, WEIGHTS
from edgeport.store import copy_atomic, write_atomic

if TYPE_CHECKING:
    from edgeport.report.report import Report
    from edgeport.stages.lower import Lowered

AGENT, LABELS = "benchmark.py", "labels.txt"


def check_output(folder: Path) -> None:
    """Make the output folder.

    Raises:
        ConfigError: it is a file, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output folder '{folder}' cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"output folder '{folder}' is not writable")


def artifact_name(target: str, lowered: Lowered) -> str:
    """Return where a target's shipped file lies below the output folder."""
    return f"{target}/{lowered.artifact.path.name}"


def pack(  # noqa: PLR0913  # keyword-only past the third
    folder: Path,
    built: Mapping[str, tuple[Lowered, Lowered]],
    stage_folders: Sequence[Path],
    *,
    classes: Sequence[str],
    facts: Mapping[str, object],
    report: Report,
) -> None:
    """Write everything below `folder`.

    Args:
        folder: the output folder.
        built: target name -> (shipped file, float file).
        stage_folders: store entries of the stages whose weights and structure belong to the network, first to last.
        classes: class names; empty: no labels file.
        facts: for the manifest.
        report: for `report.json`.
    """
    files: list[Path] = []

    def put(source: Path, target: Path) -> None:
        copy_atomic(source, target)
        files.append(target)

    for name, (shipped, floating) in built.items():
        for file in shipped.artifact.files:
            put(file, folder / name / file.name)
        for file in floating.artifact.files:
            put(file, folder / name / file.name.replace("model", "model-float", 1))
        put(shipped.artifact.path.parent / BINDINGS, folder / name / BINDINGS)
        put(agent_file(), folder / name / AGENT)
        if classes:
            write_atomic(folder / name / LABELS, "".join(f"{label}\n" for label in classes))
            files.append(folder / name / LABELS)
    for part in (WEIGHTS, STRUCTURE):
        if holders := [stage / part for stage in stage_folders if (stage / part).is_file()]:
            put(holders[-1], folder / part)
        else:
            (folder / part).unlink(missing_ok=True)
    write_atomic(folder / "manifest.json", manifest(folder, files, facts))
    write_atomic(folder / "report.json", report.to_json())
