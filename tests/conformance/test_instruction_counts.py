"""Real counts: QEMU, the counter compiled here, and files that a runtime runs. The gate on regressions is here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import counting_case
import pytest

from edgeport.devices import counter, qemu
from edgeport.devices.counter_header import VARIABLE, find_header
from edgeport.devices.counting import Counts, count
from edgeport.devices.device import AGENT, Device
from edgeport.errors import ConfigError, MissingPackageError
from edgeport.validation.operator_counts import TOLERANCE_PERCENT, break_down

pytest.importorskip("ai_edge_litert", reason="needs edgeport[tflite]")

REPRODUCIBLE = 2e-4  # of the instructions, from one process to another
SLACK = 50  # instructions around the call, where Python meets other addresses; 3e-6 of ResNet-20
# Instructions of the small network, ai-edge-litert 2.3.0, QEMU 7.2.22, by counting. What moves them: another runtime or
# Python; a file that is written otherwise (an operator that is no longer fused costs far more than the tolerance).
KNOWN = {
    "haswell": {"int8": 43_890, "float32": 43_347},
    "cortex-a53": {"int8": 44_327, "float32": 69_449},
    "cortex-a72": {"int8": 44_522, "float32": 57_151},
    "cortex-a76": {"int8": 18_920, "float32": 56_854},
}
TOLERANCE = 0.01
# MLPerf Tiny's ResNet-8, int8 and float32, instructions in millions: measured with another counter of the same QEMU
RESNET8 = {"cortex-a53": (5.016, 7.061), "cortex-a72": (4.326, 4.889), "cortex-a76": (1.504, 4.708)}
FAMILY = {"cortex-a53": "smlal", "cortex-a72": "smull", "cortex-a76": "sdot"}


def device_of(core: str) -> Device:
    """Return a processor that can count; skips where something is missing, and says what."""
    try:
        device = qemu.device(core)
        counter.check(device.command[0], counter.library(qemu.version(device)))
    except (ConfigError, MissingPackageError) as error:
        pytest.skip(str(error))
    return device


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the small network in int8 and in float32."""
    folder = tmp_path_factory.mktemp("counted")
    return counting_case.write("int8", folder), counting_case.write("float32", folder)


def instructions(counts: Sequence[Counts]) -> list[int]:
    return [one.instructions for one in counts]


@pytest.mark.parametrize("core", KNOWN)
def test_instructions_stay_what_they_were(core: str, files: tuple[Path, Path]) -> None:
    found = count(files, device_of(core)).counts
    assert instructions(found) == pytest.approx(list(KNOWN[core].values()), rel=TOLERANCE)
    for counts in found:
        # it reads its weights and activations at least once, and writes what it computes
        assert counts.load_bytes > 16 * 16 * 8 + 16 * 72 + 1024 * 10
        assert counts.store_bytes > 8 * 8 * 16
        assert counts.l1d_misses is not None
        assert 0 < counts.l1d_misses < counts.load_bytes / 8
    if core == "haswell":
        assert all(not counts.classes for counts in found)
        return
    for counts in found:
        split = sum(counts.classes[name] for name in ("branch", "load_store", "integer", "simd"))
        assert split == pytest.approx(counts.instructions, rel=1e-3)  # the lowest of each
    int8, floating = found
    assert next(iter(int8.multiplies)) == FAMILY[core]
    assert list(floating.multiplies) == ["fmla"]
    # four float32 products an instruction; edges of tiles and the linear layer's sum take a few more
    assert counting_case.MACS / floating.classes["fmla"] == pytest.approx(4, rel=0.3)


def test_two_processes_count_the_same(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_of("haswell")
    first = count(files, device).counts
    monkeypatch.setenv("EDGEPORT_NOTHING", "x" * 300)  # another length of the environment moves the stack
    monkeypatch.setenv("PYTHONHASHSEED", "5")
    second = count(files, device).counts
    assert instructions(second) == pytest.approx(instructions(first), rel=REPRODUCIBLE, abs=SLACK)


@pytest.mark.parametrize("core", ["haswell", "cortex-a76"])
def test_operators_sum_to_the_whole_file(core: str, files: tuple[Path, Path]) -> None:
    found = break_down(files[0], device_of(core))
    assert abs(found.deviation_percent) < TOLERANCE_PERCENT
    padding, convolution, _, linear = (counts.instructions for counts in found.operators)
    assert found.fused[0] == 1  # XNNPACK pads within the convolution, though each runs alone as well
    assert padding < 0.01 * convolution
    assert convolution > linear > 0


def test_counter_says_that_the_disk_is_full(files: tuple[Path, Path]) -> None:
    device = device_of("haswell")
    plugin = counter.library(qemu.version(device))
    command = [device.command[0], "-plugin", f"{counter.escaped(plugin)},out=/dev/full", *device.command[1:]]
    done = subprocess.run(
        [*command, str(AGENT), "count", str(files[0])], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "instruction_counter: /dev/full: No space left on device"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "out=/dev/null,l1=1000",
            "instruction_counter: 1000: a cache is BYTES:WAYS with at least one line",
        ),
        ("out=/dev/null,l3=1:1", "instruction_counter: l3=1:1: unknown option"),
        ("l1=64:1", "instruction_counter: out: which file?"),
        ("out=/nonexistent/x", "instruction_counter: /nonexistent/x: No such file or directory"),
    ],
)
def test_wrong_options_are_told(options: str, said: str) -> None:
    device = device_of("haswell")
    plugin = counter.escaped(counter.library(qemu.version(device)))
    command = [device.command[0], "-plugin", f"{plugin},{options}", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert done.stderr.startswith(said)


def test_counter_of_another_interface_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_of("haswell")
    header = find_header(qemu.version(device))
    text = header.read_text(encoding="utf-8")
    if "#define QEMU_PLUGIN_VERSION 1\n" not in text:
        pytest.skip("this QEMU has another interface than version 1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / header.name).write_text(text.replace("VERSION 1\n", "VERSION 2\n"), encoding="utf-8")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(MissingPackageError, match=r"compiled for another QEMU than .*: edgeport devices setup"):
        counter.check(device.command[0], counter.library(qemu.version(device)))


@pytest.mark.parametrize("core", RESNET8)
def test_resnet8_of_mlperf_tiny(core: str, shared_data: Path) -> None:
    folder = shared_data / "mlperf-tiny" / "reference"
    paths = [folder / "pretrainedResnet_quant.tflite", folder / "pretrainedResnet.tflite"]
    if not all(path.is_file() for path in paths):
        pytest.skip("the shared data has no mlperf-tiny/reference")
    found = count(paths, device_of(core)).counts
    # 0.3 %: that counter's figures hold the call of a system function and of Python around each inference
    assert [value / 1e6 for value in instructions(found)] == pytest.approx(list(RESNET8[core]), rel=0.003)
