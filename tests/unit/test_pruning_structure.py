"""structure.json: what was cut survives a file, and rebuilds the same network from the factory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from pruning_networks import NETWORKS, Dense, PaddedResNet, inputs_of, randomised, traced
from safetensors.torch import save_file
from torch import nn
from torch.fx import GraphModule

from edgeport.errors import ConfigError
from edgeport.pruning.groups import find_groups
from edgeport.pruning.structure import Structure, apply_structure, describe, load_pruned
from edgeport.pruning.surgery import prune_channels
from edgeport.types import TensorSpec


def specs(name: str) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=f"input_{index}", shape=shape, dtype="float32") for index, shape in enumerate(NETWORKS[name][1])
    )


def pruned_case(name: str, folder: Path | None = None) -> tuple[GraphModule, Structure]:
    module = traced(randomised(NETWORKS[name][0](), 0), inputs_of(name))
    groups = find_groups(module, inputs_of(name))
    rng = np.random.default_rng(0)
    kept = {
        group.name: tuple(sorted(rng.permutation(group.channels)[: max(2, group.channels // 2)].tolist()))
        for group in groups.groups
    }
    pruned = prune_channels(module, groups, kept)
    structure = describe(groups, kept, specs(name))
    if folder is not None:
        structure.save(folder)
        save_file(
            {key: value.detach().clone() for key, value in pruned.state_dict().items()}, folder / "model.safetensors"
        )
    return pruned, structure


@pytest.mark.parametrize("name", NETWORKS)
def test_structure_survives_a_file(name: str, tmp_path: Path) -> None:
    _, structure = pruned_case(name, tmp_path)

    assert Structure.load(tmp_path) == structure
    assert msgspec.convert(msgspec.to_builtins(structure), Structure) == structure


def test_file_has_the_documented_form(tmp_path: Path) -> None:
    module = traced(NETWORKS["mobile"][0]().eval(), inputs_of("mobile"))
    describe(find_groups(module, inputs_of("mobile")), {"stem": (0, 3)}, specs("mobile")).save(tmp_path)

    assert json.loads((tmp_path / "structure.json").read_text()) == {
        "schema": 1,
        "inputs": [{"name": "input_0", "shape": [3, 8, 8], "dtype": "float32"}],
        "groups": {
            "stem": {"layers": ["stem", "project", "doubled"], "channels": 8, "kept": [0, 3]},
            "expand": {"layers": ["expand", "depthwise"], "channels": 24, "kept": list(range(24))},
        },
        "removed": [],
        "then": None,
        "head": None,
    }


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", [7])
def test_load_pruned_gives_identical_outputs(name: str, seed: int, tmp_path: Path) -> None:
    pruned, _ = pruned_case(name, tmp_path)
    torch.manual_seed(seed)  # other weights than those that were pruned

    loaded = load_pruned(NETWORKS[name][0], tmp_path)

    with torch.no_grad():
        one, other = pruned(*inputs_of(name, batch=3)), loaded(*inputs_of(name, batch=3))
    pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
    assert all(torch.equal(left, right) for left, right in pairs)


def test_load_pruned_takes_a_network_or_a_factory_with_inputs(tmp_path: Path) -> None:
    pruned, _ = pruned_case("dense", tmp_path)

    for source in (Dense(), lambda: (Dense(), inputs_of("dense"))):
        loaded = load_pruned(source, str(tmp_path))
        assert {key: value.shape for key, value in loaded.state_dict().items()} == {
            key: value.shape for key, value in pruned.state_dict().items()
        }


def test_network_that_takes_a_batch_of_one_only(tmp_path: Path) -> None:
    class Static(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16 * 64, 5)

        def forward(self, x: torch.Tensor) -> Any:
            return self.linear(torch.relu(self.conv(x)).view(1, 16 * 64))

    network, inputs = Static().eval(), (torch.randn(1, 3, 8, 8),)
    module = traced(network, inputs, dynamic=False)
    groups = find_groups(module, inputs)
    kept = {"conv": (1, 5, 9, 15)}
    pruned = prune_channels(module, groups, kept)
    describe(groups, kept, [TensorSpec(name="x", shape=(3, 8, 8), dtype="float32")]).save(tmp_path)
    save_file(pruned.state_dict(), tmp_path / "model.safetensors")

    loaded = load_pruned(Static, tmp_path)

    with torch.no_grad():
        assert torch.equal(loaded(*inputs), pruned(*inputs))


def test_apply_structure_cuts_the_same_filters_of_other_weights() -> None:
    _, structure = pruned_case("padded_resnet")
    module = traced(randomised(PaddedResNet(), 5), inputs_of("padded_resnet"))

    cut = apply_structure(module, inputs_of("padded_resnet"), structure)

    kept = list(structure.groups["blocks.0.conv1"].kept)
    stream = list(structure.groups["conv"].kept)
    weight = module.get_parameter("blocks.0.conv1.weight")
    assert torch.equal(cut.get_parameter("blocks.0.conv1.weight"), weight[kept][:, stream])


def test_structure_of_another_network_is_refused(tmp_path: Path) -> None:
    pruned_case("padded_resnet", tmp_path)

    with pytest.raises(ConfigError, match="structure and network do not match: only the structure has channel group"):
        load_pruned(NETWORKS["projected_resnet"][0], tmp_path)
    with pytest.raises(ConfigError, match="at 'conv': 8 channels in 5 layers, but the network has 16 in 5"):
        load_pruned(lambda: PaddedResNet(width=16), tmp_path)
    with pytest.raises(ConfigError, match=r"does not take the recorded inputs of shape \(1, 3, 8, 8\)"):
        load_pruned(lambda: nn.Conv2d(4, 8, 3), tmp_path)
    with pytest.raises(ConfigError, match=r"factory returned int, not a torch\.nn\.Module"):
        load_pruned(lambda: 3, tmp_path)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no structure\.json in"):
        load_pruned(Dense, tmp_path)
    pruned, structure = pruned_case("dense", tmp_path)
    path = tmp_path / "structure.json"
    whole = path.read_text()

    path.write_text(whole.replace('"schema": 1', '"schema": 9'))
    with pytest.raises(ConfigError, match="schema 9; this version of edgeport reads schema 1"):
        load_pruned(Dense, tmp_path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"structure\.json: "):
        load_pruned(Dense, tmp_path)
    changed = msgspec.structs.replace(structure.groups["stem"], kept=(3, 99))
    msgspec.structs.replace(structure, groups={**structure.groups, "stem": changed}).save(tmp_path)
    with pytest.raises(ConfigError, match="group 'stem': kept must be ascending indices below 8"):
        load_pruned(Dense, tmp_path)

    path.write_text(whole)
    state = {key: value.detach().clone() for key, value in pruned.state_dict().items()}
    save_file({**state, "stem.bias": torch.zeros(99)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"model\.safetensors does not fit the pruned network at stem\.bias"):
        load_pruned(Dense, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"model\.safetensors cannot be read"):
        load_pruned(Dense, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no model\.safetensors in"):
        load_pruned(Dense, tmp_path)
