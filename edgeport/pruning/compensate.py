"""What cut channels had carried, given back by those that stay: the layers that read them get new weights.

Channels of a trained network are correlated, so a cut channel is in part a linear function of the kept ones:
x_cut = A x_kept + b + what is lost. A layer that read it with W_cut gets W_kept + W_cut A, the same A for every tap of
a kernel, and the constant W_cut b. It is the least-squares step of He et al. 2017, "Channel Pruning for Accelerating
Very Deep Neural Networks" (arXiv:1707.06168), section 3.1, with one A for all taps: for that the covariance of channels
is enough, which one pass over the uncut network gives for every cut of it.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import GraphModule, Interpreter, Node

from edgeport.graph.canonical import attribute
from edgeport.pruning.elimination import Reading
from edgeport.pruning.operation import arguments, operator_name
from edgeport.pruning.recalibrate import formatted
from edgeport.pruning.surgery import alive_labels
from edgeport.pruning.votes import READERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgeport.pruning.groups import ChannelGroup, Groups

    Place = tuple[str, int]  # node name, dimension of its result that counts channels

POSITIONS = 64  # of a sample's pixels or tokens that count; neighbours say much the same
MOST_CHANNELS = 4096  # layers that read more stay as they are: 128 MiB a covariance
RIDGES = (1e-5, 1e-3, 1e-1)  # added to the variances, in means of them


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A layer that can make up for inputs it loses.

    Attributes:
        place: what it reads.
        node: name of the node that holds its weight.
        weight: name of the weight in the module.
        inputs: dimension of the weight that counts inputs.
        constant: name of what takes a constant on its outputs: its bias, or the running mean of the batch norm after
            it; None where there is neither.
        sign: of the constant there, 1 or -1.
    """

    place: Place
    node: str
    weight: str
    inputs: int
    constant: str | None
    sign: int


@dataclass(kw_only=True)
class Moments:
    """Sums over rows of channels: their number, `(channels,)` of the values, `(channels, channels)` of products."""

    count: int
    totals: torch.Tensor
    products: torch.Tensor

    @classmethod
    def none(cls, channels: int) -> Moments:
        """Return sums over no rows."""
        totals = torch.zeros(channels, dtype=torch.float64)
        return cls(count=0, totals=totals, products=torch.outer(totals, totals))

    def add(self, rows: torch.Tensor) -> None:
        """Add rows, `(n, channels)`."""
        self.count += len(rows)
        self.totals += rows.sum(0, dtype=torch.float64)
        self.products += rows.T @ rows

    def __add__(self, other: Moments) -> Moments:
        """Return the sums over the rows of both."""
        return Moments(
            count=self.count + other.count, totals=self.totals + other.totals, products=self.products + other.products
        )

    @property
    def means(self) -> torch.Tensor:
        """Mean of each channel, `(channels,)`."""
        return self.totals / max(1, self.count)

    def covariance(self, *, is_centred: bool) -> torch.Tensor:
        """Return the means of products, `(channels, channels)`, less the product of the means where centred."""
        products = self.products / max(1, self.count)
        return products - torch.outer(self.means, self.means) if is_centred else products


def find_readers(module: GraphModule, groups: Groups) -> list[Reader]:
    """Return the layers that can make up for cut inputs: convolutions without groups, and linear ones.

    A weight, bias or norm that is used twice stays as it is.
    """
    uses = Counter(
        id(attribute(module, str(node.target)))
        for node in module.graph.nodes
        if node.op == "get_attr"
        for _ in node.users
    )

    def is_own(value: Any) -> bool:
        return (
            isinstance(value, Node) and value.op == "get_attr" and uses[id(attribute(module, str(value.target)))] == 1
        )

    found = []
    for node in module.graph.nodes:
        kind = operator_name(node)
        if kind not in READERS:
            continue
        named, inputs = arguments(node), 0 if kind.startswith("conv_transpose") else 1
        weight = named["weight"]
        if not is_own(weight) or named.get("groups", 1) != 1:
            continue
        axis = groups.axes[weight.name][inputs]
        if axis is None or len(axis) > MOST_CHANNELS:
            continue
        users = list(node.users)
        norm = arguments(users[0]) if len(users) == 1 and operator_name(users[0]) == "batch_norm" else {}
        constant, sign = next(
            ((value, sign) for value, sign in ((named["bias"], 1), (norm.get("running_mean"), -1)) if is_own(value)),
            (None, 1),
        )
        found.append(
            Reader(
                place=(named["input"].name, READERS[kind]),
                node=weight.name,
                weight=str(weight.target),
                inputs=inputs,
                constant=None if constant is None else str(constant.target),
                sign=sign,
            )
        )
    return found


class Compensation:
    """The covariances of a network's channels, and what they make up for in any cut of it."""

    def __init__(
        self, module: GraphModule, groups: Groups, batches: Iterable[Sequence[np.ndarray | torch.Tensor]]
    ) -> None:
        """Run the network once.

        Args:
            module: the network that `groups` was found in; it stays as it is.
            groups: what may be pruned.
            batches: one array (n, ...) a network input.
        """
        self._module, self._groups, self._readers = module, groups, find_readers(module, groups)
        laid_out = formatted(copy.deepcopy(module), torch.channels_last)
        gathering = _Gathering(laid_out, {reader.place for reader in self._readers})
        with torch.no_grad():
            for batch in batches:
                gathering.run(*[torch.as_tensor(value) for value in batch])
                gathering.samples += len(batch[0])
        self._halves = {
            place: halves
            for place, halves in gathering.halves.items()
            if all(bool(half.products.isfinite().all()) for half in halves)
        }

    def readings(self, group: ChannelGroup) -> list[Reading] | None:
        """Return how layers read a group's channels; None where there is a channel that none of them reads."""
        found = []
        for reader in self._readers:
            if reader.place not in self._halves:
                continue
            classes = self._groups.classes[self._groups.axes[reader.node][reader.inputs]]
            places = [np.flatnonzero(classes == label) for label in group.classes]
            size = max(map(len, places))
            if not size or any(len(place) not in (0, size) for place in places):
                continue
            weight = _by_output(self._module.get_parameter(reader.weight).detach(), reader).double()
            halves = self._halves[reader.place]
            found.append(
                Reading(
                    products=torch.einsum("oit,ojt->ij", weight, weight),
                    covariance=(halves[0] + halves[1]).covariance(is_centred=reader.constant is not None),
                    places=torch.from_numpy(
                        np.stack([place if len(place) else np.zeros(size, int) for place in places])
                    ),
                    seen=torch.tensor([bool(len(place)) for place in places]),
                )
            )
        if not found or not bool(torch.stack([reading.seen for reading in found]).any(0).all()):
            return None
        return found

    def apply(self, pruned: GraphModule, kept: Mapping[str, Sequence[int]]) -> int:
        """Change what `prune_channels` made of the network with this `kept`; return how many layers changed."""
        alive = torch.from_numpy(alive_labels(self._groups, kept))
        changed = 0
        for reader in self._readers:
            axes = self._groups.axes[reader.node]
            stays = alive[torch.from_numpy(axes[reader.inputs])]
            if stays.all() or reader.place not in self._halves:
                continue
            outputs = axes[1 - reader.inputs]
            written = slice(None) if outputs is None else alive[torch.from_numpy(outputs)]
            changed += self._change(pruned, reader, stays, written)
        return changed

    def _change(self, pruned: GraphModule, reader: Reader, stays: torch.Tensor, written: torch.Tensor | slice) -> bool:
        halves, is_centred = self._halves[reader.place], reader.constant is not None
        whole = _by_output(self._module.get_parameter(reader.weight).detach(), reader)
        cut = whole[written][:, ~stays].double()
        ridge = _least_loss(halves, stays, torch.einsum("oit,ojt->ij", cut, cut), is_centred=is_centred)
        if ridge is None:
            return False
        moments = halves[0] + halves[1]
        shares = _shares(moments.covariance(is_centred=is_centred), stays, ridge)
        with torch.no_grad():
            weight = _outputs_first(pruned.get_parameter(reader.weight), reader)
            weight += torch.einsum("oit,ij->ojt", cut, shares).reshape(weight.shape).to(weight.dtype)
            if reader.constant is not None:
                constant = cut.sum(2) @ (moments.means[~stays] - shares @ moments.means[stays])
                target = attribute(pruned, reader.constant)
                target += reader.sign * constant.to(target.dtype)
        return True


def _by_output(weight: torch.Tensor, reader: Reader) -> torch.Tensor:
    """Return a weight as `(outputs, inputs, taps)`."""
    laid = _outputs_first(weight, reader)
    return laid.reshape(*laid.shape[:2], -1)


def _outputs_first(weight: torch.Tensor, reader: Reader) -> torch.Tensor:
    return weight if reader.inputs == 1 else weight.transpose(0, 1)


def _shares(covariance: torch.Tensor, stays: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return A, `(cut, kept)`."""
    kept = covariance[stays][:, stays]
    least = kept.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    ridged = kept + torch.eye(len(kept), dtype=kept.dtype) * least * ridge
    solved: torch.Tensor = torch.linalg.solve(ridged, covariance[stays][:, ~stays])
    return solved.T


def _least_loss(
    halves: Sequence[Moments], stays: torch.Tensor, weights: torch.Tensor, *, is_centred: bool
) -> float | None:
    """Return the ridge with the least squared error on samples it was not fitted to; None: no change errs less.

    Args:
        halves: two halves of the samples.
        stays: which channels do.
        weights: `(cut, cut)`, of errors and their products: what the reader makes of them.
        is_centred: whether there is a constant.
    """
    one, other = (half.covariance(is_centred=is_centred) for half in halves)

    def loss(shares: torch.Tensor, covariance: torch.Tensor) -> float:
        cross = shares @ covariance[stays][:, ~stays]
        error = covariance[~stays][:, ~stays] - cross - cross.T + shares @ covariance[stays][:, stays] @ shares.T
        return float((weights * error).sum())

    nothing = torch.zeros(int((~stays).sum()), int(stays.sum()), dtype=torch.float64)
    losses: dict[float | None, float] = {None: loss(nothing, one) + loss(nothing, other)}
    for ridge in RIDGES:
        losses[ridge] = loss(_shares(one, stays, ridge), other) + loss(_shares(other, stays, ridge), one)
    return min(losses, key=lambda ridge: losses[ridge])


class _Gathering(Interpreter):
    """Runs a network and sums up what layers read; samples go to two halves in turn."""

    def __init__(self, module: GraphModule, places: Iterable[Place]) -> None:
        super().__init__(module)
        self.places = sorted(places)
        self.halves: dict[Place, tuple[Moments, Moments]] = {}
        self.generator = torch.Generator().manual_seed(0)
        self.samples = 0

    def run_node(self, n: Node) -> Any:  # fx's own signature
        result = super().run_node(n)
        for place in self.places:
            if place[0] == n.name:
                self._add(place, result.movedim(place[1], -1))
        return result

    def _add(self, place: Place, values: torch.Tensor) -> None:
        channels = values.shape[-1]
        rows = values.reshape(len(values), -1, channels)
        if rows.shape[1] > POSITIONS:
            rows = rows[:, torch.randperm(rows.shape[1], generator=self.generator)[:POSITIONS]]
        halves = self.halves.setdefault(place, (Moments.none(channels), Moments.none(channels)))
        for half, moments in enumerate(halves):
            moments.add(rows[(half + self.samples) % 2 :: 2].reshape(-1, channels))
