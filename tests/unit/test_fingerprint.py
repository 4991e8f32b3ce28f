"""The fingerprint changes with whatever changes the network, and with nothing else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeport.graph.fingerprint import network_fingerprint
from edgeport.graph.network import load_network

SOURCE = """
import torch
from torch import nn
from layers_of_{name} import SCALE

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.stride, self.names = 2, {{"a": (1, 2.5), "b": None}}

    def forward(self, x):
        return self.conv(x)[:, :, :: self.stride] * SCALE

def make():
    return Net()
"""


def written(folder: Path, name: str) -> str:
    """Write a network and the module it imports; return the MODEL argument."""
    (folder / f"layers_of_{name}.py").write_text("SCALE = 2.0\n")
    (folder / f"{name}.py").write_text(SOURCE.format(name=name))
    return f"{folder / name}.py:make"


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Linear(4, 2))


def test_same_network_has_the_same_fingerprint() -> None:
    assert network_fingerprint(net(), None) == network_fingerprint(net(), None)


def changed_weight(network: nn.Sequential) -> None:
    network.get_parameter("2.weight").data[0, 0] += 1e-6


def changed_buffer(network: nn.Sequential) -> None:
    network.get_buffer("1.running_mean").add_(1)


def changed_attribute(network: nn.Sequential) -> None:
    network[0].stride = (1, 1)  # type: ignore[assignment]  # a Conv2d


def changed_eps(network: nn.Sequential) -> None:
    network[1].eps = 1e-3  # type: ignore[assignment]  # a BatchNorm2d


def changed_kind(network: nn.Sequential) -> None:
    network[2] = nn.Linear(4, 2, dtype=torch.float64)


def added_layer(network: nn.Sequential) -> None:
    network.append(nn.ReLU())


CHANGES = [changed_weight, changed_buffer, changed_attribute, changed_eps, changed_kind, added_layer]


@pytest.mark.parametrize("change", CHANGES)
def test_change_of_the_network_shows(change: object) -> None:
    network = net()
    change(network)  # type: ignore[operator]  # one of CHANGES
    assert network_fingerprint(network, None) != network_fingerprint(net(), None)


def test_swapped_weights_show() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = network_fingerprint(network, None)
    network[0], network[1] = network[1], network[0]
    assert network_fingerprint(network, None) != before


def test_every_dtype_is_taken() -> None:
    network = nn.Module()
    for index, dtype in enumerate((torch.bfloat16, torch.float16, torch.int8, torch.bool)):
        network.register_buffer(f"b{index}", torch.ones(3, dtype=dtype))
    network.register_buffer("scalar", torch.tensor(1.5))
    network.register_buffer("nothing", torch.zeros(0))
    before = network_fingerprint(network, None)
    network.get_buffer("b0")[1] = 2.0
    assert network_fingerprint(network, None) != before


def fingerprint_elsewhere(model: str, hash_seed: str) -> str:
    code = (
        "import sys; from edgeport.graph.network import load_network;"
        "print(load_network(sys.argv[1], None, seed=0).fingerprint)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, "-c", code, model], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_fingerprint_of_a_file_is_the_same_in_every_process_until_a_source_changes(tmp_path: Path) -> None:
    model = written(tmp_path, "stable_net")
    first = fingerprint_elsewhere(model, "1")
    assert load_network(model, None, seed=0).fingerprint == first
    assert load_network(model, None, seed=1).fingerprint != first  # other random weights
    (tmp_path / "layers_of_stable_net.py").write_text("SCALE = 3.0\n")
    assert fingerprint_elsewhere(model, "2") != first  # a module that the network's module imports
    written(tmp_path, "stable_net")
    file = tmp_path / "stable_net.py"
    assert load_network(model, None, seed=0).fingerprint == first
    file.write_text(file.read_text().replace("* SCALE", "+ SCALE"))
    assert load_network(model, None, seed=0).fingerprint != first


def test_fingerprint_does_not_depend_on_the_folder(tmp_path: Path) -> None:
    found = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        found.append(fingerprint_elsewhere(written(tmp_path / place, "moved_net"), "0"))
    assert found[0] == found[1]


def test_a_class_from_a_file_loaded_by_hand_counts_by_its_source(tmp_path: Path) -> None:
    def fingerprint(text: str) -> str:
        (tmp_path / "by_hand.py").write_text(text)
        spec = importlib.util.spec_from_file_location("by_hand", tmp_path / "by_hand.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)  # not in sys.modules
        return network_fingerprint(module.Net(), None)

    text = "from torch import nn\n\n\nclass Net(nn.Module):\n    def forward(self, x):\n        return x\n"
    assert fingerprint(text) == fingerprint(text)
    assert fingerprint(text) != fingerprint(text.replace("return x", "return x + 1"))
