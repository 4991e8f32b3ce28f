"""Functions that a network was given decide what it computes, though they are neither weights nor layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention
from torch import nn

from edgeport.graph.fingerprint import network_fingerprint
from edgeport.graph.network import load_network


class Net(nn.Module):
    def __init__(self, activation: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(x)


def scaled(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x * factor


def fingerprint(activation: Callable[..., torch.Tensor]) -> str:
    return network_fingerprint(Net(activation), None)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (F.relu, F.silu),
        (torch.relu, torch.tanh),
        (lambda x: x * 2, lambda x: x * 3),
        (lambda x: torch.sin(x) + 1, lambda x: torch.cos(x) + 1),
        (scaled(2.0), scaled(3.0)),
        (partial(F.leaky_relu, negative_slope=0.1), partial(F.leaky_relu, negative_slope=0.2)),
    ],
)
def test_another_function_is_another_network(
    first: Callable[..., torch.Tensor], second: Callable[..., torch.Tensor]
) -> None:
    assert fingerprint(first) != fingerprint(second)


def test_the_same_function_made_twice_is_the_same_network() -> None:
    assert fingerprint(scaled(2.0)) == fingerprint(scaled(2.0))
    assert fingerprint(partial(F.relu, inplace=False)) == fingerprint(partial(F.relu, inplace=False))


def test_function_that_calls_itself_has_a_fingerprint() -> None:
    def halved(x: torch.Tensor, times: int = 2) -> torch.Tensor:
        return halved(x / 2, times - 1) if times else x

    assert fingerprint(halved) == fingerprint(halved)


FACTORIES = """
from torch import nn
import torch

def make(function):
    class Net(nn.Module):
        def forward(self, x):
            return function(x)
    return Net

sine, cosine = make(torch.sin), make(torch.cos)
"""


def test_two_factories_of_one_file_are_two_networks(tmp_path: Path) -> None:
    (tmp_path / "two_factories.py").write_text(FACTORIES)
    found = {
        load_network(f"{tmp_path}/two_factories.py:{name}", None, seed=0).fingerprint for name in ("sine", "cosine")
    }
    assert len(found) == 2
