"""What is made of the counter's regions, and what is said when a guest does not give them. The emulator is a script."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeport.devices import counter, counting
from edgeport.devices.caches import CACHES
from edgeport.devices.counting import Counts, count, identity, lowest, parse
from edgeport.devices.device import HOST, Device
from edgeport.errors import ConfigError, StageError

EMPTY = {"instructions": 100, "load_bytes": 10, "store_bytes": 5, "l1d_misses": 1, "l2_misses": 0}


def region(instructions: int, **more: int) -> dict[str, int]:
    return {"instructions": instructions, "load_bytes": 64, "store_bytes": 8, "l1d_misses": 3, "l2_misses": 2, **more}


def test_file_of_regions_ends_with_their_number() -> None:
    text = "".join(json.dumps(line) + "\n" for line in (EMPTY, region(500), {"regions": 2}))
    assert parse(text, expected=2) == [EMPTY, region(500)]
    with pytest.raises(StageError, match="saw 2 regions, the agent marked 3"):
        parse(text, expected=3)


@pytest.mark.parametrize("text", ["", '{"instructions": 7}\n', '{"regions": 1}\n', '{"instructions": 7}\n{"regi'])
def test_unfinished_file_is_an_error(text: str) -> None:
    with pytest.raises(
        StageError, match=r"^the instruction counter's file (ends after \d lines, unfinished|is damaged)"
    ):
        parse(text, expected=1)


def test_figures_are_the_lowest_less_the_empty_region() -> None:
    # two files, three turns; the first turn of the first file is high, and its caches are cold
    turns = [
        [EMPTY, region(1500, l1d_misses=90), region(700, sdot=4)],
        [EMPTY, region(1400), region(700, sdot=4)],
        [{**EMPTY, "instructions": 103}, region(1400), region(703, sdot=4)],
    ]
    first, second = lowest([{**figures, "sdot": figures.get("sdot", 0)} for turn in turns for figures in turn], 3)
    assert first == Counts(
        instructions=1300, load_bytes=54, store_bytes=3, l1d_misses=2, l2_misses=2, classes={"sdot": 0}
    )
    assert (second.instructions, second.classes) == (600, {"sdot": 4})
    assert first.multiplies == {}
    assert second.multiplies == {"sdot": 4}


def test_without_a_cache_model_there_are_no_misses() -> None:
    bare = [
        {"instructions": 1, "load_bytes": 0, "store_bytes": 0},
        {"instructions": 9, "load_bytes": 8, "store_bytes": 0},
    ]
    assert lowest(bare, 2) == (Counts(instructions=8, load_bytes=8, store_bytes=0),)


def test_multiplies_are_ordered_by_frequency() -> None:
    classes = {"simd": 90, "smlal": 20, "smull": 30, "fmla": 0}
    counts = Counts(instructions=100, load_bytes=0, store_bytes=0, classes=classes)
    assert list(counts.multiplies.items()) == [("smull", 30), ("smlal", 20)]


@pytest.mark.parametrize("core", CACHES)
def test_caches_have_whole_sets_and_a_source(core: str) -> None:
    caches = CACHES[core]
    for size, ways in ((caches.l1d_bytes, caches.l1d_ways), (caches.l2_bytes, caches.l2_ways)):
        sets = size // 64 // ways
        assert sets * 64 * ways == size
        assert sets & (sets - 1) == 0
    assert caches.l1d_bytes < caches.l2_bytes
    assert caches.source


GOOD = """
for word; do last=$word; done
options=$2
case "$*" in
  *--version*) echo "qemu-aarch64 version 7.2.22"; exit;;
  *nonexistent*) touch "${options##*out=}"; exit 1;;
esac
out=${options#*out=}; out=${out%%,*}
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that the script never reads; the compiled counter is one too."""
    monkeypatch.setattr(counter, "library", lambda version: tmp_path / "counter.so")
    monkeypatch.setattr(counter, "key", lambda version: "k")
    (tmp_path / "model.bin").write_bytes(b"")
    return tmp_path / "model.bin"


def emulator(folder: Path, text: str, core: str = "cortex-a76") -> Device:
    program = folder / "qemu-aarch64"
    program.write_text(f"#!/bin/sh\n{GOOD}\n{text}\n", encoding="utf-8")
    program.chmod(0o755)
    command = (str(program), "-cpu", core, "python3", "-I")
    return Device(name=f"qemu:{core}", command=command, is_emulated=True)


def said(regions: int) -> str:
    lines = [json.dumps(EMPTY), json.dumps(region(1100))] * (regions // 2) + [json.dumps({"regions": regions})]
    report = json.dumps({"runtime": "ai-edge-litert", "runtime_version": "2.3.0"})
    return "\n".join(f"echo '{line}' >> \"$out\"" for line in lines) + f"\necho '{report}'"


def test_emulator_gets_the_plugin_and_variables_of_its_own(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = f'echo "$@" > {tmp_path}/words; /usr/bin/env > {tmp_path}/variables'
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    found = count([model], emulator(tmp_path, f"{note}\n{said(4)}"))
    assert found.counts[0].instructions == 1000
    assert (found.runtime, found.runtime_version) == ("ai-edge-litert", "2.3.0")
    words = (tmp_path / "words").read_text().split()
    assert words[0] == "-plugin"
    assert words[1].endswith(",l1=65536:4,l2=524288:8")
    assert words[2:6] == ["-cpu", "cortex-a76", "python3", "-sP"]  # -I would ignore the hash seed
    assert words[7:11] == ["count", str(model), "--repeats", "2"]
    assert words[-2:] == ["--threads", "1"]
    variables = set((tmp_path / "variables").read_text().splitlines())
    assert {"PYTHONHASHSEED=0", "OMP_NUM_THREADS=1"} <= variables
    assert not [line for line in variables if line.startswith(("PYTHONPATH", "HOME", "EDGEPORT"))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (said(2), "the instruction counter saw 2 regions, the agent marked 4"),
        ("echo 'instruction_counter: out: No space left on device' >&2; exit 2", "No space left on device"),
        ("echo 'at layer 3' >&2; kill -SEGV $$", r"its runtime crashed \(SIGSEGV\); last words: at layer 3"),
    ],
)
def test_guest_that_fails_is_told_in_one_line(tmp_path: Path, model: Path, text: str, message: str) -> None:
    with pytest.raises(StageError, match=message) as caught:
        count([model], emulator(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_hanging_guest_is_ended(tmp_path: Path, model: Path) -> None:
    device = replace(emulator(tmp_path, "exec sleep 60"), timeout_seconds=0.5)
    with pytest.raises(StageError, match=r"on qemu:cortex-a76: still running after 0\.5 s, ended"):
        count([model], device)


def test_only_emulated_devices_count(model: Path) -> None:
    with pytest.raises(ConfigError, match="'host' is not emulated"):
        count([model], HOST)


def test_identity_tells_processor_emulator_counter_and_caches(tmp_path: Path, model: Path) -> None:
    assert identity(emulator(tmp_path, "")) == f"qemu:cortex-a76 7.2.22 k l1=65536:4 l2=524288:8 {counting.REPEATS}"
    assert identity(emulator(tmp_path, "", "cortex-x9")) == f"qemu:cortex-x9 7.2.22 k {counting.REPEATS}"
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\n", encoding="utf-8")
    mute.chmod(0o755)
    with pytest.raises(StageError, match="--version tells no version"):
        identity(Device(name="qemu:cortex-a76", command=(str(mute),), is_emulated=True))
