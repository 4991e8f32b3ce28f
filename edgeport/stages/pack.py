"""Put a build's files where the user asked: all of them are written first, then moved into place, the report last."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from edgeport.devices import agent_file
from edgeport.errors import ConfigError
from edgeport.manifest import manifest
from edgeport.stages.lower import BINDINGS
from edgeport.stages.persistence import PACKED, pack_stages
from edgeport.store import copy_atomic, is_running, write_atomic

if TYPE_CHECKING:
    from edgeport.report.report import Report
    from edgeport.stages.lower import Lowered

AGENT, LABELS = "benchmark.py", "labels.txt"
MANIFEST, REPORT = "manifest.json", "report.json"
OURS = ("model.*", "model-float.*", BINDINGS, AGENT, LABELS)  # what a build may have left in a target's folder
STAGING = ".edgeport-"
STEPS_PLOT = "steps.svg"
DEBUG_PLOT = "debug.svg"  # `edgeport debug` leaves it beside the report; of an earlier build's files, it would mislead


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
    plot: str = "",
) -> None:
    """Write everything below `folder`.

    Args:
        folder: the output folder.
        built: target name -> (shipped file, float file).
        stage_folders: store entries of the stages whose weights and structure belong to the network, first to last.
        classes: class names; empty: no labels file.
        facts: for the manifest.
        report: for `report.json`.
        plot: of the build's steps, an SVG; empty: none.
    """
    with _staging(folder) as staging:
        _write_targets(staging, built, classes)
        pack_stages(stage_folders, staging)
        files = [file for file in staging.rglob("*") if file.is_file()]
        write_atomic(staging / MANIFEST, manifest(staging, files, facts))
        if plot:  # like the report, not in the manifest: it shows latencies, which differ from run to run
            write_atomic(staging / STEPS_PLOT, plot)
            files.append(staging / STEPS_PLOT)
        write_atomic(staging / REPORT, report.to_json())
        _move(staging, folder, files, targets=(*report.targets, *report.failures))


def _write_targets(staging: Path, built: Mapping[str, tuple[Lowered, Lowered]], classes: Sequence[str]) -> None:
    for name, (shipped, floating) in built.items():
        for file in shipped.artifact.files:
            copy_atomic(file, staging / name / file.name)
        for file in floating.artifact.files:
            copy_atomic(file, staging / name / file.name.replace("model", "model-float", 1))
        copy_atomic(shipped.artifact.path.parent / BINDINGS, staging / name / BINDINGS)
        copy_atomic(agent_file(), staging / name / AGENT)
        if classes:
            write_atomic(staging / name / LABELS, "".join(f"{label}\n" for label in classes))


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Give a folder on the same disk as `folder`; what killed builds left of theirs is removed."""
    for left in folder.glob(f"{STAGING}*"):
        if not is_running(left.name.removeprefix(STAGING).partition("-")[0]):
            shutil.rmtree(left, ignore_errors=True)
    staging = folder / f"{STAGING}{os.getpid()}-{uuid4().hex[:8]}"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(staging: Path, folder: Path, files: Sequence[Path], *, targets: Sequence[str]) -> None:
    """Replace an earlier build's files; without a report while that happens, so that a report is of what lies there."""
    for name in (REPORT, MANIFEST, DEBUG_PLOT, STEPS_PLOT):
        (folder / name).unlink(missing_ok=True)
    for target in targets:
        for old in (file for pattern in OURS for file in (folder / target).glob(pattern)):
            if not (staging / target / old.name).exists():
                old.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not there, or something of the user's is in it
            (folder / target).rmdir()
    for part in PACKED:
        if not (staging / part).exists():
            (folder / part).unlink(missing_ok=True)
    for file in (*files, staging / MANIFEST, staging / REPORT):
        place = folder / file.relative_to(staging)
        place.parent.mkdir(exist_ok=True)
        file.replace(place)
