"""The calibrate stage: how ranges are chosen, and data that is not as it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from graph_case import residual, traced
from torch import nn

from edgeport.dataset import Dataset, open_dataset
from edgeport.errors import ConfigError, StageError
from edgeport.quant.affine import asymmetric
from edgeport.quant.calibration import METHODS, Calibration, Method
from edgeport.stages.calibrate import Calibrate
from edgeport.stages.context import Context
from edgeport.types import Model


def stored(path: Path, x: np.ndarray) -> Dataset:
    np.savez(path, x=x)
    return open_dataset(str(path))


def noise(count: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)


def calibrated(
    folder: Path, model: Model, x: np.ndarray, *, method: Method = "auto", tune: np.ndarray | None = None
) -> tuple[Calibration, dict[str, object]]:
    held_out = None if tune is None else stored(folder / "tune.npz", tune)
    context = Context(calibrate=stored(folder / "calibrate.npz", x), tune=held_out)
    made, figures = Calibrate(method=method)(model, context)
    assert made.calibration is not None
    return made.calibration, figures


def has_sound_scales(calibration: Calibration) -> bool:
    """Whether every range lies within what was seen and has a finite scale above zero."""
    for key, seen in calibration.statistics.items():
        ends = calibration.range_of(key)
        assert ends is not None
        assert seen.low <= ends[0] <= ends[1] <= seen.high
        scale = asymmetric(*ends).scale
        if not (np.isfinite(scale) and scale > 0):
            return False
    return True


@pytest.fixture(scope="module")
def model() -> Model:
    return traced(residual(), torch.from_numpy(noise(1)))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_sound_ranges(tmp_path: Path, model: Model, method: Method) -> None:
    calibration, figures = calibrated(tmp_path, model, noise(), method=method, tune=noise(4, 1))
    assert has_sound_scales(calibration)
    assert calibration.method == method
    assert figures["samples"] == 12
    counted = figures["estimators"]
    assert isinstance(counted, dict)
    assert sum(counted.values()) == figures["activations"]
    if method != "auto":
        assert counted == {method: figures["activations"]}


def test_auto_takes_what_errs_least_on_tune_data(tmp_path: Path, model: Model) -> None:
    _, figures = calibrated(tmp_path, model, noise(40), tune=noise(10, 1))
    errors, how = figures["errors"], str(figures["chosen"])
    assert isinstance(errors, dict)
    assert sorted(errors) == ["downstream", "minmax", "mse"]
    best = min(errors, key=lambda name: errors[name])
    assert how.startswith("each by its error downstream" if best == "downstream" else f"{best} everywhere")


def test_auto_without_tune_data_is_minmax_and_says_so(tmp_path: Path, model: Model) -> None:
    calibration, figures = calibrated(tmp_path, model, noise())
    assert figures["chosen"] == "no tune data to compare on"
    assert calibration.estimators() == {"minmax": len(calibration.statistics)}


def test_auto_cuts_off_an_outlier_that_does_no_harm(tmp_path: Path) -> None:
    class Clipped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 2).clamp(-6, 6) + x.clamp(-3, 3)  # what lies past 3 is not looked at

    wide = noise(200)  # 38,400 values, of which the percentile leaves two at either end
    wide[7, 0, 0, 0] = 300.0
    model = traced(Clipped(), torch.from_numpy(noise(1)))
    calibration, figures = calibrated(tmp_path, model, wide, tune=noise(10, 1))
    assert str(figures["chosen"]).startswith("each by its error downstream")
    ends = calibration.range_of("/x")
    assert calibration.statistics["/x"].high == 300.0
    assert ends is not None
    assert ends[1] < 10.0


def test_same_seed_gives_the_same_choices(tmp_path: Path, model: Model) -> None:
    first, second = (calibrated(tmp_path, model, noise(40), tune=noise(10, 1))[0] for _ in range(2))
    assert first.choices == second.choices


def test_integer_input_is_differentiated_from_the_embedding_on(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(32, 4))
    tokens = np.random.default_rng(0).integers(0, 10, (20, 4))
    model = traced(net, torch.from_numpy(tokens[:1]))
    context = Context(calibrate=_tokens(tmp_path / "c.py", tokens), tune=_tokens(tmp_path / "t.py", tokens[::-1]))
    _, figures = Calibrate(method="auto")(model, context)
    assert sorted(figures["errors"]) == ["downstream", "minmax", "mse"]  # type: ignore[call-overload]  # a dict


def _tokens(path: Path, tokens: np.ndarray) -> Dataset:
    path.write_text(f"import numpy as np\n\ndef load():\n    yield np.array({tokens.tolist()}, np.int64), None\n")
    return open_dataset(f"{path}:load")


def test_activation_without_influence_falls_back_and_is_counted(tmp_path: Path) -> None:
    class Signs(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x > 0.5).flatten(1).to(torch.float32)

    model = traced(Signs(), torch.from_numpy(noise(1)))
    calibration, figures = calibrated(tmp_path, model, noise(), tune=noise(4, 1))
    assert str(figures["chosen"]).endswith(", 1 without influence by histogram error")
    assert has_sound_scales(calibration)


def test_network_that_cannot_be_differentiated_falls_back_and_says_so(tmp_path: Path) -> None:
    class Best(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 2).flatten(1).argmax(1, keepdim=True)

    model = traced(Best(), torch.from_numpy(noise(1)))
    calibration, figures = calibrated(tmp_path, model, noise(), tune=noise(4, 1))
    assert str(figures["chosen"]).startswith("by histogram error: not differentiable (")
    assert has_sound_scales(calibration)


@pytest.mark.parametrize("value", [0.0, 0.7, -2.0])
def test_constant_pictures_are_calibrated(tmp_path: Path, model: Model, value: float) -> None:
    x = np.full((12, 3, 8, 8), value, np.float32)
    calibration, figures = calibrated(tmp_path, model, x, tune=x[:4])
    assert has_sound_scales(calibration)
    exact = float(np.float32(value))
    assert calibration.range_of("/x") == (exact, exact)
    assert ("/x" in figures["always_zero"]) == (value == 0.0)  # type: ignore[operator]  # a list


def test_few_samples_that_all_hold_extremes_are_enough(tmp_path: Path) -> None:
    linear = nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(2))
    x = np.array([[-3, 0], [3, 0], [0, -3], [0, 3]], np.float32)  # each is outermost in something
    calibration, _ = calibrated(tmp_path, traced(linear, torch.ones(1, 2)), x, tune=x / 2)
    assert has_sound_scales(calibration)


def test_one_sample_is_enough(tmp_path: Path, model: Model) -> None:
    calibration, figures = calibrated(tmp_path, model, noise(1))
    assert figures["samples"] == 1
    assert has_sound_scales(calibration)
    assert has_sound_scales(calibrated(tmp_path, model, noise(1), tune=noise(1, 1))[0])


def test_network_of_batch_one_is_calibrated_one_by_one(tmp_path: Path) -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(192, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.linear(x.reshape(1, 192))
            return scores

    model = traced(One(), torch.from_numpy(noise(1)))
    assert not model.has_dynamic_batch
    calibration, figures = calibrated(tmp_path, model, noise(13), tune=noise(4, 1))
    assert figures["samples"] == 13
    assert has_sound_scales(calibration)


def test_network_of_another_fixed_batch_is_refused_with_shapes() -> None:
    class Eight(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(8, 24)

    with pytest.raises((ConfigError, StageError), match=r"inputs of shape \(1, 3, 8, 8\)|\(8, 24\) for a batch of one"):
        traced(Eight(), torch.from_numpy(noise(1)))


def test_activation_that_is_not_finite_is_named(tmp_path: Path) -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sqrt(self.conv(x)).mean((2, 3))

    model = traced(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1)), torch.from_numpy(noise(1)))
    assert has_sound_scales(calibrated(tmp_path, model, noise())[0])
    net = Root()
    nn.init.zeros_(net.conv.weight)
    nn.init.ones_(net.get_parameter("conv.bias"))
    model = traced(net, torch.from_numpy(noise(1)))
    with torch.no_grad():
        model.module.get_parameter("conv.bias").fill_(-1.0)
    with pytest.raises(StageError, match="activation '/sqrt' is NaN or infinite, samples 0 to"):
        calibrated(tmp_path, model, noise())


def test_dead_layer_is_named(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
    assert isinstance(net[0], nn.Conv2d)
    nn.init.constant_(net[0].bias, -1e3)  # type: ignore[arg-type]  # it has a bias
    model = traced(net, torch.from_numpy(noise(1)))
    calibration, figures = calibrated(tmp_path, model, noise(), tune=noise(4, 1))
    assert figures["always_zero"] == ["1/relu", "2/flatten"]
    assert calibration.range_of("1/relu") == (0.0, 0.0)
    assert has_sound_scales(calibration)


@pytest.mark.parametrize("method", METHODS)
def test_huge_outlier_is_survived_and_named(tmp_path: Path, model: Model, method: Method) -> None:
    x = noise(20)
    x[3, 1, 2, 2] = 1e30
    calibration, figures = calibrated(tmp_path, model, x, method=method, tune=noise(5, 1))
    assert has_sound_scales(calibration)
    assert "/x" in figures["outliers"]  # type: ignore[operator]  # a list


def test_ordinary_activations_are_not_called_set_by_outliers(tmp_path: Path, model: Model) -> None:
    assert calibrated(tmp_path, model, noise(20))[1]["outliers"] == []


@pytest.mark.parametrize("method", METHODS)
def test_tiny_values_keep_a_scale(tmp_path: Path, method: Method) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4, bias=False))
    model = traced(net, torch.from_numpy(noise(1)))
    calibration, _ = calibrated(tmp_path, model, noise() * np.float32(1e-38), method=method, tune=noise(4, 1))
    assert has_sound_scales(calibration)


def test_without_data_the_option_is_named(model: Model) -> None:
    with pytest.raises(ConfigError, match="int8 needs --calibrate DATA"):
        Calibrate()(model, Context())
