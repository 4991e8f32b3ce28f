"""How a network reacts to samples: what its first batch norms see, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Graph, GraphModule, Node

from edgeport.graph.canonical import attribute, canonicalize, is_constant
from edgeport.graph.execute import Executor, batch_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeport.types import Model

aten = torch.ops.aten

NORMS = (
    2  # batch norms nearest the input: deeper ones tell colours apart less and less (measured on ResNet-8, -20, -56)
)
DEAD_VARIANCE = 1e-3  # of the layer's median; channels below are dead, and any difference is huge beside them
RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What one batch norm saw, beside what it saw in training.

    Attributes:
        first: `(n, channels)` float64, mean of each sample.
        second: `(n, channels)` float64, mean of the squares of each sample.
        mean: `(channels,)` float64, the running mean.
        variance: `(channels,)` float64, the running variance.
    """

    first: np.ndarray
    second: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    def distance(self, weights: np.ndarray) -> np.ndarray:
        """Return `(k,)`: mean over the channels of ((m - mean)^2 + (s - std)^2) / variance.

        m and s are mean and standard deviation of the samples. It is the squared 2-Wasserstein distance of two normal
        distributions, in units of the trained variance; the idea to hold batches against running statistics is that of
        Yin et al. 2020, "Dreaming to distill" (DeepInversion), eq. 4.

        Args:
            weights: `(k, n)`, rows that sum to one: k ways to weigh the samples.
        """
        alive = self.variance > DEAD_VARIANCE * np.median(self.variance)
        means = weights @ self.first[:, alive]
        deviations = np.sqrt(np.maximum(weights @ self.second[:, alive] - means**2, 0))
        variance = self.variance[alive]
        squares = (means - self.mean[alive]) ** 2 + (deviations - np.sqrt(variance)) ** 2
        return np.asarray((squares / variance).mean(1))


@dataclass(frozen=True, kw_only=True)
class Reaction:
    """What the first batch norms saw of some samples.

    Attributes:
        layers: one a batch norm.
        lows: `(layers, n)`, smallest value of each sample.
        highs: `(layers, n)`, largest value.
    """

    layers: tuple[Moments, ...]
    lows: np.ndarray
    highs: np.ndarray

    @cached_property
    def distance(self) -> float:
        """Mean distance over the layers; 0: as in training."""
        n = self.lows.shape[1]
        return float(self._distances(np.full((1, n), 1 / n))[0])

    @cached_property
    def resampled(self) -> np.ndarray:
        """`(RESAMPLES,)`: the distance of samples drawn with replacement, the same draws for every reaction."""
        n = self.lows.shape[1]
        draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)
        return self._distances(draws / n)

    def is_nearer_than(self, other: Reaction, *, ratio: float, sure: float = 0.95) -> bool:
        """Whether the distance is below `ratio` of the other's, and below it in a share `sure` of the resamples."""
        nearer = float((self.resampled < other.resampled).mean())
        return self.distance < ratio * other.distance and nearer >= sure

    def _distances(self, weights: np.ndarray) -> np.ndarray:
        return np.asarray(np.mean([layer.distance(weights) for layer in self.layers], axis=0))


class Probe:
    """A network cut off behind its first batch norms that depend on one input."""

    def __init__(self, model: Model, index: int) -> None:
        """Cut; nothing is computed yet. `index`: number of the input."""
        self._model = model
        norms = _first_norms(model.module, index)
        self._statistics = [
            tuple(attribute(model.module, str(argument.target)).double().numpy() for argument in norm.args[3:5])  # type: ignore[union-attr]  # _first_norms saw that they are constants
            for norm in norms
        ]
        self._prefix = _cut(model.module, [norm.args[0] for norm in norms if isinstance(norm.args[0], Node)])

    @property
    def is_usable(self) -> bool:
        """Whether there is a batch norm that training has touched."""
        return bool(self._statistics)

    def react(self, inputs: Sequence[np.ndarray]) -> Reaction:
        """Run the network up to its first batch norms on `(n, ...)` arrays, one an input."""
        seen: list[list[torch.Tensor]] = []
        for batch in _batches(inputs, self._model):
            rows = []
            for value in self._prefix(*batch):
                flat = value.reshape(value.shape[0], value.shape[1], -1)
                low, high = flat.amin((1, 2)), flat.amax((1, 2))
                rows += [flat.mean(2).double(), flat.square().mean(2).double(), low, high]
            seen.append(rows)
        whole = [torch.cat(parts).numpy() for parts in zip(*seen, strict=True)]
        layers = [
            Moments(first=whole[4 * layer], second=whole[4 * layer + 1], mean=mean, variance=variance)
            for layer, (mean, variance) in enumerate(self._statistics)
        ]
        return Reaction(layers=tuple(layers), lows=np.stack(whole[2::4]), highs=np.stack(whole[3::4]))


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a network answered.

    Attributes:
        outputs: `(n, ...)` float32, the first output.
        lows: provenance key -> `(n,)`, smallest value of the activation in each sample.
        highs: provenance key -> `(n,)`, largest value.
    """

    outputs: np.ndarray
    lows: dict[str, np.ndarray]
    highs: dict[str, np.ndarray]

    @property
    def are_scores(self) -> bool:
        """Whether the output is one score a class."""
        return self.outputs.ndim == 2 and self.outputs.shape[1] > 1

    def losses(self, labels: np.ndarray) -> np.ndarray:
        """Return `(n,)`: cross-entropy with the labels, nats."""
        return np.asarray(-_log_softmax(self.outputs)[np.arange(len(labels)), labels])

    def entropies(self) -> np.ndarray:
        """Return `(n,)`: entropy of the softmax, nats; low where the network is sure."""
        logs = _log_softmax(self.outputs)
        return np.asarray(-(np.exp(logs) * logs).sum(1))


def executor(model: Model) -> Executor:
    """Return the whole network packed for `answer`."""
    return Executor(canonicalize(model.module, model.example_inputs), model.example_inputs)


def answer(network: Executor, model: Model, inputs: Sequence[np.ndarray]) -> Answers:
    """Run the whole network on `(n, ...)` arrays, one an input, and watch the range of every activation."""
    outputs: list[torch.Tensor] = []
    lows: dict[str, list[torch.Tensor]] = {}
    highs: dict[str, list[torch.Tensor]] = {}

    def observe(key: str, value: torch.Tensor) -> None:
        if value.is_floating_point() and value.dim() > 0 and value.numel():
            flat = value.reshape(value.shape[0], -1)
            lows.setdefault(key, []).append(flat.amin(1))  # with amax a tenth of the time of aminmax(dim=1)
            highs.setdefault(key, []).append(flat.amax(1))

    for batch in _batches(inputs, model):
        outputs.append(network.run(batch, observe)[0].float())
    return Answers(
        outputs=torch.cat(outputs).numpy(),
        lows={key: torch.cat(values).numpy() for key, values in lows.items()},
        highs={key: torch.cat(values).numpy() for key, values in highs.items()},
    )


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores.astype(np.float64) - scores.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _batches(inputs: Sequence[np.ndarray], model: Model) -> Sequence[list[torch.Tensor]]:
    size = batch_size([spec.shape for spec in model.inputs]) if model.has_dynamic_batch else 1
    starts = range(0, len(inputs[0]), size)
    return [
        [torch.from_numpy(np.ascontiguousarray(array[start : start + size])) for array in inputs] for start in starts
    ]


def _first_norms(module: GraphModule, index: int) -> list[Node]:
    """Return the first trained batch norms that depend on input `index`, in the order of the graph."""
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    reached = {inputs[index]}
    found: list[Node] = []
    for node in module.graph.nodes:
        if reached.isdisjoint(node.all_input_nodes):
            continue
        reached.add(node)
        if node.target is aten.batch_norm.default and node.args[0] in reached and _is_trained(module, node):
            found.append(node)
            if len(found) == NORMS:
                break
    return found


def _is_trained(module: GraphModule, norm: Node) -> bool:
    """Whether it uses running statistics, and they are not those of a new network (mean 0, variance 1)."""
    if norm.args[5] or not all(argument is not None and is_constant(argument) for argument in norm.args[3:5]):
        return False
    mean, variance = (attribute(module, str(argument.target)) for argument in norm.args[3:5])  # type: ignore[union-attr]  # is_constant saw a node
    return bool((mean != 0).any() or (variance != 1).any())


def _cut(module: GraphModule, ends: list[Node]) -> Callable[..., Any]:
    """Return a function of the network's inputs that computes the values of `ends` and nothing else."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    guards = {node for node in module.graph.nodes if node.op == "call_module" and not node.users}
    for node in module.graph.nodes:
        if node.op != "output" and node not in guards:
            copies[node] = graph.node_copy(node, lambda old: copies[old])
    graph.output(tuple(copies[end] for end in ends))
    graph.eliminate_dead_code()
    prefix = GraphModule(module, graph)

    def run(*inputs: torch.Tensor) -> Any:
        with torch.no_grad():
            return prefix(*inputs)

    return run
