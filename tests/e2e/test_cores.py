"""What a build says of the cores that a target names: with the emulator, without it, and where a core fails."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from devices_case import Tools, pretended_core, script
from e2e_case import Run, edgeport, metrics_of, refused, target_or_skip

from edgeport.devices import counter_header, host, qemu, sysroot
from edgeport.errors import EdgeportError, StageError

if TYPE_CHECKING:
    from e2e_builds import Build

pytest_plugins = ("e2e_builds",)

CORES = ("cortex-a53", "cortex-a72", "cortex-a76")


def why_not_ready() -> str:
    """Return why no ARM core can be emulated here; empty where one can."""
    try:
        for runtime in (sysroot.LITERT, sysroot.TFLITE_RUNTIME):
            qemu.device("cortex-a53", runtime)
    except EdgeportError as error:
        return str(error)
    return ""


WHY_NOT = why_not_ready()
needs_cores = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def said(run: Run, target: str = "arm64") -> dict[str, Any]:
    """Return what the validation said of a target: notes and runs."""
    validate = next(stage for stage in run.report()["stages"] if stage["name"] == "validate")
    found: dict[str, Any] = validate["metrics"][target]
    return found


def about_cores(run: Run) -> list[str]:
    return [note for note in said(run)["notes"] if note.startswith("not verified on")]


def again(build: Build, output: Path, *more: str, emulator: Path, devices: Path) -> Run:
    """Build again with an emulator and a folder of devices; what lies in the store is not made again."""
    command = (*build.arguments, "--output", str(output), "--json", *more)
    places = {"EDGEPORT_QEMU": str(emulator), "EDGEPORT_DEVICES": str(devices)}
    if not (emulator / "qemu-aarch64").is_symlink():  # an emulator that is pretended takes no plugin that counts
        places[counter_header.VARIABLE] = str(devices / "absent.h")
    return edgeport(*command, store=build.store, cwd=build.cwd, **places)


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with an emulator whose guests run this machine's own Python, and `devices` that are set up."""
    tools = Tools(tmp_path, monkeypatch)
    tools.set_up()
    pretended_core(tmp_path)
    return tmp_path


def test_build_without_the_emulator_says_what_to_do(demo_build: Build) -> None:
    target_or_skip("arm64")
    assert about_cores(demo_build.run) == [
        "not verified on arm64: qemu-aarch64 not found: apt-get install qemu-user"
        + ("" if not WHY_NOT else ", then edgeport devices setup qemu:arm64")
    ]


def test_build_without_the_system_says_what_to_do(demo_build: Build, tmp_path: Path, pretended: Path) -> None:
    target_or_skip("arm64")
    run = again(demo_build, tmp_path / "out", emulator=pretended, devices=tmp_path / "none")
    assert run.code == 0, run.err
    note = "not verified on arm64: qemu:arm64 is not set up: edgeport devices setup qemu:arm64"
    assert about_cores(run) == [note]
    shown = edgeport("report", tmp_path / "out", store=tmp_path / "store")
    assert f"note, arm64: {note}" in shown.out


def test_no_emulate_runs_nothing_and_says_so(demo_build: Build, tmp_path: Path, pretended: Path) -> None:
    target_or_skip("arm64")
    script(tmp_path / "qemu-aarch64", f"touch {tmp_path}/called")
    run = again(demo_build, tmp_path / "out", "--no-emulate", emulator=pretended, devices=pretended / "devices")
    assert run.code == 0, run.err
    assert about_cores(run) == ["not verified on arm64: emulation is switched off (--no-emulate)"]
    assert not (tmp_path / "called").exists()


def test_every_core_and_runtime_has_its_row_and_a_rebuild_runs_nothing(
    demo_build: Build, tmp_path: Path, pretended: Path
) -> None:
    target_or_skip("arm64")
    run = again(demo_build, tmp_path / "out", emulator=pretended, devices=pretended / "devices")
    assert run.code == 0, run.err
    rows = said(run)["cores"]
    assert [row["core"] for row in rows] == [core for core in CORES for _ in range(2)]
    assert {row["identical"] == row["samples"] == 200 for row in rows} == {True}
    figures = metrics_of(run.report(), "arm64")
    for core in CORES:
        assert figures[f"logit_difference_max@{core}"]["value"] == 0.0
        assert figures[f"agreement@{core}"]["passed"] is True
        assert figures[f"agreement@{core}"]["limit"] == 95.0
        assert figures[f"top1@{core}"]["origin"] == "emulated"
    version = '[ "$1" = --version ] && { echo "qemu-aarch64 version 7.2.22"; exit 0; }'
    ran = f'case "$*" in *" run "*) touch {tmp_path}/called;; esac; exit 1'  # counting is another matter
    script(tmp_path / "qemu-aarch64", f"{version}\n{ran}")
    second = again(demo_build, tmp_path / "out2", emulator=pretended, devices=pretended / "devices")
    assert said(second)["cores"] == rows
    assert not (tmp_path / "called").exists()
    shown = edgeport("report", tmp_path / "out", store=tmp_path / "store")
    assert "on emulated cores" in shown.out
    assert "agreement@cortex-a53" not in shown.out


def test_file_that_crashes_on_a_core_fails_the_build(demo_build: Build, tmp_path: Path, pretended: Path) -> None:
    target_or_skip("arm64")
    crash = "echo 'illegal operand' >&2; echo 'qemu: uncaught target signal 4 (dumped)' >&2; kill -ILL $$"
    version = 'echo "qemu-aarch64 version 8.0.0"'
    script(tmp_path / "qemu-aarch64", f'[ "$1" = --version ] && {{ {version}; exit 0; }}; {crash}')
    run = again(demo_build, tmp_path / "out", emulator=pretended, devices=pretended / "devices")
    assert run.code == 6, run.err
    assert about_cores(run) == [
        f"not verified on {', '.join(CORES)} in {runtime}: its runtime crashed (SIGILL); last words: illegal operand"
        for runtime in ("ai-edge-litert 2.3.0", "tflite-runtime 2.14.0")
    ]
    failures = {
        name: (figure["value"], figure["limit"], figure["passed"])
        for name, figure in metrics_of(run.report(), "arm64").items()
        if name.startswith("failures")
    }
    counts = {**dict.fromkeys(CORES, 1), "tflite-runtime": len(CORES)}
    assert failures == {f"failures@{place}": (count, 0.0, False) for place, count in counts.items()}


def test_operator_that_the_older_runtime_lacks_is_told_once(demo_build: Build, tmp_path: Path, pretended: Path) -> None:
    target_or_skip("arm64")
    why = "needs CONV_2D version 99, which tflite-runtime 2.14.0 does not have"
    version = '[ "$1" = --version ] && { echo "qemu-aarch64 version 9.0.0"; exit 0; }'
    refusal = f'echo "agent.py: /a/model.tflite {why}" >&2; echo x >> {tmp_path}/called; exit 2'
    script(tmp_path / "qemu-aarch64", f"{version}\n{refusal}")
    run = again(demo_build, tmp_path / "out", emulator=pretended, devices=pretended / "devices")
    assert run.code == 0, run.err
    found = about_cores(run)
    assert [note.partition(": ")[0] for note in found] == [
        f"not verified on {', '.join(CORES)} in {runtime}"
        for runtime in ("ai-edge-litert 2.3.0", "tflite-runtime 2.14.0")
    ]
    assert all(note.endswith(why) for note in found)
    called = (tmp_path / "called").read_text()
    assert about_cores(again(demo_build, tmp_path / "two", emulator=pretended, devices=pretended / "devices")) == found
    assert (tmp_path / "called").read_text() == called  # what a runtime lacks, it will lack


def test_core_without_an_emulator_is_named(demo_build: Build, tmp_path: Path, pretended: Path) -> None:
    target_or_skip("arm64")
    board = tmp_path / "phone.toml"
    board.write_text(
        'description = "a phone"\nbackend = "tflite"\nisa = "aarch64"\ncores = ["cortex-a76", "cortex-a78"]\n'
    )
    arguments = [str(board) if word in ("arm64,cpu", "arm64") else word for word in demo_build.arguments]
    phone = replace(demo_build, arguments=tuple(arguments))
    run = again(phone, tmp_path / "phone", emulator=pretended, devices=pretended / "devices")
    assert run.code == 0, run.err
    assert [row["core"] for row in said(run, "phone")["cores"]] == ["cortex-a76", "cortex-a76"]
    assert "not verified on cortex-a78: QEMU has no such core" in said(run, "phone")["notes"]


def test_time_of_an_emulated_device_is_refused(demo_build: Build, tmp_path: Path, pretended: Path) -> None:
    target_or_skip("arm64")

    def run(*words: str) -> Run:
        places = {"EDGEPORT_QEMU": str(pretended), "EDGEPORT_DEVICES": str(pretended / "devices")}
        command = (words[0], str(demo_build.output), *words[1:])
        return edgeport(*command, store=tmp_path / "store", cwd=tmp_path, **places)

    refused(run("bench", "--device", "qemu:cortex-a76"), 2, "is emulated, its time is no latency")
    refused(run("bench", "--device", "qemu:cortex-a67"), 2, "unknown processor 'cortex-a67'", "did you mean")
    refused(run("verify", "--isa", "cortex-a76"), 2, "give --device qemu:cortex-a76")
    found = run("verify", "--device", "qemu:cortex-a76", "--samples", "3")
    assert found.code == 0, found.err
    assert found.out.count("cortex-a76 arm64/model.tflite in ") == 2


def test_devices_lists_and_refuses(tmp_path: Path) -> None:
    store = tmp_path / "store"
    nowhere = str(tmp_path / "none")
    listed = edgeport("devices", "--json", store=store, EDGEPORT_DEVICES=nowhere)
    assert [state["name"] for state in json.loads(listed.out)][:2] == ["host", "qemu:haswell"]
    shown = edgeport("devices", store=store, EDGEPORT_DEVICES=nowhere)
    assert "apt-get install qemu-user, then edgeport devices setup qemu:arm64" in shown.out
    refused(edgeport("devices", "setup", "qemu:arm46", store=store), 2, "did you mean qemu:arm64?")
    absent = edgeport("devices", "setup", "qemu:arm64", store=store, PATH="", EDGEPORT_DEVICES=nowhere)
    refused(absent, 3, "apt-get install mmdebstrap")
    assert not (tmp_path / "none").exists()


@needs_cores
@pytest.mark.slow
def test_real_cores_answer_as_this_machine(demo_build: Build, tmp_path: Path) -> None:
    target_or_skip("arm64")
    (tmp_path / "qemu-aarch64").symlink_to(shutil.which("qemu-aarch64") or "")  # without the one of Haswell
    run = again(demo_build, tmp_path / "out", emulator=tmp_path, devices=sysroot.folder())
    assert run.code == 0, run.err
    rows = said(run)["cores"]
    assert [(row["core"], row["runtime"]) for row in rows] == [
        (core, runtime) for core in CORES for runtime in (sysroot.LITERT, sysroot.TFLITE_RUNTIME)
    ]
    for row in rows:
        assert row["samples"] == 200
        assert row["agreement"] > 95
        if row["runtime"] == sysroot.LITERT:
            assert row["flips"] == 0
            assert row["identical"] >= 198  # a tie of rounding may fall otherwise
    counted = [note for note in said(run)["notes"] if note.startswith("instructions not counted")]
    if counted:
        pytest.skip(counted[0])
    figures = metrics_of(run.report(), "arm64")
    assert figures["instructions"]["value"] == figures["instructions@cortex-a53"]["value"]
    # SDOT does 16 products at once and SMLAL 4, each beside loads and requantization; float32 hardly differs
    assert figures["instructions@cortex-a53"]["value"] > 2 * figures["instructions@cortex-a76"]["value"]
    assert figures["instructions@cortex-a76@float32"]["value"] > 2 * figures["instructions@cortex-a76"]["value"]
    assert {figures[name]["origin"] for name in figures if name.startswith("instructions")} == {"emulated"}
    second = again(demo_build, tmp_path / "out2", emulator=tmp_path, devices=sysroot.folder())
    assert metrics_of(second.report(), "arm64") == figures


@needs_cores
@pytest.mark.slow
def test_operator_that_the_older_runtime_lacks_is_named(demo_build: Build, tmp_path: Path) -> None:
    target_or_skip("arm64")
    import flatbuffers  # type: ignore[import-untyped]  # ships no types
    from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]  # ships no types

    content = (demo_build.output / "arm64" / "model.tflite").read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for code in model.operatorCodes:
        code.version = 99 if code.builtinCode == schema.BuiltinOperator.CONV_2D else code.version
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "arm64").mkdir()
    file = tmp_path / "arm64" / "model.tflite"
    file.write_bytes(builder.Output())
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 8, 8), np.float32))
    with pytest.raises(StageError, match=r"needs CONV_2D version 99, which tflite-runtime 2\.14\.0 does not have"):
        host.run(file, [tmp_path / "x.npy"], device=qemu.device("cortex-a53", sysroot.TFLITE_RUNTIME))
