"""What a network takes without data: given, declared, or inferred from its layers and checked by running it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeport.dataset.synthetic import RandomSource
from edgeport.errors import ConfigError
from edgeport.graph.inputs import InputForm, find_inputs, parse_inputs
from edgeport.graph.network import Network, load_network

SOURCE = """
import torch
from torch import nn

def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

def shaped():
    net = plain()
    net.input_shape = (3, 20, 20)
    return net

def paired():
    return plain(), torch.full((1, 3, 9, 9), 5.0)

def wrong():
    net = plain()
    net.input_shape = "3x20"
    return net
"""


def network(module: nn.Module) -> Network:
    return Network(name="net", module=module.eval(), example_inputs=None, fingerprint="")


def found(module: nn.Module) -> str:
    forms, known = find_inputs(network(module), None)
    assert "INFERRED" in known
    return ", ".join(map(str, forms))


def body(*strides: int, flat: int | None = None) -> nn.Sequential:
    """Return convolutions of those strides, then a linear layer: of the mean, or of `flat` values."""
    layers: list[nn.Module] = []
    for index, stride in enumerate(strides):
        layers += [nn.Conv2d(3 if index == 0 else 4, 4, 3, stride, 1), nn.ReLU()]
    tail = (
        [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)] if flat is None else [nn.Flatten(), nn.Linear(flat, 2)]
    )
    return nn.Sequential(*layers, *tail)


class Branches(nn.Module):
    """Two strides of two, each with a shortcut of the same stride beside it: 4 in all, although 2 ** 4 are written."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.left, self.right = (nn.ModuleList(nn.Conv2d(4, 4, 3, 2, 1) for _ in range(2)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for left, right in zip(self.left, self.right, strict=True):
            x = left(x) + right(x)
        return x.mean((2, 3))


class TwoInputs(nn.Module):
    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return first + second


def test_shapes_are_read_with_their_number_formats() -> None:
    expected = (InputForm(shape=(3, 32, 32)), InputForm(shape=(16,), dtype="int64"))
    assert parse_inputs("3x32x32, 16:int64") == expected
    assert ", ".join(map(str, expected)) == "3x32x32, 16:int64"


@pytest.mark.parametrize("text", ["", "3x", "3x0x2", "a", "3x32x32,", "-3", "3x2:float64"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--input"):
        parse_inputs(text)


def test_picture_size_goes_by_the_total_stride() -> None:
    assert found(body(1, 2, 2)) == "3x32x32"
    assert found(body(2, 2, 2, 2)) == "3x224x224"
    assert found(Branches()) == "3x32x32"


def test_picture_size_is_the_one_that_the_network_runs_on() -> None:
    assert found(body(1, 2, flat=4 * 14 * 14)) == "3x28x28"
    assert found(body(1, 2, flat=4 * 48 * 48)) == "3x96x96"


def test_linear_network_takes_what_its_first_layer_takes() -> None:
    assert found(nn.Sequential(nn.Linear(640, 8), nn.ReLU(), nn.Linear(8, 640))) == "640"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.ReLU()), "no convolution or linear layer"),
        (nn.Sequential(nn.Conv1d(4, 8, 3), nn.Flatten(), nn.Linear(80, 2)), "nothing that fits its first layer"),
        (TwoInputs(), "takes 2 inputs"),
    ],
)
def test_what_cannot_be_inferred_asks_for_input(module: nn.Module, words: str) -> None:
    with pytest.raises(ConfigError, match=f"{words}.*give --input"):
        find_inputs(network(module), None)


def test_declared_shapes_and_examples_go_before_layers_and_input_before_all(tmp_path: Path) -> None:
    file = tmp_path / "declared_net.py"
    file.write_text(SOURCE)

    def of(factory: str, given: str | None = None) -> tuple[InputForm, ...]:
        return find_inputs(load_network(f"{file}:{factory}", None, seed=0), given)[0]

    assert of("plain") == (InputForm(shape=(3, 32, 32)),)
    assert of("shaped") == (InputForm(shape=(3, 20, 20)),)
    assert of("paired") == (InputForm(shape=(3, 9, 9)),)  # all of one value: only the shape says something
    assert of("shaped", "3x12x12") == (InputForm(shape=(3, 12, 12)),)
    with pytest.raises(ConfigError, match="input_shape is '3x20'"):
        of("wrong")
    (tmp_path / "file_net.py").write_text(SOURCE + "\ninput_shape = (3, 40, 40)\n")
    forms, known = find_inputs(load_network(f"{tmp_path / 'file_net.py'}:plain", None, seed=0), None)
    assert (str(forms[0]), "input_shape" in known) == ("3x40x40", True)


def test_stand_ins_have_the_mean_and_spread_of_the_example() -> None:
    example = torch.tensor([[0.0, 255.0, 0.0, 255.0]])  # mean 127.5, each 127.5 away from it
    ids = torch.tensor([[3, 9, 1]])
    given = Network(name="net", module=nn.ReLU(), example_inputs=(example, ids), fingerprint="")
    forms, _ = find_inputs(given, None)
    assert (forms[0].mean, forms[0].std) == (127.5, 127.5)
    assert (forms[1].dtype, forms[1].below) == ("int64", 10)


def test_random_samples_are_the_same_in_any_order() -> None:
    forms = (InputForm(shape=(2, 3), mean=10.0, std=0.1), InputForm(shape=(4,), dtype="int64", below=3))
    source = RandomSource(forms, 8, seed=5)
    everything = next(source.batches(np.arange(8), 8, is_shuffled=False)).inputs
    other = next(RandomSource(forms, 8, seed=5).batches(np.array([6, 2]), 8, is_shuffled=True)).inputs
    for all_rows, rows in zip(everything, other, strict=True):
        np.testing.assert_array_equal(rows, all_rows[[6, 2]])
    assert (everything[0].dtype, everything[1].dtype) == (np.float32, np.int64)
    assert abs(everything[0].mean() - 10) < 0.1
    assert set(everything[1].ravel().tolist()) <= {0, 1, 2}
    assert RandomSource(forms, 8, seed=5).digest() == source.digest()
    assert RandomSource(forms, 8, seed=6).digest() != source.digest()
    assert len(set(source.sample_digests(np.arange(8)))) == 8
