"""Where an int8 file loses time: what its runtime runs in float, unfused, undelegated or only to change a layout.

Read from the operators that the runtime really runs (`agent.py profile`), each held against what the file says it
costs. The cost is measured time where the runtime tells one an operator, else the share of the bytes moved.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeport.formats import ExecutedOp, OpTime
    from edgeport.types import OpCost

Kind = Literal["undelegated", "float", "transposed", "converted", "unfused"]

CONVERSIONS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "QUANTIZE", "DEQUANTIZE", "FakeQuantize", "Convert", "CAST", "Cast"}
)
LAYOUTS = frozenset({"Transpose", "TRANSPOSE", "Reorder", "ReorderInput", "ReorderOutput"})
SEPARATE = frozenset(  # what a neighbour's kernel could do on the way
    {"Relu", "Clip", "Clamp", "RELU", "RELU6", "RELU_N1_TO_1", "Pad", "PAD", "PADV2", "Slice", "StridedSlice"}
)
PADDINGS = frozenset({"PAD", "PADV2"})
CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
FREE = frozenset({"Reshape", "RESHAPE", "Squeeze", "SQUEEZE", "Unsqueeze", "Flatten", "Parameter", "Result", "Const"})
SAYS: Mapping[Kind, str] = {
    "undelegated": "not taken by XNNPACK",
    "float": "in float",
    "transposed": "only to change the layout",
    "converted": "only to change the number format",
    "unfused": "not fused into a neighbour",
}
NAMED = 3  # layers in a sentence
LONGEST = 60  # characters of a layer's name in a sentence


@dataclass(frozen=True, kw_only=True)
class SlowSpot:
    """Operators of one type that cost without computing in int8; JSON values.

    Attributes:
        kind: why they are listed.
        operator: the runtime's operator type.
        layers: provenance keys where known, else the runtime's names; none where the runtime made up a name.
        ms: their milliseconds together; None where the runtime does not tell.
        time_share: of all operators' time, 0..1; None where the runtime does not tell.
        macs_share: of the file's multiply-adds, 0..1.
        bytes_share: of the bytes that the file's operators move, 0..1.
    """

    kind: Kind
    operator: str
    layers: tuple[str, ...]
    ms: float | None
    time_share: float | None
    macs_share: float
    bytes_share: float

    @property
    def share(self) -> float:
        """What the list is ordered by: share of the time where it is known, else the larger of the other two."""
        return self.time_share if self.time_share is not None else max(self.macs_share, self.bytes_share)


def slow_spots(
    costs: Sequence[OpCost],
    executed: Sequence[ExecutedOp],
    ran: Sequence[OpTime],
    label: Callable[[str], str] = str,
) -> tuple[SlowSpot, ...]:
    """Return the spots of an int8 file, the costliest first.

    Args:
        costs: rows of the file.
        executed: what the runtime makes of it, with number formats.
        ran: what the runtime ran, with times.
        label: gives a layer's name for the runtime's name of an operator.
    """
    formats = {plain(op.name): op for op in executed}
    kinds = {plain(row.name): row.kind for row in costs}
    moved: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for row in costs:
        macs, size = moved[plain(row.name)]
        moved[plain(row.name)] = (macs + row.macs, size + row.weight_bytes + row.activation_bytes)
    all_macs = sum(macs for macs, _ in moved.values()) or 1
    all_bytes = sum(size for _, size in moved.values()) or 1
    times = [op.ms for op in ran if op.ms is not None]
    found: dict[tuple[Kind, str], list[OpTime]] = defaultdict(list)
    for op, following in zip(ran, [*ran[1:], None], strict=True):
        reason = _reason(op, formats.get(plain(op.name)), kinds.get(plain(op.name), ""))
        if reason is not None and not _is_padding_of(op, following):
            found[reason, op.kind].append(op)
    spots = []
    for (kind, operator), members in found.items():
        shares = [moved.get(name, (0, 0)) for name in dict.fromkeys(plain(op.name) for op in members)]
        ms = sum(op.ms or 0.0 for op in members) if times else None
        spots.append(
            SlowSpot(
                kind=kind,
                operator=operator,
                layers=tuple(dict.fromkeys(label(op.name) for op in members if not _is_made_up(op))),
                ms=ms,
                time_share=None if ms is None else ms / (sum(times) or 1.0),
                macs_share=sum(macs for macs, _ in shares) / all_macs,
                bytes_share=sum(size for _, size in shares) / all_bytes,
            )
        )
    return tuple(sorted(spots, key=lambda spot: (-spot.share, spot.kind, spot.operator)))


def plain(name: str) -> str:
    """Return the file's name of an operator; ONNX Runtime puts `_nchwc`, `_nhwc` and `_token_7` behind it."""
    return re.sub(r"(_token_\d+|_nchwc|_nhwc)+$", "", name)


def _is_padding_of(op: OpTime, following: OpTime | None) -> bool:
    """Whether XNNPACK pads within the convolution behind it; instruction counts show that it does."""
    return (
        op.kernel == "xnnpack"
        and op.kind in PADDINGS
        and following is not None
        and following.kernel == "xnnpack"
        and following.kind in CONVOLUTIONS
    )


def _is_made_up(op: OpTime) -> bool:
    return re.fullmatch(rf"{re.escape(op.kind)}(_\d+)?", plain(op.name)) is not None


def sentence(spot: SlowSpot, *, origin: str) -> str:
    """Return one line for the report: how many operators, why, what they cost, where."""
    named = [name if len(name) <= LONGEST else f"...{name[-LONGEST:]}" for name in spot.layers[:NAMED]]
    where = f": {', '.join(named)}" if named else ""
    more = f" and {len(spot.layers) - NAMED} more" if len(spot.layers) > NAMED else ""
    cost = f"{spot.bytes_share:.1%} of the bytes moved"
    if spot.time_share is not None and spot.ms is not None:
        cost = f"{spot.time_share:.1%} of the time ({spot.ms:.3f} ms, {origin})"
    if spot.macs_share:
        cost += f", {spot.macs_share:.1%} of the multiply-adds"
    return f"{spot.operator} runs {SAYS[spot.kind]}: {cost}{where}{more}"


def _reason(op: OpTime, executed: ExecutedOp | None, kind_in_file: str) -> Kind | None:
    """Return why an operator is listed; None: it computes in int8, or costs nothing."""
    if op.kernel == "builtin" and op.kind not in FREE:
        return "undelegated"
    if op.kind in FREE:
        return None
    if op.kind in LAYOUTS:
        return "transposed"
    if op.kind in CONVERSIONS or kind_in_file in CONVERSIONS:
        return "converted"
    if executed is not None and "float" in executed.dtype:
        return "float"
    return "unfused" if op.kind in SEPARATE else None
