"""Bias correction: the shift of a layer whose mean input is known."""

from __future__ import annotations

import torch

from edgeport.quant.bias_correction import expected_shift, measured_shift


def test_shift_is_the_weights_error_times_the_mean_input() -> None:
    weight, rounded = torch.tensor([[1.0, 2.0], [0.5, 0.0]]), torch.tensor([[1.25, 2.0], [0.0, 0.5]])
    # (0.25 * 4, -0.5 * 4 + 0.5 * 2)
    torch.testing.assert_close(expected_shift(weight, rounded, torch.tensor([4.0, 2.0])), torch.tensor([1.0, -1.0]))


def test_measured_shift_of_many_samples_is_the_expected_one() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 8, generator=generator)
    rounded = weight + 0.1 * torch.randn(5, 8, generator=generator)
    x = torch.relu(torch.randn(20_000, 8, generator=generator)) + 1
    exact, other = x @ weight.T, x @ rounded.T
    expected = expected_shift(weight, rounded, x.mean(0))
    found = measured_shift([exact[:9000], exact[9000:]], [other[:9000], other[9000:]], 1)
    # shrinkage takes at most error^2 / shift away: 0.1 * sqrt(8 / 20000) squared, over a shift of about 0.1
    torch.testing.assert_close(found, expected, rtol=0.01, atol=1e-3)


def test_shift_within_its_standard_error_is_left_alone() -> None:
    # per sample +1, -1, +1.5, -1.5 in channel 0 (mean 0), 2 everywhere in channel 1 (no error)
    shifts = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [1.5, 2.0], [-1.5, 2.0]])
    found = measured_shift([torch.zeros(4, 2, 3, 3)], [shifts.reshape(4, 2, 1, 1).expand(4, 2, 3, 3)], 1)
    torch.testing.assert_close(found, torch.tensor([0.0, 2.0]))


def test_shrinkage_is_that_computed_by_hand() -> None:
    # mean 3, variance 2 of two samples, error^2 = 1: 3 * (1 - 1 / 9)
    found = measured_shift([torch.zeros(2, 1)], [torch.tensor([[2.0], [4.0]])], 1)
    torch.testing.assert_close(found, torch.tensor([3 * 8 / 9]))


def test_one_sample_proves_nothing() -> None:
    assert measured_shift([torch.zeros(1, 2)], [torch.ones(1, 2)], 1).tolist() == [0.0, 0.0]
