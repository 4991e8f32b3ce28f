"""What `--macs`, `--size` and `--latency` allow a pruned network, and how the options are written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from edgeport.errors import ConfigError

if TYPE_CHECKING:
    from torch.fx import GraphModule

UNITS = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}
Kind = Literal["macs", "size", "latency"]
WORDS: Mapping[Kind, str] = {"macs": "multiply-adds", "size": "bytes of weights", "latency": "latency"}


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What may be left: a share of what there was, or for weights a number of bytes.

    Attributes:
        kind: multiply-adds, bytes of weights, or latency on the targets' runtimes.
        share: above 0 and below 1; 0 where `size_bytes` says it.
        size_bytes: at least 1; 0 where `share` says it.
    """

    kind: Kind
    share: float = 0.0
    size_bytes: int = 0

    def __str__(self) -> str:
        """Return the option that asks for it."""
        return f"--{self.kind} {f'{self.size_bytes}B' if self.size_bytes else f'{self.share:g}'}"

    def limit(self, before: float) -> float:
        """Return the most that may be left, of a network that has `before`."""
        return float(self.size_bytes) if self.size_bytes else self.share * before


def parse_share(kind: Kind, share: float) -> Budget:
    """Return what `--macs SHARE` or `--latency SHARE` asks for.

    Raises:
        ConfigError: not between 0 and 1.
    """
    if not 0 < share < 1:
        what = "float file's latency" if kind == "latency" else WORDS[kind]
        raise ConfigError(f"--{kind} {share:g}: a share of the {what} to keep, above 0 and below 1")
    return Budget(kind=kind, share=share)


def parse_size(text: str | float) -> Budget:
    """Return what `--size` asks for: `500kB`, `1.5MB`, `4096B`, or a share as `0.5`.

    Raises:
        ConfigError: neither bytes nor a share between 0 and 1.
    """
    amount, unit = _amount(str(text))
    if unit in UNITS and 1 <= amount * UNITS[unit] < math.inf:
        return Budget(kind="size", size_bytes=math.floor(amount * UNITS[unit]))
    if not unit and 0 < amount < 1:
        return Budget(kind="size", share=amount)
    raise ConfigError(f"--size {text}: bytes of weights such as 500kB or 1.5MB, or a share above 0 and below 1")


def parse_bytes(option: str, text: str) -> float:
    """Return the bytes that an option such as `--max-size 500kB` names.

    Raises:
        ConfigError: no number of bytes, or less than one.
    """
    amount, unit = _amount(text)
    if unit not in UNITS or not 1 <= amount * UNITS[unit] < math.inf:
        raise ConfigError(f"{option} {text}: bytes such as 500kB or 1.5MB")
    return amount * UNITS[unit]


def _amount(text: str) -> tuple[float, str]:
    """Return number and unit; NaN where it is neither."""
    found = re.fullmatch(r"\s*([0-9.eE+-]+)\s*([A-Za-z]*)\s*", text)
    return (_number(found[1]), found[2]) if found else (math.nan, "")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def weight_bytes(module: GraphModule, *, bytes_a_weight: float) -> int:
    """Return the bytes of a network's weights in a file, without what a runtime's format adds.

    Parameters of two dimensions and more, which is what convolutions and products read, take `bytes_a_weight` each; all
    others are biases and stay 4 bytes (int32 or float32). The scale of a batch norm is folded into the weights before
    it and takes none; its shift becomes their bias.
    """
    from torch.fx import Node

    from edgeport.pruning.operation import arguments, operator_name

    folded = set()
    for node in module.graph.nodes:
        weight = arguments(node).get("weight") if operator_name(node) == "batch_norm" else None
        if isinstance(weight, Node) and weight.op == "get_attr":
            folded.add(id(module.get_parameter(str(weight.target))))
    return math.ceil(
        sum(
            parameter.numel() * (bytes_a_weight if parameter.dim() > 1 else 4)
            for parameter in module.parameters()
            if id(parameter) not in folded
        )
    )
