"""The int8 network computed in float."""

from __future__ import annotations

import torch
from graph_case import traced
from torch import nn

from edgeport.graph.canonical import canonicalize
from edgeport.graph.provenance import provenance_keys
from edgeport.quant.layers import weighted_nodes
from edgeport.quant.simulate import Simulator


def _network() -> tuple[torch.fx.GraphModule, torch.Tensor]:
    torch.manual_seed(0)
    sample = torch.rand(1, 3, 6, 6) * 2 - 1
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    return canonicalize(traced(net, sample).module, (sample,)), sample


def _keys(module: torch.fx.GraphModule) -> list[str]:
    keys = provenance_keys(module.graph)
    return [keys[node.name] for node in weighted_nodes(module)]


def _ranges(module: torch.fx.GraphModule) -> dict[str, tuple[float, float]]:
    return dict.fromkeys(provenance_keys(module.graph).values(), (-4.0, 4.0))


def test_no_layer_quantized_gives_the_float_outputs() -> None:
    module, sample = _network()
    out = Simulator(module, (sample,), _ranges(module), layers=()).run([sample])[0]
    torch.testing.assert_close(out, module(sample), atol=1e-5, rtol=1e-5)


def test_outputs_lie_on_the_grid_of_their_range() -> None:
    module, sample = _network()
    simulator = Simulator(module, (sample,), _ranges(module))
    out = simulator.run([sample])[0]
    steps = out / (8.0 / 255)
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0.0)
    assert 0 < float((out - module(sample)).detach().abs().max()) < 0.2


def test_one_layer_alone_is_closer_to_float_than_all_of_them() -> None:
    module, sample = _network()
    wanted = module(sample).detach()

    def error(layers: list[str] | None) -> float:
        out = Simulator(module, (sample,), _ranges(module), layers=layers).run([sample])[0]
        return float((out - wanted).pow(2).mean())

    first = _keys(module)[0]
    assert 0 < error([first]) < error(None)


def test_the_network_given_is_left_as_it_is() -> None:
    module, sample = _network()
    before = module(sample).detach().clone()
    Simulator(module, (sample,), _ranges(module)).run([sample])
    assert torch.equal(module(sample), before)
