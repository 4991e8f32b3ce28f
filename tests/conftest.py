"""What all tests share: one thread, the checkout and the folder of shared models and data."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from edgeport import environment

environment.prepare()  # before torch or a runtime is imported: one thread, no telemetry
# Started in the background, pytest and what it starts would inherit that Ctrl-C is ignored; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of shared models and data, `$EDGEPORT_DATA` or `../shared/data`; skip where there is none."""
    folder = Path(os.environ.get("EDGEPORT_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not (folder / "zoo.py").is_file():
        pytest.skip("no shared data: set EDGEPORT_DATA to the folder with zoo.py, or put it at ../shared/data")
    return folder
