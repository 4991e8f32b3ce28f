"""A traced network survives being stored as JSON: same values, same provenance, no code, no path."""

from __future__ import annotations

import json

import pytest
import torch
from graph_case import image, residual, traced
from torch import nn

from edgeport.errors import ConfigError
from edgeport.graph.canonical import canonicalize
from edgeport.graph.provenance import provenance_keys
from edgeport.graph.stored import restore_network, store_network
from edgeport.types import Model


class Odd(nn.Module):
    """A constant of its forward, a buffer that is not saved, a cast, a tuple of values, an infinite number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.register_buffer("steps", torch.arange(6, dtype=torch.float32), persistent=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = self.linear(x).add(self.steps).split(3, 1)
        first = (first * torch.tensor([1.0, 2.0, 3.0])).to(torch.float64).to(torch.float32)
        return first.clamp(-float("inf"), 1.5), torch.zeros(1, 3, dtype=torch.float32) + second


def restored(model: Model) -> torch.fx.GraphModule:
    content = store_network(model.module)
    assert content is not None
    weights = {name: value.detach().clone() for name, value in model.module.state_dict().items()}
    return restore_network(content, weights)


def test_restored_network_computes_the_same_and_keeps_provenance() -> None:
    for model in (traced(residual(), image()), traced(Odd(), torch.randn(1, 4))):
        again = restored(model)
        with torch.no_grad():
            expected = torch.utils._pytree.tree_leaves(model.module(*model.example_inputs))
            found = torch.utils._pytree.tree_leaves(again(*model.example_inputs))
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        keys = [
            sorted(provenance_keys(canonicalize(module, model.example_inputs).graph).values())
            for module in (model.module, again)
        ]
        assert keys[0] == keys[1]


def test_stored_network_names_no_file_and_no_code() -> None:
    content = store_network(traced(residual(), image()).module)
    assert content is not None
    for word in (b"/", b"\\", b".py", b"import"):
        assert word not in content


def test_same_network_is_stored_in_the_same_bytes() -> None:
    torch.manual_seed(0)
    first = store_network(traced(residual(), image()).module)
    torch.manual_seed(1)
    assert store_network(traced(residual(), image()).module) == first  # weights lie elsewhere


def test_damaged_or_foreign_networks_are_refused() -> None:
    model = traced(residual(), image())
    content = store_network(model.module)
    assert content is not None
    weights = dict(model.module.state_dict())
    with pytest.raises(ConfigError, match="cannot be read"):
        restore_network(content[:-20], weights)
    first = next(iter(weights))
    with pytest.raises(ConfigError, match=f"needs '{first}'"):
        restore_network(content, {name: value for name, value in weights.items() if name != first})
    nodes = json.loads(content)
    for target in ("os.system", "operator.nothing", "aten.no_such_operator.default", "aten.conv2d"):
        changed = {**nodes, "nodes": [{**node} for node in nodes["nodes"]]}
        next(node for node in changed["nodes"] if node["op"] == "call_function")["target"] = target
        with pytest.raises(ConfigError, match=r"cannot be read|needs"):
            restore_network(json.dumps(changed).encode(), weights)
