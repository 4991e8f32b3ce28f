"""Which samples come when, learning rates, and flips and shifts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeport.training import schedule
from edgeport.training.augment import augmented, is_image


@given(st.integers(2, 300), st.integers(2, 64), st.integers(0, 5))
def test_epoch_order_never_makes_a_batch_of_one_and_repeats_nothing(count: int, batch_size: int, epoch: int) -> None:
    order = schedule.epoch_order(count, batch_size, seed=0, epoch=epoch)
    sizes = [len(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]
    assert len(sizes) == schedule.steps_per_epoch(count, batch_size)
    assert min(sizes) >= 2
    assert len(set(order.tolist())) == len(order)
    assert set(order.tolist()) <= set(range(count))
    assert len(order) > count - max(2, batch_size / 2)


def test_epoch_order_leaves_out_a_rest_below_half_a_batch() -> None:
    assert len(schedule.epoch_order(13, 4, seed=0, epoch=0)) == 12
    assert len(schedule.epoch_order(14, 4, seed=0, epoch=0)) == 14
    assert len(schedule.epoch_order(3, 4, seed=0, epoch=0)) == 3


def test_epoch_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int) -> bytes:
        return schedule.epoch_order(50, 10, seed=seed, epoch=epoch).tobytes()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_learning_rate_rises_to_the_peak_and_falls_towards_zero() -> None:
    rates = [schedule.learning_rate(step, 100, peak=0.4, warmup=0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.02)  # peak / 20
    assert rates[10] == pytest.approx(0.4)
    assert rates[55] == pytest.approx(0.2)  # half of the way down the cosine
    assert rates[99] < 0.001
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_learning_rate_takes_any_warmup(warmup: float) -> None:
    rates = [schedule.learning_rate(step, 3, peak=1.0, warmup=warmup) for step in range(3)]
    assert all(0 < rate <= 1 for rate in rates)


def ramp(channels: int) -> np.ndarray:
    """One image a sample, (8, channels, 16, 16): each pixel is its column."""
    return np.broadcast_to(np.arange(16, dtype=np.float32), (8, channels, 16, 16)).copy()


def test_augmented_shifts_by_at_most_an_eighth_and_reflects() -> None:
    result = augmented((ramp(1),), np.random.default_rng(0))[0]
    rows = {tuple(image[0, 0].astype(int).tolist()) for image in result}
    padded = [2, 1, *range(16), 14, 13]  # two columns reflected at each side, without the edge itself
    assert rows <= {tuple(padded[left : left + 16]) for left in range(5)}
    assert len(rows) > 1


def test_augmented_flips_colour_images_only() -> None:
    def directions(channels: int) -> set[bool]:
        result = augmented((ramp(channels),), np.random.default_rng(0))[0]
        return {bool(image[0, 0, 12] > image[0, 0, 4]) for image in result}

    assert directions(3) == {True, False}
    assert directions(1) == {True}


def test_augmented_moves_every_image_of_a_sample_alike() -> None:
    first, second = augmented((ramp(3), ramp(3) * 2), np.random.default_rng(1))
    np.testing.assert_array_equal(first * 2, second)


def test_augmented_leaves_its_input_and_other_shapes_alone() -> None:
    image, vector, small = ramp(3), np.arange(16.0).reshape(8, 2), np.ones((8, 3, 15, 15))
    before = image.copy()
    _, same_vector, same_small = augmented((image, vector, small), np.random.default_rng(0))
    np.testing.assert_array_equal(image, before)
    assert same_vector is vector
    assert same_small is small


def test_is_image_wants_three_dimensions_and_sixteen_pixels() -> None:
    assert is_image((3, 16, 16))
    assert not is_image((3, 16, 15))
    assert not is_image((640,))
