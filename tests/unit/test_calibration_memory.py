"""Peak memory of calibration does not grow with the number of samples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def peak_bytes(samples: int) -> int:
    """Calibrate the embedded tests' small network on pictures of 3x96x96 in a process of its own."""
    script = ROOT / "benchmarks" / "calibration_memory.py"
    network = f"{ROOT / 'tests' / 'e2e' / 'e2e_networks.py'}:small"
    done = subprocess.run(
        [sys.executable, str(script), network, "--samples", str(samples), "--size", "96"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.partition(" samples, ")[2].split()[0])


def test_eight_times_the_samples_take_the_same_memory() -> None:
    few, many = peak_bytes(64), peak_bytes(512)
    assert many < 1.1 * few  # the samples alone would be 50 MB more
