"""The distillation stage: what it trains, what it leaves alone, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from distill_case import CLASSES, Net, data, images, perturbed, teacher, traced
from safetensors.torch import load_file
from torch import nn

from edgeport.errors import ConfigError, StageError
from edgeport.stages.context import Context
from edgeport.stages.distill import Distill
from edgeport.training.losses import relative_squared_error, softened_divergence
from edgeport.training.modes import tensors_of
from edgeport.training.teacher import Ensemble
from edgeport.types import Model

SHORT = Distill(epochs=1, batch_size=8)


def pixels(count: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).normal(size=(count, 3, 16, 16)).astype(np.float32))


def divergence(student: Model, teaching: Model) -> float:
    with torch.no_grad():
        return softened_divergence(student.module(pixels()), teaching.module(pixels()), 1.0).item()


def snapshot(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in tensors_of(model.module).items()}


def is_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_distill_brings_a_perturbed_student_back_to_the_teacher(tmp_path: Path) -> None:
    student, context = perturbed(teacher()), Context(teachers=(teacher(),), train=images(tmp_path, 256))
    before = divergence(student, teacher())
    trained, metrics = Distill(epochs=6, batch_size=16, hard_labels=0.0)(student, context)
    losses = metrics["loss_per_epoch"]
    assert isinstance(losses, list)
    assert losses[-1] < losses[0] / 2
    assert divergence(trained, teacher()) < before / 4


def test_distill_leaves_student_and_teacher_as_they_were(tmp_path: Path) -> None:
    student, teaching = perturbed(teacher()), teacher()
    before, code = (snapshot(student), snapshot(teaching)), (student.module.code, teaching.module.code)
    gradients = [parameter.requires_grad for parameter in student.module.parameters()]
    trained, _ = SHORT(student, Context(teachers=(teaching,), train=images(tmp_path)))
    assert is_same(snapshot(student), before[0])
    assert is_same(snapshot(teaching), before[1])
    assert (student.module.code, teaching.module.code) == code
    assert [parameter.requires_grad for parameter in student.module.parameters()] == gradients
    assert trained.module is not student.module
    assert not is_same(snapshot(trained), before[0])


def test_distill_of_one_network_as_student_and_teacher_at_once(tmp_path: Path) -> None:
    both = teacher()
    before = snapshot(both)
    SHORT(both, Context(teachers=(both,), train=images(tmp_path)))
    assert is_same(snapshot(both), before)


def test_distill_returns_an_inference_graph_with_the_same_interface(tmp_path: Path) -> None:
    student = perturbed(teacher())
    trained, _ = SHORT(student, Context(teachers=(teacher(),), train=images(tmp_path)))
    assert trained.module.code == student.module.code
    assert (trained.inputs, trained.outputs) == (student.inputs, student.outputs)
    first = trained.module(pixels(8))
    torch.testing.assert_close(trained.module(pixels(8)[:1]), first[:1])  # no statistics of the batch in it
    assert torch.equal(trained.module(pixels(8)), first)  # and no dropout
    assert all(value.is_contiguous() for value in tensors_of(trained.module).values())


def test_distill_updates_running_statistics_and_every_parameter(tmp_path: Path) -> None:
    student = perturbed(teacher())
    before = snapshot(student)
    trained, _ = SHORT(student, Context(teachers=(teacher(),), train=images(tmp_path)))
    after = snapshot(trained)
    still = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert still == {"norm.num_batches_tracked"}  # traced inference never reads it


def test_distill_twice_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    context = Context(teachers=(teacher(),), train=images(tmp_path))
    torch.manual_seed(1)
    first = SHORT(perturbed(teacher()), context)[0]
    torch.manual_seed(2)  # whatever chance there is outside does not matter
    second = SHORT(perturbed(teacher()), context)[0]
    third = SHORT(perturbed(teacher()), replace(context, seed=7))[0]
    assert is_same(snapshot(first), snapshot(second))
    assert not is_same(snapshot(first), snapshot(third))


def test_distill_leaves_threads_and_chance_of_torch_alone(tmp_path: Path) -> None:
    context = Context(teachers=(teacher(),), train=images(tmp_path), threads=2)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    _, metrics = SHORT(perturbed(teacher()), context)
    assert metrics["threads"] == 2
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_distill_learns_labels_that_the_teacher_does_not_know(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    labels = chance.integers(0, CLASSES, 128)
    inputs = chance.normal(size=(128, 3, 16, 16)).astype(np.float32) * 0.1 + labels[:, None, None, None] * 0.5
    train = data(tmp_path, inputs.astype(np.float32), labels=labels)

    def cross_entropy(weight: float) -> float:
        stage = Distill(epochs=8, batch_size=16, hard_labels=weight, augment=False)
        model, _ = stage(teacher(), Context(teachers=(teacher(),), train=train))
        scores = model.module(torch.from_numpy(inputs.astype(np.float32)))
        return nn.functional.cross_entropy(scores, torch.from_numpy(labels)).item()

    assert cross_entropy(0.9) < cross_entropy(0.0) / 2


def test_distill_in_bfloat16_returns_float32_and_says_so(tmp_path: Path) -> None:
    stage = replace(SHORT, dtype="bfloat16")
    trained, metrics = stage(perturbed(teacher()), Context(teachers=(teacher(),), train=images(tmp_path)))
    assert metrics["dtype"] == "bfloat16"
    assert {value.dtype for value in trained.module.parameters()} == {torch.float32}


def test_distill_metrics_name_what_was_done(tmp_path: Path) -> None:
    _, metrics = Distill(epochs=2, batch_size=8)(
        perturbed(teacher()), Context(teachers=(teacher(),), train=images(tmp_path))
    )
    assert metrics["epochs"] == 2
    assert metrics["samples"] == 40
    assert metrics["objective"] == "ClassObjective"
    losses, seconds = metrics["loss_per_epoch"], metrics["seconds_per_epoch"]
    assert isinstance(losses, list)
    assert isinstance(seconds, list)
    assert len(losses) == len(seconds) == 2
    assert metrics["loss"] == losses[-1]
    assert metrics["seconds"] == pytest.approx(sum(seconds))


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.norm, self.wide = nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Linear(6, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide: torch.Tensor = self.wide(torch.relu(self.norm(self.narrow(x))))
        return wide


class TwoHeads(nn.Module):
    """Two inputs, two outputs of other scale and rank."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(5, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = x + y
        return self.first(both) * 100, self.second(both).squeeze(1)


@pytest.mark.parametrize(
    ("make", "shapes"), [(Autoencoder, [(12,)]), (TwoHeads, [(5,), (5,)])], ids=["autoencoder", "two heads"]
)
def test_distill_matches_values_that_are_no_class_scores(
    tmp_path: Path, make: Callable[[], nn.Module], shapes: list[tuple[int, ...]]
) -> None:
    torch.manual_seed(0)
    teaching = traced(make(), shapes)
    student = perturbed(teaching)
    chance = np.random.default_rng(0)
    train = data(tmp_path, *[chance.normal(size=(256, *shape)).astype(np.float32) for shape in shapes])
    trained, metrics = Distill(epochs=8, batch_size=16)(student, Context(teachers=(teaching,), train=train))
    assert metrics["objective"] == "ValueObjective"
    assert metrics["dtype"] == "float32"
    held_out = [torch.from_numpy(chance.normal(size=(64, *shape)).astype(np.float32)) for shape in shapes]

    def errors(model: Model) -> list[float]:
        with torch.no_grad():
            pairs = [(model.module(*held_out), teaching.module(*held_out))]
        ours, theirs = ((value if isinstance(value, tuple) else (value,)) for value in pairs[0])
        return [relative_squared_error(a, b).item() for a, b in zip(ours, theirs, strict=True)]

    for before, after in zip(errors(student), errors(trained), strict=True):
        assert after < before / 4


def test_distill_takes_class_names_without_labels_for_class_scores(tmp_path: Path) -> None:
    inputs = pixels(16).numpy()
    named = data(tmp_path / "named", inputs, classes=("a", "b", "c", "d"))
    plain = data(tmp_path / "plain", inputs)
    kinds = [SHORT(teacher(), Context(teachers=(teacher(),), train=train))[1]["objective"] for train in (named, plain)]
    assert kinds == ["ClassObjective", "ValueObjective"]


class Probabilities(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.net(x), dim=1)


def test_distill_of_a_network_that_ends_in_softmax_is_that_of_its_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Probabilities()
    with torch.no_grad():
        module.net.linear.weight.mul_(10)
    train = images(tmp_path)

    def trained(network: nn.Module) -> dict[str, torch.Tensor]:
        teaching = traced(network)
        stage = replace(SHORT, dtype="float32")
        return snapshot(stage(perturbed(teaching), Context(teachers=(teaching,), train=train))[0])

    logits, probabilities = trained(module.net), trained(module)
    for name, value in logits.items():  # float32 rounds log(softmax) near 1e-7, over 5 steps
        torch.testing.assert_close(probabilities[f"net.{name}"], value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 3, 9, 17])
def test_distill_takes_data_that_leave_a_rest_of_one(tmp_path: Path, count: int) -> None:
    trained, _ = SHORT(perturbed(teacher()), Context(teachers=(teacher(),), train=images(tmp_path, count)))
    assert all(bool(torch.isfinite(value).all()) for value in tensors_of(trained.module).values())


def test_distill_that_diverges_names_epoch_and_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    class Exploding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.exp(x * self.weight * 30)  # inf in float32 once an input exceeds 88.7 / 30 = 2.96

    inputs = np.zeros((32, 1), np.float32)
    inputs[20] = 4.0
    model = traced(Exploding(), [(1,)])
    with pytest.raises(StageError, match=r"distill: the loss became (nan|inf) in epoch 1, step [1-4] of 8; lower"):
        Distill(epochs=2, batch_size=8)(
            model, Context(teachers=(model,), train=data(tmp_path, inputs), scratch=tmp_path)
        )


def test_labels_alone_ask_no_teacher(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    labels = chance.integers(0, CLASSES, 128)
    inputs = (chance.normal(size=(128, 3, 16, 16)) * 0.1 + labels[:, None, None, None] * 0.5).astype(np.float32)
    stage = Distill(epochs=8, batch_size=16, hard_labels=1.0, augment=False)
    model, metrics = stage(perturbed(teacher()), Context(train=data(tmp_path, inputs, labels=labels)))
    losses = metrics["loss_per_epoch"]
    assert isinstance(losses, list)
    assert losses[-1] < losses[0] / 2
    scores = model.module(torch.from_numpy(inputs))
    assert (scores.argmax(1) == torch.from_numpy(labels)).float().mean() > 0.5  # one in four by chance


def test_labels_alone_need_labels_of_classes(tmp_path: Path) -> None:
    stage = Distill(epochs=1, hard_labels=1.0)
    with pytest.raises(ConfigError, match="the samples of --train have none"):
        stage(teacher(), Context(train=data(tmp_path, np.zeros((8, 3, 16, 16), np.float32))))
    values = traced(nn.Conv2d(3, 4, 3))
    labelled = data(tmp_path, np.zeros((8, 3, 16, 16), np.float32), labels=np.zeros(8, np.int64))
    with pytest.raises(ConfigError, match="the network does not give class scores"):
        stage(values, Context(train=labelled))
    with pytest.raises(ConfigError, match=r"hard_labels is 1\.5; it must be between 0 and 1"):
        replace(stage, hard_labels=1.5)(teacher(), Context(teachers=(teacher(),), train=labelled))


def test_a_training_that_diverges_later_ends_with_the_weights_of_the_epoch_before(tmp_path: Path) -> None:
    student = perturbed(teacher())
    context = Context(teachers=(teacher(),), train=images(tmp_path, 64), scratch=tmp_path)
    stage = Distill(epochs=4, batch_size=8, warmup=1.0, learning_rate=30.0, hard_labels=0.0)  # rises step by step
    trained, metrics = stage(student, context)

    done = metrics["epochs"]
    assert isinstance(done, int)
    assert 1 <= done < 4
    assert f"in epoch {done + 1}" in str(metrics["diverged"])
    assert "lower the learning rate (30)" in str(metrics["diverged"])
    kept = load_file(tmp_path / "distill.safetensors")
    for name, value in tensors_of(trained.module).items():
        assert torch.equal(value, kept[f"tensor/{name}"])
        assert bool(torch.isfinite(value).all())


def test_a_sample_that_is_not_finite_is_named_with_its_step_and_the_last_epoch_stays(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    inputs = chance.normal(size=(32, 3, 16, 16)).astype(np.float32)
    context = Context(teachers=(teacher(),), train=data(tmp_path, inputs), scratch=tmp_path)
    SHORT(perturbed(teacher()), context)
    before = (tmp_path / "distill.safetensors").read_bytes()
    inputs[21, 1, 3, 3] = np.nan
    broken = replace(context, train=data(tmp_path, inputs))
    with pytest.raises((StageError, ConfigError), match=r"sample 21 .*NaN"):
        SHORT(perturbed(teacher()), broken)
    assert (tmp_path / "distill.safetensors").read_bytes() == before


def test_distill_refuses_networks_of_other_output_shape(tmp_path: Path) -> None:
    torch.manual_seed(0)
    other = Net()
    other.linear = nn.Linear(8, 5)
    with pytest.raises(StageError, match="student returns 1x4, the teacher 1x5"):
        SHORT(teacher(), Context(teachers=(traced(other),), train=images(tmp_path)))


def test_distill_refuses_data_that_do_not_fit(tmp_path: Path) -> None:
    def attempt(train: object) -> None:
        SHORT(teacher(), Context(teachers=(teacher(),), train=train))  # type: ignore[arg-type]  # None is one of the cases

    with pytest.raises(ConfigError, match="--distill needs --train DATA"):
        attempt(None)
    with pytest.raises(ConfigError, match=r"samples of shape 3x8x8; the network takes 3x16x16"):
        attempt(data(tmp_path / "a", np.zeros((4, 3, 8, 8), np.float32)))
    with pytest.raises(ConfigError, match=r"samples are uint8; the network takes float32"):
        attempt(data(tmp_path / "b", np.zeros((4, 3, 16, 16), np.uint8)))
    with pytest.raises(ConfigError, match="training needs at least 2"):
        attempt(images(tmp_path / "c", 1))
    with pytest.raises(ConfigError, match=r"label 4, the network has 4 classes"):
        attempt(data(tmp_path / "d", np.zeros((2, 3, 16, 16), np.float32), labels=np.array([0, 4])))


def test_distill_refuses_a_network_with_a_fixed_batch(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="batches of one only"):
        SHORT(replace(teacher(), has_dynamic_batch=False), Context(teachers=(teacher(),), train=images(tmp_path)))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Distill(epochs=0), "epochs is 0; it must be at least 1"),
        (Distill(epochs=1, temperature=0.0), "temperature is 0.0; it must be above 0"),
        (Distill(epochs=1, batch_size=1), "batch_size is 1; it must be at least 2"),
        (Distill(epochs=1, learning_rate=-1.0), "learning_rate is -1.0; it must be above 0"),
        (Distill(epochs=1, warmup=1.5), "warmup is 1.5; it must be between 0 and 1"),
    ],
)
def test_distill_refuses_options_out_of_range(tmp_path: Path, stage: Distill, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stage(teacher(), Context(teachers=(teacher(),), train=images(tmp_path)))


def test_perturbed_student_of_these_tests_is_really_worse() -> None:
    student = perturbed(teacher())
    assert divergence(student, teacher()) > 0.05
    assert is_same(snapshot(copy.deepcopy(student)), snapshot(perturbed(teacher())))


def test_two_teachers_answer_with_the_mean_of_their_logits() -> None:
    first, second = teacher(), perturbed(teacher(), 0.3)
    example = [torch.zeros(1, 3, 16, 16)]
    inputs = [torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))]
    answers = Ensemble([first.module, second.module], example, "float32")(inputs)
    with torch.no_grad():
        expected = (first.module(*inputs) + second.module(*inputs)) / 2
    assert torch.allclose(answers[0], expected, atol=1e-5)


def test_student_of_two_teachers_ends_between_them(tmp_path: Path) -> None:
    first, second = teacher(), perturbed(teacher(), 0.3)
    train = images(tmp_path, 128)
    stage = Distill(epochs=4, batch_size=16, hard_labels=0.0, augment=False)
    inputs = [torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(1))]
    with torch.no_grad():
        wanted = (first.module(*inputs) + second.module(*inputs)) / 2
    trained, _ = stage(first, Context(teachers=(first, second), train=train))
    with torch.no_grad():
        assert (trained.module(*inputs) - wanted).square().mean() < (first.module(*inputs) - wanted).square().mean()


def test_a_teacher_that_gives_probabilities_does_not_fit_a_student_of_logits(tmp_path: Path) -> None:
    other = traced(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES), nn.Softmax(1)))
    with pytest.raises(StageError, match="ends in a softmax and the other does not"):
        SHORT(teacher(), Context(teachers=(teacher(), other), train=images(tmp_path)))
