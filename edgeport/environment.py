"""What heavy packages read when they are imported: one thread, no telemetry, no network, no chatter."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import cast

SETTINGS = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime 1.32 writes a device id and sends events as soon as it is imported
    "DO_NOT_TRACK": "1",
}


def prepare(threads: int = 1) -> None:
    """Set up this process, and those it starts; call it before torch or a runtime is imported."""
    for name, value in {**SETTINGS, "OMP_NUM_THREADS": str(threads)}.items():
        os.environ.setdefault(name, value)
    if "openvino_telemetry" not in sys.modules:
        # openvino imports this package where it finds it, and reports conversions with it
        sys.modules["openvino_telemetry"] = cast(ModuleType, None)
