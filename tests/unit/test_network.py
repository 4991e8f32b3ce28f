"""Getting the user's network: factories, weights without pickle, programs, and what is said when it fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgeport.errors import ConfigError, StageError
from edgeport.graph.network import find_factory, load_network
from edgeport.store import file_digest

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(self.bn(self.conv(x)).mean((2, 3)))

def net():
    return Net()

def with_inputs():
    return Net(), (torch.ones(1, 3, 8, 8),)

def with_one_input():
    return Net(), torch.ones(1, 3, 8, 8)

def fails():
    raise ValueError("no weights here")  # told with this line

def wrong():
    return {"a": 1}

def needs(depth):
    return Net()

not_callable = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "user_net.py").write_text(SOURCE)
    return f"{tmp_path / 'user_net.py'}"


def load(model: str, weights: Path | None = None, seed: int = 0) -> nn.Module:
    module = load_network(model, None if weights is None else str(weights), seed=seed).module
    assert isinstance(module, nn.Module)
    return module


def state(file: str, seed: int = 5) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in load(f"{file}:net", seed=seed).state_dict().items()}


def test_factory_of_a_file(file: str) -> None:
    network = load_network(f"{file}:net", None, seed=0)
    assert network.name == "net"
    assert network.example_inputs is None
    assert isinstance(network.module, nn.Module)
    assert not network.module.training


def test_seed_decides_random_weights(file: str) -> None:
    first, again, other = (load(f"{file}:net", seed=seed).state_dict()["conv.weight"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("factory", ["with_inputs", "with_one_input"])
def test_factory_may_bring_inputs(file: str, factory: str) -> None:
    found = load_network(f"{file}:{factory}", None, seed=0).example_inputs
    assert found is not None
    assert [tuple(value.shape) for value in found] == [(1, 3, 8, 8)]


def test_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user_package").mkdir()
    (tmp_path / "user_package" / "__init__.py").write_text("")
    (tmp_path / "user_package" / "nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert type(load("user_package.nets:net")).__name__ == "Net"


def test_class_is_a_factory_too() -> None:
    assert isinstance(load("torch.nn:Identity"), nn.Identity)


def save_safetensors(values: dict[str, torch.Tensor], path: Path) -> Path:
    save_file(values, path)
    return path


def save_pt(values: object, path: Path) -> Path:
    torch.save(values, path)
    return path


def test_weights_of_every_form(file: str, tmp_path: Path) -> None:
    wanted = state(file)
    paths = [
        save_safetensors(wanted, tmp_path / "w.safetensors"),
        save_pt(wanted, tmp_path / "w.pt"),
        save_pt(wanted, tmp_path / "w.pth"),
        save_pt({"state_dict": wanted, "epoch": 3}, tmp_path / "nested.pt"),
    ]
    for path in paths:
        found = load(f"{file}:net", path).state_dict()
        assert all(torch.equal(found[name], value) for name, value in wanted.items()), path.name


def test_counter_of_batches_may_be_missing(file: str, tmp_path: Path) -> None:
    wanted = {name: value for name, value in state(file).items() if not name.endswith("num_batches_tracked")}
    found = load(f"{file}:net", save_safetensors(wanted, tmp_path / "w.safetensors")).state_dict()
    assert torch.equal(found["bn.weight"], wanted["bn.weight"])


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.target,)


def test_pickled_code_is_refused_and_not_run(file: str, tmp_path: Path) -> None:
    trap = save_pt({"conv.weight": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    with pytest.raises(ConfigError, match=r"weights 'trap\.pt' hold pickled objects.*not loaded"):
        load(f"{file}:net", trap)
    assert not (tmp_path / "sprung").exists()


def test_pickled_module_is_refused(file: str, tmp_path: Path) -> None:
    whole = save_pt(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ConfigError, match=r"save network\.state_dict\(\), best as \.safetensors"):
        load(f"{file}:net", whole)


def changed(values: dict[str, torch.Tensor], **changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    renamed = {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in (values | renamed).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"conv__weight": None}, "missing: conv.weight"),
        ({"extra": torch.ones(1)}, "unexpected: extra"),
        ({"linear__weight": torch.ones(2, 5)}, "of another shape: linear.weight"),
        (
            {"linear__weight": None, "fc__weight": torch.ones(2, 4), "conv__bias": torch.ones(3)},
            "missing: linear.weight; unexpected: fc.weight; of another shape: conv.bias",
        ),
        (
            {f"{name}": torch.ones(1) for name in "pqrst"},
            "unexpected: p, q, r and 2 more",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    file: str, tmp_path: Path, changes: dict[str, torch.Tensor | None], problem: str
) -> None:
    path = save_safetensors(changed(state(file), **changes), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError) as caught:
        load(f"{file}:net", path)
    assert str(caught.value).startswith(f"weights 'w.safetensors' do not fit the network; {problem}")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_damaged_weights_are_told(file: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"not weights at all")
    with pytest.raises(ConfigError, match=f"weights '{name}'"):
        load(f"{file}:net", path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=f"weights '{name}'"):
        load(f"{file}:net", path)


def test_truncated_weights_are_told(file: str, tmp_path: Path) -> None:
    for path in (save_safetensors(state(file), tmp_path / "w.safetensors"), save_pt(state(file), tmp_path / "w.pt")):
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ConfigError, match=f"weights '{path.name}' cannot be read"):
            load(f"{file}:net", path)


def test_weights_that_are_no_state_dict_are_told(file: str, tmp_path: Path) -> None:
    for values in ([1, 2], {"a": 1}, torch.ones(3)):
        with pytest.raises(ConfigError, match=r"weights 'w\.pt' .*state_dict \(name -> tensor\)"):
            load(f"{file}:net", save_pt(values, tmp_path / "w.pt"))


def test_missing_weights_are_told(file: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no weights file '.*nothing\.pt'"):
        load(f"{file}:net", tmp_path / "nothing.pt")


def test_factory_that_raises_is_told_with_its_line(file: str) -> None:
    line = next(number for number, text in enumerate(SOURCE.splitlines(), 1) if "told with this line" in text)
    with pytest.raises(StageError) as caught:
        load(f"{file}:fails")
    assert str(caught.value) == f"factory 'fails' raised ValueError: no weights here (user_net.py, line {line})"


def test_factory_that_wants_arguments_is_told(file: str) -> None:
    with pytest.raises(StageError, match=r"factory 'needs' raised TypeError: .*'depth'"):
        load(f"{file}:needs")


def test_factory_that_makes_no_network_is_told(file: str) -> None:
    with pytest.raises(ConfigError, match=r"returned dict, not a torch\.nn\.Module"):
        load(f"{file}:wrong")


@pytest.mark.parametrize(
    ("name", "message"), [("nett", r"no callable 'nett' \(did you mean net\?\)"), ("not_callable", "no callable")]
)
def test_unknown_factory_names_the_nearest(file: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(f"{file}:{name}")


@pytest.mark.parametrize("model", ["net", "net.py", ":net", "net.py:", "net.onnx"])
def test_wrong_form_is_told(model: str) -> None:
    with pytest.raises(ConfigError, match=r"is not module:factory, file\.py:factory or a \.pt2 file"):
        find_factory(model)


def test_missing_file_or_module_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model file '.*nothing\.py'"):
        load(f"{tmp_path / 'nothing.py'}:net")
    with pytest.raises(ConfigError, match=r"no module 'no_such_package\.nets'"):
        load("no_such_package.nets:net")
    with pytest.raises(ConfigError, match=r"no model file 'nothing\.pt2'"):
        load("nothing.pt2")


def test_file_that_cannot_be_imported_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "broken_net.py").write_text("import torch\n\nimport no_such_package_at_all\n")
    with pytest.raises(
        StageError, match=r"importing 'broken_net\.py' raised ModuleNotFoundError: .*\(broken_net\.py, line 3\)"
    ):
        load(f"{tmp_path / 'broken_net.py'}:net")
    assert "broken_net" not in sys.modules


def test_program_of_torch_export(file: str, tmp_path: Path) -> None:
    network, path = load(f"{file}:net"), tmp_path / "saved.pt2"
    inputs = torch.randn(1, 3, 8, 8)
    torch.export.save(torch.export.export(network, (inputs,)), path)
    loaded = load_network(str(path), None, seed=0)
    assert (loaded.name, loaded.fingerprint) == ("saved", file_digest(path))
    assert isinstance(loaded.module, torch.export.ExportedProgram)
    torch.testing.assert_close(loaded.module.module()(inputs), network(inputs))
    assert loaded.example_inputs is not None
    assert torch.equal(loaded.example_inputs[0], inputs)
    with pytest.raises(ConfigError, match=r"--weights does not go with a \.pt2"):
        load_network(str(path), "w.pt", seed=0)


def test_program_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "wrong.pt2").write_bytes(b"not a program")
    with pytest.raises(ConfigError, match=r"'wrong\.pt2' is not a program saved by torch\.export\.save"):
        load_network(str(tmp_path / "wrong.pt2"), None, seed=0)
