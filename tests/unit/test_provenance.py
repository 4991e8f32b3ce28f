"""An activation has one key in every graph that is made from a network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention
from graph_case import Block, Residual, image, randomized, residual, traced
from torch import nn

from edgeport.graph.canonical import canonicalize
from edgeport.graph.float_graph import FloatGraph
from edgeport.graph.provenance import module_path, operator_name, provenance_keys
from edgeport.graph.shapes import activation_values


class Shared(nn.Module):
    """One module called twice, one activation module used three times, a nested module list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()
        self.blocks = nn.ModuleList([nn.ModuleDict({"inner": Block(3)}) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.conv(self.act(self.conv(x))))
        for block in self.blocks:
            x = block["inner"](x)  # type: ignore[index]  # a ModuleDict
        found: torch.Tensor = self.act(F.relu(x) - 1)
        return found


def shared() -> nn.Module:
    torch.manual_seed(0)
    return randomized(Shared())


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": residual,
    "shared": shared,
    "residual, other weights": lambda: residual(1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_key_means_the_same_activation_in_every_graph(name: str) -> None:
    model = traced(NETWORKS[name](), image())
    form = canonicalize(model.module, model.example_inputs)
    graph = FloatGraph.from_model(model)
    by_key = []
    for module in (model.module, form, graph.module):
        keys, values = provenance_keys(module.graph), activation_values(module, (image(),))
        assert len(set(keys.values())) == len(keys)  # no two activations share one
        by_key.append({keys[node]: value for node, value in values.items()})
    original, canonical, exported = by_key
    assert list(canonical) == list(exported)
    replaced = {"/adaptive_avg_pool2d", "/flatten"}  # how the canonical form spells the mean
    assert set(canonical) - set(original) <= replaced
    for key in canonical:
        torch.testing.assert_close(canonical[key], exported[key], atol=1e-5, rtol=1e-5)
        if key in original and not key.endswith("/conv2d"):  # a convolution's values change when its norm is folded
            torch.testing.assert_close(canonical[key], original[key], atol=1e-4, rtol=1e-4)


def test_keys_by_hand() -> None:
    keys = list(provenance_keys(traced(shared(), image()).module.graph).values())
    assert keys == [
        "/x",
        "conv/conv2d",
        "act/relu",
        "conv/conv2d_1",
        "act/relu_1",
        *(
            f"blocks.{index}.inner{operator}"
            for index in range(2)
            for operator in (
                ".conv1/conv2d",
                ".bn1/batch_norm",
                "/relu",
                ".conv2/conv2d",
                ".bn2/batch_norm",
                "/add",
                "/relu_1",
            )
        ),
        "/relu",
        "/sub",
        "act/relu_2",
    ]


def test_keys_do_not_depend_on_weights_or_batch() -> None:
    keys = [provenance_keys(traced(residual(seed), image()).module.graph) for seed in range(2)]
    assert keys[0] == keys[1]

    class Fixed(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.view(1, 3, 8, 8))

    fixed = traced(Fixed(), image())
    assert not fixed.has_dynamic_batch
    assert set(keys[0].values()) <= set(provenance_keys(fixed.module.graph).values())


def test_path_and_operator_of_a_node() -> None:
    nodes = {node.name: node for node in traced(residual(), image()).module.graph.nodes}
    assert (module_path(nodes["conv2d"]), operator_name(nodes["conv2d"])) == ("stem", "conv2d")
    assert (module_path(nodes["relu"]), operator_name(nodes["relu"])) == ("", "relu")
    assert module_path(nodes["x"]) == ""
