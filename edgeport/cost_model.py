"""Latency and energy of one inference, predicted from the operators of the file that ships.

A processor's cost is a sum of seven terms, each a constant of the board times something counted in the file:

    cost = fixed + mac x (multiply-adds) + depthwise_mac x (those of depthwise convolutions)
         + weight_byte x (bytes of weights) + activation_byte x (bytes of activations, read and written)
         + other_byte x (those of operators that multiply nothing) + depthwise x (depthwise convolutions)

with one set of constants a number format. `benchmarks/power.py` fits them to metered boards, chooses the terms and says
how well they predict networks that they were not fitted to; docs/power.md is its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from edgeport.types import OpCost

TERMS = ("fixed", "mac", "depthwise_mac", "weight_byte", "activation_byte", "other_byte", "depthwise")
Format = Literal["int8", "float32"]
FAR = 3.0  # factor of the interval where a network is smaller or larger than all that were metered
FORMATS: tuple[Format, ...] = ("int8", "float32")


class Terms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Constants of one board for one number format: nanoseconds, or nanojoules, each.

    Attributes:
        fixed: of an inference.
        mac: of a multiply-add of dense convolutions and matrix products.
        depthwise_mac: of a multiply-add of a depthwise convolution.
        weight_byte: of a byte of weights.
        activation_byte: of a byte of activations that an operator reads or writes.
        other_byte: of such a byte, in addition, where the operator multiplies nothing.
        depthwise: of a depthwise convolution, whatever its size.
    """

    fixed: float = 0.0
    mac: float = 0.0
    depthwise_mac: float = 0.0
    weight_byte: float = 0.0
    activation_byte: float = 0.0
    other_byte: float = 0.0
    depthwise: float = 0.0


class Rates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one number format costs on a board.

    Attributes:
        latency_ns: constants of the median latency, batch one.
        energy_nj: constants of the energy of the whole board.
        latency_factor: nine of ten networks lie within [prediction / factor, prediction x factor].
        energy_factor: the same for energy.
    """

    latency_ns: Terms
    energy_nj: Terms
    latency_factor: float = 1.3
    energy_factor: float = 1.3


class CostModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A board's constants and where they come from.

    Attributes:
        source: what was metered, in words for the report.
        board: target whose board was metered; empty: this one.
        rank_correlation: Spearman's, of predicted with metered energy, networks of left-out families, both formats.
        idle_w: watts of the board while it does nothing.
        least_macs: multiply-adds of the smallest network that was metered.
        most_macs: of the largest.
        has_joules: whether the energy is more than a ratio: such a board was metered.
        int8: of 8-bit integers.
        float32: of everything else.
    """

    source: str
    board: str = ""
    rank_correlation: float
    idle_w: float
    least_macs: int
    most_macs: int
    has_joules: bool = True
    int8: Rates
    float32: Rates

    def covers(self, costs: Iterable[OpCost]) -> bool:
        """Whether networks of that many multiply-adds were metered."""
        return self.least_macs <= sum(cost.macs for cost in costs) <= self.most_macs

    def rates(self, dtype: str) -> Rates:
        """Return the constants for a number format; float32's for all but int8."""
        return self.int8 if dtype == "int8" else self.float32


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A figure and what it may really be.

    Attributes:
        value: nanoseconds or nanojoules.
        factor: nine of ten networks lie within [value / factor, value x factor].
    """

    value: float
    factor: float

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high end."""
        return self.value / self.factor, self.value * self.factor


def features(costs: Iterable[OpCost]) -> dict[Format, dict[str, float]]:
    """Return number format -> term -> how much of it one inference has.

    The fixed term is a whole one, of the format that has most multiply-adds. What changes only the shape is no cost:
    runtimes do not run it.
    """
    found = {form: dict.fromkeys(TERMS, 0.0) for form in FORMATS}
    for cost in costs:
        terms = found["int8" if cost.dtype == "int8" else "float32"]
        if cost.kind in SHAPE_ONLY:
            continue
        terms["depthwise_mac" if cost.is_depthwise else "mac"] += cost.macs
        terms["weight_byte"] += cost.weight_bytes
        terms["activation_byte"] += cost.activation_bytes
        terms["other_byte"] += 0 if cost.macs else cost.activation_bytes
        terms["depthwise"] += cost.is_depthwise
    macs = {form: terms["mac"] + terms["depthwise_mac"] for form, terms in found.items()}
    found[max(FORMATS, key=lambda form: macs[form])]["fixed"] = 1.0
    return found


SHAPE_ONLY = frozenset({"RESHAPE", "Reshape", "SQUEEZE", "Squeeze", "EXPAND_DIMS", "Unsqueeze", "Flatten"})


def latency(model: CostModel, costs: Sequence[OpCost]) -> Prediction:
    """Return the median latency of one inference, nanoseconds."""
    return _predicted(model, costs, lambda rates: (rates.latency_ns, rates.latency_factor))


def energy(model: CostModel, costs: Sequence[OpCost]) -> Prediction:
    """Return the energy of one inference, nanojoules of the whole board; without `has_joules` good for ratios only."""
    return _predicted(model, costs, lambda rates: (rates.energy_nj, rates.energy_factor))


def _predicted(model: CostModel, costs: Sequence[OpCost], of: Callable[[Rates], tuple[Terms, float]]) -> Prediction:
    """Add up what both number formats cost; `of` gives a format's constants and the factor of its interval."""
    least = 1.0 if model.covers(costs) else FAR
    parts = []
    for form, terms in features(costs).items():
        constants, factor = of(model.rates(form))
        parts.append(Prediction(value=_sum(constants, terms), factor=max(least, factor)))
    return _together(parts)


def _sum(constants: Terms, terms: Mapping[str, float]) -> float:
    return sum(float(getattr(constants, name)) * amount for name, amount in terms.items())


def _together(parts: Iterable[Prediction]) -> Prediction:
    """Add up; the factor is the largest of those that have a share."""
    shares = [part for part in parts if part.value > 0]
    return Prediction(
        value=sum(part.value for part in shares), factor=max((part.factor for part in shares), default=1.0)
    )
