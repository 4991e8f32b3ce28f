"""What each step of a build cost and gained: the float network as it came in, and after every stage that changed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeport.pruning.macs import count_macs
from edgeport.store import Store, digest
from edgeport.validation.accuracy import top1_percent
from edgeport.validation.parity import class_scores
from edgeport.validation.reference import float_outputs, reference

if TYPE_CHECKING:
    from edgeport.dataset import Dataset
    from edgeport.stages.chain import Chain
    from edgeport.stages.context import Progress
    from edgeport.types import Model

ROWS = "rows.json"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A float network on the evaluation samples, in PyTorch.

    Attributes:
        step: `float` for the network that came in, else the stage that made this one.
        top1: percent; None without labels or class scores.
        agreement: percent of the samples with the same answer as the network that came in; None without class scores.
        macs: multiply-adds of one sample.
        weights: values in all parameters.
        weights_nonzero: those that are not zero.
    """

    step: str
    top1: float | None
    agreement: float | None
    macs: int
    weights: int
    weights_nonzero: int


def ablation(store: Store, chain: Chain, samples: Dataset, progress: Progress) -> tuple[Row, ...]:
    """Return a row a step, the first for the network that came in, and alone where no stage changed it.

    Kept in the store: a rebuild reads it.
    """
    steps = chain.float_steps()
    key = digest("ablation", [step.key for step in steps], samples.digest)
    folder = store.get(key)
    if folder is not None:
        return msgspec.json.decode((folder / ROWS).read_bytes(), type=tuple[Row, ...])
    rows: list[Row] = []
    expected: tuple[np.ndarray, ...] = ()
    for step in steps:
        model = step.model()
        if chain.is_changed:
            outputs = float_outputs(model, samples, progress, f"evaluate after {step.name}")
        else:  # the yardstick itself: its outputs are known
            outputs = reference(store, chain, samples, progress).outputs
        expected = expected or outputs
        rows.append(_row(step.name, model, outputs, expected, samples.labels()))
    with store.put(key) as fresh:
        (fresh / ROWS).write_bytes(msgspec.json.encode(rows))
    return tuple(rows)


def _row(
    name: str,
    model: Model,
    outputs: tuple[np.ndarray, ...],
    expected: tuple[np.ndarray, ...],
    labels: np.ndarray | None,
) -> Row:
    scores, wanted = class_scores(outputs), class_scores(expected)
    agreement = None
    if scores is not None and wanted is not None:
        agreement = float(100 * np.mean(scores.argmax(1) == wanted.argmax(1)))
    parameters = list(model.module.parameters())
    return Row(
        step=name,
        top1=None if labels is None or scores is None else top1_percent(scores, labels),
        agreement=agreement,
        macs=count_macs(model.module, model.example_inputs),
        weights=sum(value.numel() for value in parameters),
        weights_nonzero=sum(int((value != 0).sum()) for value in parameters),
    )
