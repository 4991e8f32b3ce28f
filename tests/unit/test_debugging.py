"""The parts of `edgeport debug` that need no runtime: figures by hand, layouts, own errors, the rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from graph_case import traced
from torch import nn

from edgeport.debugging.files import Bindings, ModelFile
from edgeport.debugging.layout import Layouts
from edgeport.debugging.measure import HIGHEST_DB, LOWEST_DB, Sums
from edgeport.debugging.network import Network
from edgeport.debugging.probe import Observed
from edgeport.debugging.study import Study, study
from edgeport.debugging.verdict import Verdict, judge


def sums_of(reference: list[float], found: list[float]) -> Sums:
    sums = Sums()
    sums.add(np.array(reference, np.float32), np.array(found, np.float32))
    return sums


def test_sqnr_and_cosine_by_hand() -> None:
    sums = sums_of([3.0, 4.0], [3.0, 3.5])
    assert sums.sqnr_db == pytest.approx(20.0)  # 25 / 0.25 = 100
    assert sums.cosine == pytest.approx((9 + 14) / (5 * 21.25**0.5))
    sums.add(np.array([5.0]), np.array([5.0]))
    assert sums.sqnr_db == pytest.approx(10 * np.log10(50 / 0.25))  # sums over samples, not a mean of decibels


def test_sqnr_of_nothing_of_equals_and_of_what_is_no_number() -> None:
    assert sums_of([0.0], [0.0]).sqnr_db == HIGHEST_DB
    assert sums_of([0.0], [0.0]).cosine == 1.0
    assert sums_of([0.0], [1.0]).sqnr_db == LOWEST_DB
    assert sums_of([1.0, 2.0], [1.0, float("nan")]).sqnr_db == LOWEST_DB
    assert sums_of([1.0, 2.0], [1.0]).sqnr_db == LOWEST_DB


def test_layout_of_a_cube_is_channels_last_unless_another_fits_clearly() -> None:
    rng = np.random.default_rng(0)
    value = rng.standard_normal((1, 4, 4, 4)).astype(np.float32)
    last = np.moveaxis(value, 1, -1)
    np.testing.assert_array_equal(Layouts(channels_last=True).fit("a", last, value), value)
    swapped = last[..., ::-1]  # wrong values must not turn into another order of dimensions
    np.testing.assert_array_equal(Layouts(channels_last=True).fit("a", swapped, value), value[:, ::-1])
    np.testing.assert_array_equal(Layouts(channels_last=True).fit("a", value, value), value)
    assert Layouts(channels_last=True).fit("a", last[:, :3], value) is None
    flat = np.arange(5, dtype=np.float32).reshape(1, 5)
    assert Layouts(channels_last=True).fit("b", flat, flat.reshape(1, 5, 1, 1)).shape == (1, 5, 1, 1)  # type: ignore[union-attr]


class Three(nn.Module):
    """Three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        return out


class Playing:
    """A runtime that computes in PyTorch, with noise and one mistake: what the rules are tried on."""

    def __init__(self, network: Network, *, noise: float, wrong: str = "", factor: float = 1.0) -> None:
        self.network, self.noise, self.wrong, self.factor = network, noise, wrong, factor
        self.spans: dict[str, tuple[float, float]] = {}
        self.rng = np.random.default_rng(0)

    def run(self, inputs: list[np.ndarray]) -> Observed:
        seen: dict[str, np.ndarray] = {}

        def disturb(name: str, own: torch.Tensor) -> torch.Tensor | None:
            key = self.network.key_of.get(name)
            if key is None:
                return None
            factor = self.factor if key == self.wrong else 1.0
            shaken = 1 + self.noise * torch.from_numpy(self.rng.standard_normal(own.shape).astype(np.float32))
            seen[key] = (own * factor * shaken).numpy()
            return torch.from_numpy(seen[key])

        self.network.replay(inputs, disturb)
        return Observed(values=seen, outputs=(), as_shipped=())


def file(runtime: str, precision: str) -> ModelFile:
    bindings = Bindings(inputs=(), outputs=())
    return ModelFile(
        label=f"{runtime} {precision}", name="", path=Path(), target="", runtime=runtime, precision=precision,
        bindings=bindings,
    )  # fmt: skip


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    model = traced(Three().eval(), torch.randn(1, 8))
    return Network(model.module, [value.numpy() for value in model.example_inputs])


def judged(network: Network, **mistakes: tuple[str, float]) -> tuple[tuple[Study, ...], Verdict]:
    """Judge three int8 files with one percent of noise, and a mistake where one is given."""
    probes = {
        file(runtime, "int8"): Playing(
            network, noise=0.01, wrong=mistakes.get(runtime, ("", 1.0))[0], factor=mistakes.get(runtime, ("", 1.0))[1]
        )
        for runtime in ("onnxruntime", "openvino", "tflite")
    }
    rng = np.random.default_rng(1)
    samples = [[rng.standard_normal((1, 8)).astype(np.float32)] for _ in range(8)]
    studies = study(network, probes, samples)  # type: ignore[arg-type]  # it only runs
    return studies, judge(network, studies, has_torch=True)


def test_activations_are_seen_under_the_function_and_called_by_the_layer(network: Network) -> None:
    assert network.keys == ("/x", "/relu", "/relu_1", "third/linear")
    assert [network.layer_key(key) for key in network.keys] == ["/x", "first/linear", "second/linear", "third/linear"]
    assert network.feeds("third/linear") == ("/relu_1",)


def test_own_error_of_a_layer_behind_a_wrong_one_is_its_own(network: Network) -> None:
    studies, _ = judged(network, openvino=("/relu", 2.0))
    layers = studies[1].layers
    assert layers["/relu"].own.sqnr_db == pytest.approx(0.0, abs=0.5)  # twice the value: noise as large as the signal
    assert layers["/relu_1"].own.sqnr_db == pytest.approx(40.0, abs=2)  # 1 percent of noise
    assert layers["/relu_1"].whole.sqnr_db < 10
    assert layers["/relu_1"].arriving.sqnr_db == pytest.approx(layers["/relu_1"].whole.sqnr_db, abs=0.5)


def test_one_wrong_file_is_odd_at_its_first_wrong_layer(network: Network) -> None:
    _, verdict = judged(network, tflite=("/relu_1", 1.4))
    assert verdict.odd == ("tflite int8",)
    first = verdict.first["tflite int8"]
    assert first is not None
    assert (first.layer, first.kind) == ("second/linear", "odd")
    assert first.own_db == pytest.approx(8.0, abs=0.5)  # 20 log10(1 / 0.4)
    assert verdict.first["openvino int8"] is None


def test_two_wrong_files_of_three_are_both_odd(network: Network) -> None:
    _, verdict = judged(network, tflite=("/relu_1", 1.4), openvino=("/relu_1", 1.4))
    assert set(verdict.odd) == {"tflite int8", "openvino int8"}


def test_nothing_stands_out_where_all_have_the_same_noise(network: Network) -> None:
    _, verdict = judged(network)
    assert (verdict.odd, verdict.fragile, verdict.findings) == ((), (), ())
