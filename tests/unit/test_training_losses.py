"""Losses against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeport.training.losses import ClassObjective, ValueObjective, relative_squared_error, softened_divergence


def logits(*probabilities: float) -> torch.Tensor:
    return torch.tensor([[math.log(value) for value in probabilities]])


def test_softened_divergence_at_temperature_one_is_the_textbook_kl() -> None:
    # KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.304098 - 0.173287 = 0.130812
    loss = softened_divergence(logits(0.5, 0.5), logits(0.75, 0.25), 1.0)
    assert loss.item() == pytest.approx(0.130812, abs=1e-6)


def test_softened_divergence_divides_logits_and_multiplies_by_temperature_squared() -> None:
    # At T = 2 logits 2 ln 3, 0 become ln 3, 0: again (3/4, 1/4). Times 2^2: 0.523248
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    loss = softened_divergence(torch.zeros(1, 2), teacher, 2.0)
    assert loss.item() == pytest.approx(4 * 0.130812, abs=4e-6)


def test_softened_divergence_is_a_mean_over_samples() -> None:
    student, teacher = torch.zeros(2, 2), torch.cat([logits(0.75, 0.25), logits(0.5, 0.5)])
    assert softened_divergence(student, teacher, 1.0).item() == pytest.approx(0.130812 / 2, abs=1e-6)


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=3),
    st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=3),
    st.floats(-5, 5, width=32),
)
def test_softened_divergence_is_never_negative_and_ignores_a_shift(
    student: list[float], teacher: list[float], shift: float
) -> None:
    ours, theirs = torch.tensor([student]), torch.tensor([teacher])
    loss = softened_divergence(ours, theirs, 4.0).item()
    assert loss >= -1e-4  # float32: T^2 = 16 times a sum of terms that cancel to 1e-6
    assert softened_divergence(ours + shift, theirs, 4.0).item() == pytest.approx(loss, abs=1e-3)


def test_softened_divergence_gives_the_teacher_no_gradient() -> None:
    student, teacher = torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    softened_divergence(student, teacher * 3, 4.0).backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert teacher.grad is None
    assert student.grad is not None


def test_relative_squared_error_is_the_share_of_variance_left() -> None:
    # Teacher 0, 2: mean 1, variance 1. Errors 1, 1: mean square 1 -> 1. Errors 0, 1: 1/2.
    teacher = torch.tensor([[0.0], [2.0]])
    assert relative_squared_error(torch.tensor([[1.0], [1.0]]), teacher).item() == pytest.approx(1.0)
    assert relative_squared_error(torch.tensor([[0.0], [1.0]]), teacher).item() == pytest.approx(0.5)


def test_relative_squared_error_does_not_depend_on_the_unit() -> None:
    student, teacher = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    assert relative_squared_error(student * 1000, teacher * 1000).item() == pytest.approx(0.5)


def test_relative_squared_error_of_a_constant_teacher_is_finite() -> None:
    loss = relative_squared_error(torch.ones(4, 1), torch.zeros(4, 1))
    assert math.isfinite(loss.item())


def test_class_objective_is_the_weighted_average_with_cross_entropy() -> None:
    # Student even over two classes: cross-entropy ln 2 = 0.693147 whatever the label.
    objective = ClassObjective(temperature=1.0, hard_labels=0.1)
    student, teacher = [logits(0.5, 0.5)], [logits(0.75, 0.25)]
    assert objective(student, teacher, torch.tensor([1])).item() == pytest.approx(0.9 * 0.130812 + 0.0693147, abs=1e-6)
    assert objective(student, teacher, None).item() == pytest.approx(0.130812, abs=1e-6)


def test_class_objective_takes_the_logarithm_of_probabilities() -> None:
    objective = ClassObjective(temperature=1.0, hard_labels=0.0, are_probabilities=True)
    student, teacher = [torch.tensor([[0.5, 0.5]])], [torch.tensor([[0.75, 0.25]])]
    assert objective(student, teacher, None).item() == pytest.approx(0.130812, abs=1e-6)


def test_class_objective_of_a_saturated_probability_is_finite() -> None:
    objective = ClassObjective(temperature=4.0, hard_labels=0.1, are_probabilities=True)
    loss = objective([torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.0, 1.0]])], torch.tensor([1]))
    assert math.isfinite(loss.item())


def test_value_objective_is_the_mean_over_outputs() -> None:
    teacher = torch.tensor([[0.0], [2.0]])
    exact, even = teacher.clone(), torch.ones(2, 1)
    assert ValueObjective()([exact, even], [teacher, teacher], None).item() == pytest.approx(0.5)
