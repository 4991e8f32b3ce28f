"""CPU seconds that calibrating and quantizing one network for three runtimes takes; a helper of int8.py.

    python benchmarks/int8_steps.py stock --peers peers.py --model zoo.py:net --data arrays.npz --runtime tflite
    python benchmarks/int8_steps.py edgeport --model zoo.py:net --data arrays.npz --targets arm64,intel,cpu

Only these steps count: of the stock toolchains ai-edge-quantizer's calibrate + quantize + export, nncf.quantize, and
onnxruntime's quant_pre_process + quantize_static; of edgeport the stages equalize, calibrate and correct, and writing
each int8 file from its float file. Loading, tracing and float conversion count for neither. Prints one number.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Clock:
    """Adds up the CPU seconds of wrapped calls; a call within another one is counted once."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seconds, self.depth = 0.0, 0

    def wrap(self, owner: Any, name: str) -> None:
        """Replace `owner.name` by one that is timed."""
        call: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(call)
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            self.depth += 1
            try:
                return call(*arguments, **options)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.seconds += time.process_time() - start

        setattr(owner, name, timed)


STOCK_CALLS = {
    "tflite": (
        ("ai_edge_quantizer.quantizer", "Quantizer", ("calibrate", "quantize")),
        ("ai_edge_quantizer.quantizer", "QuantizationResult", ("export_model",)),
    ),
    "openvino": (("nncf", "", ("quantize",)),),
    "onnx": (
        ("onnxruntime.quantization", "", ("quantize_static",)),
        ("onnxruntime.quantization.shape_inference", "", ("quant_pre_process",)),
    ),
}
EDGEPORT_CALLS = (
    ("edgeport.stages.equalize", "Equalize", ("__call__",)),
    ("edgeport.stages.calibrate", "Calibrate", ("__call__",)),
    ("edgeport.stages.correct", "Correct", ("__call__",)),
    ("edgeport.backends.tflite", "", ("lower_int8",)),
    ("edgeport.backends.openvino", "", ("lower_int8",)),
    ("edgeport.backends.onnxruntime", "", ("lower_int8",)),
)


def timed(calls: tuple[tuple[str, str, tuple[str, ...]], ...]) -> Clock:
    """Return a clock of these calls: (module, class or nothing, function names)."""
    clock = Clock()
    for module, kind, names in calls:
        owner = importlib.import_module(module)
        for name in names:
            clock.wrap(getattr(owner, kind) if kind else owner, name)
    return clock


def stock(arguments: argparse.Namespace) -> float:
    """Build with one stock toolchain and return the seconds of its quantization."""
    clock = timed(STOCK_CALLS[arguments.runtime])
    spec = importlib.util.spec_from_file_location("peers", arguments.peers)
    if spec is None or spec.loader is None:
        raise SystemExit(f"cannot load {arguments.peers}")
    peers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peers)
    with tempfile.TemporaryDirectory() as folder:
        peers.BUILDERS[arguments.runtime](arguments.model, np.load(arguments.data)["calib"], Path(folder))
    return clock.seconds


def ours(arguments: argparse.Namespace) -> float:
    """Build with edgeport, nothing cached, and return the seconds of its quantization."""
    from edgeport import environment

    environment.prepare(1)
    clock = timed(EDGEPORT_CALLS)
    from edgeport.options import Options
    from edgeport.pipeline import build
    from edgeport.plan import resolve
    from edgeport.store import Store

    arrays = np.load(arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/calibrate.npz", x=arrays["calib"])
        np.savez(f"{folder}/evaluate.npz", x=arrays["x"][:16], y=arrays["y"][:16])
        flags = Options(
            model=arguments.model,
            target=arguments.targets,
            calibrate=f"{folder}/calibrate.npz",
            evaluate=f"{folder}/evaluate.npz",
            output=f"{folder}/out",
        )
        build(resolve(flags), store=Store(Path(folder) / "store"))
    return clock.seconds


def main() -> None:
    """Print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("stock", "edgeport"))
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runtime", choices=STOCK_CALLS)
    parser.add_argument("--targets", default="arm64,intel,cpu")
    arguments = parser.parse_args()
    sys.stdout.write(f"{(stock if arguments.side == 'stock' else ours)(arguments):.2f}\n")


if __name__ == "__main__":
    main()
