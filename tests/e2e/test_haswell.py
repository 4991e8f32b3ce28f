"""The promise of `cpu` and `intel-avx2`, that x86 without VNNI gives the same answers, as a user meets it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e_case import edgeport, metrics_of, refused, target_or_skip

if TYPE_CHECKING:
    from e2e_builds import Build

pytest_plugins = ("e2e_builds",)

EMULATOR = shutil.which("qemu-x86_64")
needs_emulator = pytest.mark.skipif(EMULATOR is None, reason="no qemu-x86_64: apt-get install qemu-user")


def notes(build: Build) -> list[str]:
    validate = next(stage for stage in build.report()["stages"] if stage["name"] == "validate")
    found: list[str] = validate["metrics"]["cpu"]["notes"]
    return found


def test_build_without_the_emulator_works_and_says_what_was_not_verified(demo_build: Build, tmp_path: Path) -> None:
    target_or_skip("cpu")
    assert demo_build.run.code == 0, demo_build.run.err
    said = "not verified on Haswell: qemu-x86_64 not found: apt-get install qemu-user"
    assert [note for note in notes(demo_build) if note.startswith(said)] == [
        f"{said} (by its weights alone, nothing can saturate there)"
    ]
    assert "flips@haswell" not in metrics_of(demo_build.report(), "cpu")
    again = edgeport("report", demo_build.output, store=tmp_path / "store")
    assert f"note, cpu: {said}" in again.out


@needs_emulator
@pytest.mark.slow
def test_build_and_verify_prove_the_cpu_file_on_haswell(demo_build: Build, tmp_path: Path) -> None:
    target_or_skip("cpu")
    folder = str(Path(EMULATOR or "").parent)
    output = tmp_path / "out"
    run = edgeport(
        *demo_build.arguments,
        *("--output", output, "--json"),
        store=demo_build.store,
        cwd=demo_build.cwd,
        EDGEPORT_QEMU=folder,
        EDGEPORT_DEVICES=str(tmp_path),  # no ARM core is set up there
    )
    assert run.code == 0, run.err
    figures = metrics_of(run.report(), "cpu")
    for name in ("flips@haswell", "logit_difference_max@haswell"):
        assert (figures[name]["value"], figures[name]["limit"], figures[name]["passed"]) == (0.0, 0.0, True)
        assert figures[name]["origin"] == "emulated"
    assert figures["samples@haswell"]["value"] == 64
    assert "flips@haswell" not in metrics_of(run.report(), "arm64")

    found = edgeport("verify", output, "--isa", "haswell", "--samples", "3", store=tmp_path, EDGEPORT_QEMU=folder)
    assert found.code == 0, found.err
    lines = [line for line in found.out.splitlines() if line.startswith("haswell")]
    assert len(lines) == found.out.count("runs ")
    for line in lines:
        assert "0 flips and max |dlogit| 0 against exact arithmetic" in line
        assert "(3 random samples, for want of --evaluate)" in line


def test_verify_on_a_processor_that_cannot_be_emulated_is_told(demo_build: Build, tmp_path: Path) -> None:
    out = demo_build.output
    refused(edgeport("verify", out, "--isa", "haswel", store=tmp_path), 2, "unknown processor 'haswel'; known: haswell")
    absent = edgeport("verify", out, "--isa", "haswell", store=tmp_path)
    refused(absent, 3, "qemu-x86_64 not found: apt-get install qemu-user")
    alone = edgeport("verify", out, "--evaluate", "x.npz", store=tmp_path)
    refused(alone, 2, "--evaluate needs --isa")
