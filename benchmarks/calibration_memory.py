"""Peak memory of calibration, which must not grow with the number of samples.

    python benchmarks/calibration_memory.py zoo.py:efficientnet_lite0 --samples 4096 --size 224

Seeded noise stands in for pictures, made a batch at a time: it lies nowhere, so the figure is the calibration's own.
Prints the peak resident bytes of the process, and CPU seconds.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

SOURCE = """
import numpy as np

def samples():
    for number in range(0, {samples}, 4):
        count = min(4, {samples} - number)
        yield np.random.default_rng(number).normal(size=(count, 3, {size}, {size})).astype(np.float32), None
"""


def main() -> None:
    """Calibrate one network and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network", help="file.py:factory or module:factory")
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--method", default="auto")
    arguments = parser.parse_args()

    import torch

    from edgeport.dataset import open_dataset
    from edgeport.graph.network import load_network
    from edgeport.stages.calibrate import Calibrate
    from edgeport.stages.context import Context
    from edgeport.stages.trace import Trace

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.py"
        path.write_text(SOURCE.format(samples=arguments.samples, size=arguments.size))
        data = open_dataset(f"{path}:samples")
        tune = data.subset(slice(4, None, 5))
        calibrate = data.subset([index for index in range(len(data)) if index % 5 != 4])
        example = tuple(torch.from_numpy(array) for array in next(data.batches(1)).inputs)
        model, _ = Trace()(load_network(arguments.network, None, seed=0), example)
        start = time.process_time()
        _, figures = Calibrate(method=arguments.method)(model, Context(calibrate=calibrate, tune=tune))
        seconds = time.process_time() - start
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(
        f"{figures['samples']} samples, {peak_bytes} bytes at peak, {seconds:.1f} CPU s, {figures['estimators']}\n"
    )


if __name__ == "__main__":
    main()
