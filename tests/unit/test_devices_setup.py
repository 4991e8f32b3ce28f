"""`edgeport devices setup`: what is made, what is kept when it is stopped, what is said. The clients are scripts."""

from __future__ import annotations

import errno
import fcntl
import platform
from pathlib import Path

import pytest
from devices_case import Tools

from edgeport.devices import qemu, setup, sysroot
from edgeport.devices.listing import states, sysroot_named
from edgeport.errors import ConfigError, MissingPackageError, StageError

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="QEMU's user mode needs Linux")

PARTS = ("system", "cores", "ai-edge-litert", "bytecode-ai-edge-litert", "tflite-runtime", "bytecode-tflite-runtime")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    return Tools(tmp_path, monkeypatch)


def left_over(tools: Tools) -> list[str]:
    return sorted(path.name for path in tools.place.glob(".*.tmp"))


def test_setup_makes_every_part_once(tools: Tools) -> None:
    with pytest.raises(MissingPackageError) as caught:
        qemu.device("cortex-a53")
    assert str(caught.value) == "qemu:arm64 is not set up: edgeport devices setup qemu:arm64"
    tools.set_up()
    assert [line.split()[1].rstrip(":") for line in tools.said if line.startswith("make")] == list(PARTS)
    assert qemu.device("cortex-a53").is_apart
    assert qemu.device("qemu:cortex-a76", "tflite-runtime").is_emulated
    tools.said.clear()
    tools.set_up()
    assert [line.split()[0] for line in tools.said] == ["ok"] * len(PARTS)
    assert len(tools.calls("mmdebstrap")) == 1
    assert tools.calls("pip") == ["ai-edge-litert==2.3.0", "tflite-runtime==2.14.0"]
    assert left_over(tools) == []


def test_system_holds_nothing_of_this_machine_and_cores_shadow_its_processor(tools: Tools) -> None:
    tools.set_up()
    assert sorted(path.name for path in (tools.place / "system").iterdir()) == ["bin", "etc", "usr"]
    assert list((tools.place / "system" / "etc").iterdir()) == []
    core = tools.place / "cores" / "cortex-a76"
    assert (core / "usr" / "bin" / "python3.11").read_text() == "python\n"
    told = (core / "proc" / "cpuinfo").read_text()
    assert "CPU part\t: 0xd0b\n" in told
    assert "asimddp" in told
    assert "asimddp" not in (tools.place / "cores" / "cortex-a53" / "proc" / "cpuinfo").read_text()


def test_lost_network_is_told_and_setup_goes_on_where_it_was(tools: Tools) -> None:
    tools.fails(
        "pip", "WARNING: connection broken by 'E(\"[Errno 111] Connection refused\")': /simple\nERROR: No distribution"
    )
    with pytest.raises(StageError) as caught:
        tools.set_up()
    assert str(caught.value) == (
        "qemu:arm64, ai-edge-litert: pip: is there no network? Connection refused; "
        "what is finished is kept, edgeport devices setup qemu:arm64 goes on"
    )
    with pytest.raises(
        MissingPackageError, match=r"only partly set up \(ai-edge-litert, bytecode-ai-edge-litert missing"
    ):
        qemu.device("cortex-a53")
    tools.fails("pip", None)
    tools.set_up()
    assert len(tools.calls("mmdebstrap")) == 1
    assert qemu.device("cortex-a53").is_emulated


def test_failing_client_is_told_with_its_own_words(tools: Tools) -> None:
    tools.fails("mmdebstrap", "I: running apt-get\nE: Unable to locate package python9\nE: mmdebstrap failed to run")
    with pytest.raises(StageError, match=r"system: mmdebstrap: Unable to locate package python9; what is finished"):
        tools.set_up()
    assert left_over(tools) == []


def test_half_made_part_is_found_and_made_again(tools: Tools) -> None:
    tools.set_up()
    (tools.place / "system" / "usr" / "bin" / "python3.11").unlink()
    (tools.place / ".tflite-runtime.tmp").mkdir()  # what a killed setup leaves
    with pytest.raises(
        MissingPackageError, match=r"only partly set up \(system missing\): edgeport devices setup qemu:arm64"
    ):
        qemu.device("cortex-a53")
    tools.set_up()
    assert len(tools.calls("mmdebstrap")) == 2
    assert len(tools.calls("pip")) == 2
    assert qemu.device("cortex-a53").is_emulated
    assert left_over(tools) == []


def test_part_without_its_record_is_not_finished(tools: Tools) -> None:
    tools.set_up()
    (tools.place / "cores.json").unlink()
    with pytest.raises(MissingPackageError, match=r"partly set up \(cores, "):
        qemu.device("cortex-a53")


def test_setup_reads_every_byte(tools: Tools) -> None:
    tools.set_up()
    (tools.place / "tflite-runtime" / "package" / "__init__.py").write_text("x = 2")  # of the same length
    assert qemu.device("cortex-a53", "tflite-runtime").is_emulated
    tools.set_up()
    assert tools.calls("pip")[2:] == ["tflite-runtime==2.14.0"]
    assert (tools.place / "tflite-runtime" / "package" / "__init__.py").read_text() == "x = 1"


def test_missing_tools_are_told_with_one_command(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingPackageError) as caught:
        tools.set_up()
    assert str(caught.value) == "mmdebstrap not found: apt-get install mmdebstrap"
    monkeypatch.setenv(qemu.FOLDER, "")
    monkeypatch.setattr(setup, "KEYRING", Path("nowhere"))
    with pytest.raises(MissingPackageError) as caught:
        tools.set_up()
    assert str(caught.value) == (
        "mmdebstrap, qemu-aarch64, debian-archive-keyring not found: "
        "apt-get install mmdebstrap qemu-user debian-archive-keyring"
    )
    assert not tools.place.exists()


def test_full_disk_leaves_nothing_that_counts_as_finished(tools: Tools) -> None:
    tools.fails("mmdebstrap", "dpkg-deb: error: No space left on device\nE: mmdebstrap failed to run")
    with pytest.raises(OSError, match="No space left") as caught:
        tools.set_up()
    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.name for path in tools.place.iterdir()) == [".lock"]


def test_crashing_guest_is_told_with_its_last_words(tools: Tools) -> None:
    tools.fails("qemu-aarch64", "libc.so.6: cannot open shared object file\nqemu: uncaught target signal 11 (dumped)")
    message = r"bytecode-ai-edge-litert: qemu:cortex-a53: .*\(SIGSEGV\); last words: libc\.so\.6: cannot open shared"
    with pytest.raises(StageError, match=message):
        tools.set_up()


def test_second_setup_at_once_is_refused(tools: Tools) -> None:
    tools.place.mkdir(parents=True)
    with (tools.place / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another edgeport devices setup works in"):
            tools.set_up()


def test_other_recipe_is_not_the_same_part(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    tools.set_up()
    monkeypatch.setattr(sysroot, "SUITE", "trixie")
    with pytest.raises(MissingPackageError, match=r"\(system missing\)"):
        qemu.device("cortex-a72")


def test_listing_tells_what_is_ready(tools: Tools) -> None:
    before = {state.name: state for state in states()}
    assert before["host"].is_ready
    assert before["qemu:cortex-a72"].remedy == "qemu:arm64 is not set up: edgeport devices setup qemu:arm64"
    assert before["qemu:cortex-a7"].remedy.startswith(
        "qemu-arm not found: apt-get install qemu-user, then edgeport dev"
    )
    tools.set_up()
    after = {state.name: state for state in states()}
    assert after["qemu:cortex-a72"].is_ready
    assert after["qemu:cortex-a72"].runtimes == ("ai-edge-litert 2.3.0", "tflite-runtime 2.14.0")


@pytest.mark.parametrize("name", ["qemu:arm64", "arm64", "qemu:cortex-a76"])
def test_system_is_named_by_itself_or_by_a_core(name: str) -> None:
    assert sysroot_named(name).name == "arm64"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "qemu:arm46",
            r"no device 'qemu:arm46' to set up; known: qemu:arm64, qemu:armv7 \(did you mean qemu:arm64\?\)",
        ),
        ("host", "host runs this machine's own runtimes: there is nothing to set up"),
        ("qemu:haswell", "qemu:haswell runs this machine's own runtimes"),
    ],
)
def test_wrong_name_is_told(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sysroot_named(name)
