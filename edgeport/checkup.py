"""`edgeport doctor --data`: examine sample data, with the network where there is one, and say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from edgeport.dataset import Dataset, check_overlap, open_dataset
from edgeport.errors import ConfigError, LimitError
from edgeport.examination import Examination, Finding, examine

if TYPE_CHECKING:
    from edgeport.types import Model

FOUND = LimitError.exit_code  # as of a build that exceeds a limit: everything ran, and the answer is no


def check_up(
    data: str, *, model: str | None = None, weights: str | None = None, evaluate: str | None = None
) -> dict[str, Examination]:
    """Examine `--data`, and `--evaluate` where it is given.

    Args:
        data: DATA, as the command line takes it.
        model: MODEL; None: only the data is looked at.
        weights: weights for the model.
        evaluate: other DATA for the same network, to hold against the first.

    Returns:
        Flag -> what was seen.

    Raises:
        ConfigError: something cannot be read, or the network does not take the samples and nothing tells why.
    """
    samples = open_dataset(data)
    others = open_dataset(evaluate) if evaluate is not None else None
    if model is None:
        seen = {"--data": examine(samples, evaluate=others)}
        if others is not None:
            seen["--evaluate"] = examine(others)
    else:
        traced, refusal = _traced(model, weights, samples)
        seen = {"--data": examine(samples, traced, evaluate=others)}
        if refusal is not None and not any(finding.kind == "axis_order" for finding in seen["--data"].findings):
            raise refusal
        if others is not None:
            seen["--evaluate"] = examine(others, traced if others.shapes == samples.shapes else None)
    if others is not None:
        seen["--evaluate"] = _with(seen["--evaluate"], _overlap(samples, others))
    return seen


def _traced(model: str, weights: str | None, samples: Dataset) -> tuple[Model | None, ConfigError | None]:
    """Return the traced network, or why it does not take the samples."""
    import numpy as np
    import torch

    from edgeport.graph.network import load_network
    from edgeport.stages.trace import Trace

    network = load_network(model, weights, seed=0)
    first = next(samples.batches(1))
    try:
        return Trace()(network, tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in first.inputs))[0], None
    except ConfigError as error:
        return None, error


def _overlap(samples: Dataset, others: Dataset) -> list[Finding]:
    try:
        check_overlap(samples, others, names=("--data", "--evaluate"))
    except ConfigError as error:
        return [Finding(kind="overlap", sentence=str(error), evidence={})]
    return []


def _with(seen: Examination, more: list[Finding]) -> Examination:
    return replace(seen, findings=(*seen.findings, *more))


def as_json(seen: dict[str, Examination]) -> dict[str, object]:
    """Return JSON values: flag -> samples, findings, range curve, notes."""
    return {flag: asdict(examination) for flag, examination in seen.items()}


def described(seen: dict[str, Examination]) -> Iterator[str]:
    """Yield the lines for a person."""
    for flag, examination in seen.items():
        yield f"{flag}: {examination.samples} samples, {examination.looked_at} looked at"
        if len(examination.curve) > 1:
            yield f"  how far ranges of {examination.curve_of} are known with so many samples:"
            yield "    samples " + "".join(f"{size:>6}" for size, _ in examination.curve)
            yield "    range   " + "".join(f"{share:>6.0%}" for _, share in examination.curve)
        for finding in examination.findings:
            yield f"  {finding.kind}: {finding.sentence}"
        for note in examination.notes:
            yield f"  note: {note}"
    count = sum(len(examination.findings) for examination in seen.values())
    yield "nothing wrong was found" if not count else f"{count} thing{'s' * (count > 1)} to fix"
