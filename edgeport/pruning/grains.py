"""What `--prune` may ask for: the grains of pruning and how they are written.

| written | what goes | who gains |
|---|---|---|
| `0.5`, `filter:0.5` | half of the filters of each layer: shapes shrink | every file: size, latency, memory |
| `layer:2` | the 2 residual blocks that change the outputs least | every file |
| `fine:0.8` | four fifths of the single weights | the compressed file |
| `kernel:0.5` | half of the k x k slices, one an output and input channel | the compressed file |
| `vector:0.5` | half of the rows of the kernels | the compressed file |
| `2:4` | of every 4 weights along the input channels the 2 smallest | the compressed file |

Mao et al., "Exploring the Regularity of Sparse Structure in Convolutional Neural Networks" (2017, arXiv:1705.08922),
compares fine-grained, vector, kernel and filter pruning. `2:4`: Mishra et al., "Accelerating Sparse Deep Neural
Networks" (2021, arXiv:2104.08378).
"""

from __future__ import annotations

import math
import re
from typing import Literal

import msgspec

from edgeport.errors import ConfigError, did_you_mean

Kind = Literal["fine", "vector", "kernel", "n:m"]
SHARES = ("filter", "fine", "vector", "kernel")  # grains that are followed by a share
MOST_OF = 16  # the largest M of N:M


class Sparsity(msgspec.Struct, frozen=True, kw_only=True):
    """Weights that become zero while shapes stay.

    Attributes:
        kind: what is set to zero together; `n:m`: single weights, `of - keep` of every `of`.
        share: of the units that become zero, 0..1.
        keep: N of N:M; else 0.
        of: M of N:M; else 0.
    """

    kind: Kind
    share: float
    keep: int = 0
    of: int = 0

    def __str__(self) -> str:
        """Return it as it is written after `--prune`."""
        return f"{self.keep}:{self.of}" if self.kind == "n:m" else f"{self.kind}:{self.share:g}"


class Pruning(msgspec.Struct, frozen=True, kw_only=True):
    """What `--prune` says.

    Attributes:
        filters: share of the filters that is cut, 0..1.
        blocks: residual blocks that are left out, before filters are cut.
        sparsity: what becomes zero after that, in this order.
    """

    filters: float = 0.0
    blocks: int = 0
    sparsity: tuple[Sparsity, ...] = ()


def parse(text: str | float) -> Pruning:
    """Return what a `--prune` option asks for: parts as in the table above, comma separated, each grain once.

    Raises:
        ConfigError: an unknown grain, a share out of range, or a grain named twice.
    """
    filters, blocks, sparsity, seen = 0.0, 0, [], set()
    for part in str(text).split(","):
        grain, found = _part(part.strip(), text)
        if grain in seen:
            raise ConfigError(f"--prune {text}: {grain} is named twice")
        seen.add(grain)
        if isinstance(found, int):
            blocks = found
        elif isinstance(found, float):
            filters = found
        else:
            sparsity.append(found)
    return Pruning(filters=filters, blocks=blocks, sparsity=tuple(sparsity))


def _part(part: str, whole: str | float) -> tuple[str, int | float | Sparsity]:
    if pattern := re.fullmatch(r"(\d+):(\d+)", part):
        keep, of = int(pattern[1]), int(pattern[2])
        if not 0 < keep < of <= MOST_OF:
            raise ConfigError(f"--prune {whole}: N:M keeps N of M weights, 0 < N < M <= {MOST_OF}")
        return "n:m", Sparsity(kind="n:m", share=1 - keep / of, keep=keep, of=of)
    name, colon, amount = part.rpartition(":")
    grain = name if colon else "filter"
    if grain == "layer":
        if not amount.isdecimal() or int(amount) < 1:
            raise ConfigError(f"--prune {whole}: a number of residual blocks, 1 or more")
        return grain, int(amount)
    if grain not in SHARES:
        known = [*SHARES, "layer", "2:4"]
        raise ConfigError(
            f"--prune {whole}: unknown grain '{grain}'; known: {', '.join(known)}{did_you_mean(grain, known)}"
        )
    share = _number(amount)
    what = "the filters" if grain == "filter" else f"the {'weights' if grain == 'fine' else f'{grain}s'}"
    if not 0 <= share < 1:
        raise ConfigError(f"--prune {whole}: a share of {what}, from 0 to below 1")
    if grain == "filter":
        return grain, share
    return grain, Sparsity(kind=grain, share=share)  # type: ignore[arg-type]  # one of the other names in SHARES


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
