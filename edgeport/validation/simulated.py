"""What the trained int8 network answers where its runtime's arithmetic is computed exactly, on evaluation samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeport.graph.canonical import canonicalize
from edgeport.graph.execute import batch_size
from edgeport.graph.moves import on_source_grids
from edgeport.quant.corrections import with_layers
from edgeport.quant.integer_simulate import IntegerSimulator
from edgeport.quant.trial import stream_batches
from edgeport.validation.parity import class_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeport.dataset import Dataset
    from edgeport.quant.arithmetic import Arithmetic
    from edgeport.stages.context import Progress
    from edgeport.types import Model, WeightBits


def simulated_answers(
    model: Model, bits: WeightBits, arithmetic: Arithmetic, samples: Dataset, progress: Progress
) -> NDArray[np.int64] | None:
    """Return the class of every sample, (samples,); None where no output holds class scores.

    Args:
        model: calibrated, with the corrections that its int8 files hold.
        bits: of the file's weights.
        arithmetic: of the file's runtime.
        samples: evaluation samples.
        progress: where to show progress.
    """
    if model.calibration is None or model.corrections is None:
        raise ValueError("the network has no int8 form yet")
    module = with_layers(canonicalize(model.module, model.example_inputs), model.corrections.layers[bits])
    ranges = on_source_grids(module, model.calibration.ranges)
    simulator = IntegerSimulator(module, ranges, weight_bits=bits, arithmetic=arithmetic)
    size = batch_size([spec.shape for spec in model.inputs]) if model.has_dynamic_batch else 1
    parts: list[NDArray[np.int64]] = []
    with progress.task("evaluate simulated int8", len(samples)) as task:
        for batch in stream_batches(samples, size=size):
            scores = class_scores([output.float().numpy() for output in simulator.run(batch)])
            if scores is None:
                return None
            parts.append(scores.argmax(1))
            task.advance(len(batch[0]))
    return np.concatenate(parts)
