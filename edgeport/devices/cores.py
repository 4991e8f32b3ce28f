"""ARM cores as a guest sees them: the `/proc/cpuinfo` and `/sys` files from which runtimes choose their kernels.

QEMU's `-L FOLDER` shadows every absolute path that exists below FOLDER. Without these files a guest reads those of this
machine, and LiteRT and ONNX Runtime crash when they are loaded. A core's folder is links to the one system that all
cores share, and its own `proc` and `sys`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROCESSORS = 4  # that a guest believes in, as most boards have; runtimes start no thread for it
_ARM_LTD = "0x41"  # implementer code of Arm Ltd, MIDR_EL1 bits 31..24


@dataclass(frozen=True, kw_only=True)
class Core:
    """One core: its identity register MIDR, as in QEMU's target/arm/cpu64.c and cpu_tcg.c, and what Linux lists of it.

    Attributes:
        name: QEMU's, as target files write it.
        architecture: 7 or 8.
        variant: MIDR bits 23..20.
        part: MIDR bits 15..4.
        revision: MIDR bits 3..0.
        features: Linux's names (arch/arm64/kernel/cpuinfo.c) of what QEMU emulates for it.
    """

    name: str
    architecture: int
    variant: int
    part: int
    revision: int
    features: str

    def cpuinfo(self) -> str:
        """Return the text of `/proc/cpuinfo`."""
        lines = (
            "BogoMIPS\t: 108.00",
            f"Features\t: {self.features}",
            f"CPU implementer\t: {_ARM_LTD}",
            f"CPU architecture: {self.architecture}",
            f"CPU variant\t: {self.variant:#x}",
            f"CPU part\t: {self.part:#x}",
            f"CPU revision\t: {self.revision}",
        )
        one = "\n".join(lines)
        return "".join(f"processor\t: {index}\n{one}\n\n" for index in range(PROCESSORS))


_CORES = (
    Core(
        name="cortex-a53",
        architecture=8,
        variant=0,
        part=0xD03,
        revision=4,
        features="fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid",
    ),
    Core(name="cortex-a72", architecture=8, variant=0, part=0xD08, revision=3, features="fp asimd evtstrm crc32 cpuid"),
    Core(
        name="cortex-a76",
        architecture=8,
        variant=4,
        part=0xD0B,
        revision=1,
        features=("fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"),
    ),
    Core(
        name="cortex-a7",
        architecture=7,
        variant=0,
        part=0xC07,
        revision=5,
        features="half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm",
    ),
)
CORES = {core.name: core for core in _CORES}


def write_prefix(folder: Path, core: Core, system: Path, entries: Iterable[str]) -> None:
    """Make a core's folder for `-L`.

    Args:
        folder: to be made.
        core: which core.
        system: folder of the shared system; the links are relative, so that both can be moved together.
        entries: names in `system` to link to.
    """
    folder.mkdir(parents=True)
    for entry in entries:
        (folder / entry).symlink_to(Path("../..") / system.name / entry)
    (folder / "proc").mkdir()
    (folder / "proc" / "cpuinfo").write_text(core.cpuinfo(), encoding="ascii")
    cpus = folder / "sys" / "devices" / "system" / "cpu"
    cpus.mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (cpus / name).write_text(f"0-{PROCESSORS - 1}\n", encoding="ascii")
