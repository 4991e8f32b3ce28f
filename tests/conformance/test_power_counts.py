"""Stand-ins for the metered networks compute what their layers say, and what was counted of them is whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

NETWORKS = (
    "mobilenet-v1-0.25-128",
    "mobilenet-v2-0.35-96",
    "mobilenet-v3-large_224_0.75",
    "mobilenet-v3-small-minimalistic_224_1.0",
    "efficientnet-lite1",
    "resnet50",
)


@pytest.fixture(scope="module")
def counts(root: Path) -> Iterator[ModuleType]:
    pytest.importorskip("scipy")
    sys.path.insert(0, str(root / "benchmarks"))
    import power_counts as module  # type: ignore[import-not-found]  # a script, not a package
    import power_emulated  # type: ignore[import-not-found]
    import power_files  # type: ignore[import-not-found]

    module.emulated, module.power_files = power_emulated, power_files
    yield module
    sys.path.remove(str(root / "benchmarks"))


def convolution_macs(network: nn.Module, picture: torch.Tensor) -> int:
    """Run a network and return its multiply-adds: weights of a layer times positions of its result."""
    found: list[int] = []

    def note(module: nn.Module, _: object, output: torch.Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        found.append(weight.numel() * (output[0, 0].numel() if output.dim() == 4 else 1))

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    network(picture)
    return sum(found)


@pytest.mark.parametrize("name", NETWORKS)
def test_stand_in_has_the_multiply_adds_of_its_layers(counts: ModuleType, name: str) -> None:
    layers = counts.layers(name, "float32")
    size = counts.picture_size(name)
    with torch.device("meta"):  # shapes only
        network = counts.power_files.StandIn(layers)
        macs = convolution_macs(network, torch.empty(1, 3, size, size))
    assert macs == sum(layer.cost.macs for layer in layers) == sum(cost.macs for cost in counts.operators(name, "int8"))


def test_names_lose_their_number_format(counts: ModuleType) -> None:
    assert counts.plain("mobilenet-v2-0.35-96-non-quantized") == "mobilenet-v2-0.35-96"
    assert counts.plain("mobilenet-v3-large_224_1.0_uint8") == "mobilenet-v3-large_224_1.0"
    assert counts.plain("resnet50") == "resnet50"


def test_counts_are_read_as_they_were_stored(counts: ModuleType, tmp_path: Path) -> None:
    table = {"runtime core int8": {"b": list(range(9)), "a": [1] * 9}, "runtime core float32": {"c": [2] * 9}}
    counts.store(table, tmp_path / "counts.json")
    assert counts.stored(tmp_path / "counts.json") == table
    assert counts.stored(tmp_path / "none.json") == {}


def test_stored_counts_add_up(counts: ModuleType) -> None:
    for networks in counts.stored().values():
        for found in networks.values():
            named = dict(zip(counts.FIGURES, found, strict=True))
            parts = sum(named[name] for name in ("branch", "load_store", "integer", "simd"))
            assert parts == pytest.approx(named["instructions"], rel=1e-3)
            assert named["l2_misses"] <= named["l1d_misses"]


def test_metered_networks_were_counted(counts: ModuleType, shared_data: Path) -> None:
    table = counts.stored()
    pairs = counts.metered(shared_data / "power")
    assert len(pairs) == 95
    for core in counts.CORES:
        keys = [(name, counts.place(counts.RUNTIMES[0], core, dtype)) for name, dtype in pairs]
        assert {name for name, key in keys if name not in table[key]} == set()


def test_candidate_has_the_terms_that_it_names(counts: ModuleType) -> None:
    fit = sys.modules["power_fit"]
    name = "mobilenet-v1-0.25-128-quantized"
    row = fit.Row(
        network=name,
        dtype="int8",
        family="mobilenet_v1",
        costs=counts.operators(name, "int8"),
        energy_nj=1.0,
        latency_ns=1.0,
        watts=1.0,
        idle_watts=1.0,
    )
    figures = np.arange(9.0)[None, :]
    found = counts.emulated.counted([row], figures, *counts.emulated.CANDIDATES["and bytes loaded and stored"])
    assert found[0, -1] == figures[0, 5] + figures[0, 6]
    assert found.shape == (1, 8)
    alone = counts.emulated.counted([row], figures, ("fixed",), ("instructions", "l2_misses"))
    assert alone.tolist() == [[1.0, 0.0, 8.0]]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"), [(8, 3, 2, (0, 1)), (7, 3, 2, (1, 1)), (8, 5, 1, (2, 2))]
)
def test_window_is_padded_at_the_end_first(
    counts: ModuleType, size: int, kernel: int, stride: int, pads: tuple[int, int]
) -> None:
    layers = sys.modules["power_layers"]
    (layer,) = layers.Builder("float32", size).depthwise(kernel, stride).layers
    padded = counts.power_files._padded(torch.ones(1, 1, size, size), layer)
    row = padded[0, 0, pads[0]].tolist()
    assert row == [0.0] * pads[0] + [1.0] * size + [0.0] * pads[1]
