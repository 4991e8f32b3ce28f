"""The energy counter of x86 processors (RAPL), as Linux shows it.

It counts what the processor package takes, everything that runs on it included; memory, regulators and the rest of the
board are not in it (Linux kernel, Documentation/power/powercap/powercap.rst). Reading it needs root on kernels since
5.10 (CVE-2020-8694).
"""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class Counter:
    """Counts joules from when it is made.

    Attributes:
        folder: where Linux shows the counters.
    """

    def __init__(self, folder: Path = POWERCAP) -> None:
        """Read all packages' counters for the first time."""
        self.folder = folder
        self._before = _microjoules(folder)

    def joules(self) -> float | None:
        """Return what all packages took since this was made; None where there is no counter, or it may not be read."""
        after = _microjoules(self.folder)
        if not self._before or self._before.keys() != after.keys():
            return None
        total = 0
        for package, (value, limit) in after.items():
            rose = value - self._before[package][0]
            total += rose if rose >= 0 else rose + limit  # it starts again at its limit
        return total * 1e-6


def _microjoules(folder: Path) -> dict[str, tuple[int, int]]:
    """Return package -> its counter and where that starts again."""
    found = {}
    for package in sorted(folder.glob("intel-rapl:[0-9]*")):
        if package.name.count(":") == 1:  # those with two are parts of a package
            try:
                values = [int((package / name).read_text()) for name in ("energy_uj", "max_energy_range_uj")]
            except (OSError, ValueError):
                continue
            found[package.name] = (values[0], values[1])
    return found
