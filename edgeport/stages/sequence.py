"""Which stages a plan switches on, in which order, and which samples each of them depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeport.stages.calibrate import Calibrate
from edgeport.stages.correct import METHODS, Correct
from edgeport.stages.distill import Distill
from edgeport.stages.equalize import Equalize
from edgeport.stages.finetune import Finetune
from edgeport.stages.prune import Prune
from edgeport.stages.repair_bias import RepairBias
from edgeport.stages.sparsify import Sparsify
from edgeport.types import FEW_BITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeport.dataset import Dataset
    from edgeport.plan import Plan
    from edgeport.stages.data import Data
    from edgeport.types import Precision, WeightBits

Stage = Prune | Sparsify | Distill | RepairBias | Equalize | Calibrate | Correct | Finetune
Chosen = tuple[Stage, list[str]]  # a stage, and digests of what it depends on besides the network and its options

PACKED_BYTES = 0.5  # two weights share a byte, those of 2 and 1 bits too
BYTES_A_WEIGHT: Mapping[Precision, int] = {"int8": 1, "dynamic_int8": 1, "float16": 2, "float32": 4}


def sequence(plan: Plan, data: Data, *, teachers: Sequence[str] = (), runtimes: str = "") -> list[Chosen]:
    """Return the stages after the trace.

    Args:
        plan: what to do.
        data: the samples.
        teachers: fingerprints of the networks that a student learns from instead of the one that came in.
        runtimes: names what latency is measured on.
    """
    lessons = [*_digests(data.train), *teachers]
    lessons += [str(data.classes_elsewhere)] if data.classes_elsewhere else []
    return [*_smaller(plan, data, lessons, runtimes), *_integers(plan, data, lessons)]


def _smaller(plan: Plan, data: Data, lessons: list[str], runtimes: str) -> list[Chosen]:
    """Return the stages that make the float network smaller and win its accuracy back."""
    chosen: list[Chosen] = []
    rounds = plan.prune_rounds
    for left in range(rounds, 0, -1):
        if plan.prune or plan.prune_blocks or plan.budgets:
            chosen.append((_prune(plan, left), _pruned_by(plan, data, runtimes)))
        if plan.sparsity and left == 1:
            chosen.append((Sparsify(sparsity=plan.sparsity), _digests(data.train, data.calibrate)))
        if plan.distill and data.train is not None:
            between = plan.distill // (rounds + 1)  # the last round has the rest: what it ends with is shipped
            epochs = plan.distill - (rounds - 1) * max(1, between) if left == 1 else max(1, between)
            distill = Distill(
                epochs=epochs,
                temperature=plan.temperature,
                hard_labels=plan.hard_labels,
                features=plan.features,
                keep_zeros=bool(plan.sparsity) and left == 1,
            )
            chosen.append((distill, lessons))
    if plan.repair_bias and data.train is not None:
        chosen.append((RepairBias(), _digests(data.train, data.tune)))
    return chosen


def _prune(plan: Plan, rounds_left: int) -> Prune:
    return Prune(
        ratio=plan.prune,
        blocks=plan.prune_blocks if rounds_left == plan.prune_rounds else 0,
        channel_multiple=plan.channel_multiple,
        importance=plan.importance,
        allocation=plan.allocation,
        budgets=plan.budgets,
        rounds_left=rounds_left,
        bytes_a_weight=_bytes_a_weight(plan),
    )


def _bytes_a_weight(plan: Plan) -> float:
    """Return what a weight takes in the files: half a byte where all runtimes keep few bits packed.

    TensorFlow Lite packs linear layers alone, so with it a byte is counted; so it is for 8-bit layers in a packed file.
    """
    packs = plan.weight_bits in FEW_BITS and all(target.backend != "tflite" for target in plan.targets)
    return PACKED_BYTES if packs else BYTES_A_WEIGHT[plan.precision]


def _pruned_by(plan: Plan, data: Data, runtimes: str) -> list[str]:
    judges = data.tune if plan.importance == "auto" or plan.allocation == "sensitivity" else None
    is_timed = any(budget.kind == "latency" for budget in plan.budgets)
    return [*_digests(data.train, data.calibrate, judges), *([runtimes] if is_timed else [])]


def _integers(plan: Plan, data: Data, lessons: list[str]) -> list[Chosen]:
    """Return the stages that prepare int8 files."""
    if data.calibrate is None or plan.precision != "int8":
        return []
    chosen: list[Chosen] = []
    uses = _digests(data.calibrate, data.tune)
    auto, corrections = plan.corrections == "auto", plan.corrections
    bits: tuple[WeightBits, ...] = tuple(
        sorted({plan.weight_bits or target.int8.weight_bits for target in plan.targets})
    )
    if auto or "equalize" in corrections:
        chosen.append((Equalize(mode="auto" if auto else "always", weight_bits=bits[0]), uses))
    chosen.append((Calibrate(method=plan.calibration), uses))
    if plan.qat and data.train is not None:
        finetune = Finetune(
            epochs=plan.qat,
            weight_bits=bits,
            temperature=plan.temperature,
            hard_labels=plan.hard_labels,
            keep_zeros=bool(plan.sparsity),
        )
        chosen.append((finetune, lessons))
    elif auto:
        chosen.append((Correct(weight_bits=bits), uses))
    elif methods := tuple(name for name in METHODS if name in corrections):
        chosen.append((Correct(methods=methods, weight_bits=bits), uses))
    return chosen


def _digests(*samples: Dataset | None) -> list[str]:
    return [found.digest for found in samples if found is not None]
