"""Streaming statistics: exact ends, exact histograms whatever the batches, no growth with their number."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeport.quant.observer import BINS, SAMPLED_VALUES, Observer, Statistics

# Values below 2**-60 beside a span of 2**30 would vanish in float32 when they are scaled to bins.
VALUES = st.floats(-1e9, 1e9, width=32).filter(lambda value: value == 0 or abs(value) > 2.0**-60)
BATCHES = st.lists(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(5)), elements=VALUES), min_size=1, max_size=5
)


def observed(*batches: np.ndarray | torch.Tensor) -> Statistics:
    observer = Observer()
    for batch in batches:
        observer.update(torch.as_tensor(batch))
    return observer.statistics()


def histogram(values: np.ndarray, span: float) -> np.ndarray:
    """Count in float64, bin by bin, with the final span known from the start."""
    bins = np.floor(values.astype(np.float64).reshape(-1) / (2 * span / BINS)).astype(int) + BINS // 2
    return np.bincount(bins, minlength=BINS)


@settings(deadline=None)
@given(BATCHES)
def test_ends_and_total_are_numpys(batches: list[np.ndarray]) -> None:
    seen, everything = observed(*batches), np.concatenate(batches)
    assert (seen.low, seen.high) == (everything.min(), everything.max())
    assert seen.counts.sum() == everything.size  # 5 values a sample: the histogram takes all of them


@settings(deadline=None)
@given(BATCHES)
def test_growing_span_gives_the_histogram_of_the_final_span(batches: list[np.ndarray]) -> None:
    seen, everything = observed(*batches), np.concatenate(batches)
    if not everything.any():
        assert seen.counts[BINS // 2] == everything.size
        return
    assert seen.span / 2 <= np.abs(everything).max() < seen.span
    np.testing.assert_array_equal(seen.counts, histogram(everything, seen.span))


@settings(deadline=None)
@given(BATCHES)
def test_statistics_do_not_depend_on_batching(batches: list[np.ndarray]) -> None:
    everything = np.concatenate(batches)
    whole, one_by_one, backwards = observed(everything), observed(*everything[:, None]), observed(*batches[::-1])
    for other in (observed(*batches), one_by_one, backwards):
        assert (other.low, other.high, other.span) == (whole.low, whole.high, whole.span)
        np.testing.assert_array_equal(other.counts, whole.counts)


def test_bins_by_hand() -> None:
    # The largest value is 3, so the span is 4 and a bin is 8 / 4096 wide: 0 lies in bin 2048, 3 at 2048 + 1536,
    # -3 at 2048 - 1536, 1 at 2048 + 512, and just below zero is bin 2047.
    seen = observed(np.array([[0.0, 3.0, -3.0, 1.0, -1e-6]], np.float32))
    assert seen.span == 4.0
    assert np.flatnonzero(seen.counts).tolist() == [512, 2047, 2048, 2560, 3584]


def test_value_at_a_power_of_two_keeps_its_bin_when_the_span_grows() -> None:
    alone = observed(np.array([[1.0]], np.float32))
    assert alone.span == 2.0  # above the value, so that its bin exists
    grown = observed(np.array([[1.0]], np.float32), np.array([[5.0]], np.float32))
    assert grown.span == 8.0
    assert np.flatnonzero(grown.counts).tolist() == [2048 + 256, 2048 + 1280]


def test_zeros_before_the_first_value_are_counted_at_zero() -> None:
    seen = observed(np.zeros((3, 7), np.float32), np.array([[-0.5]], np.float32))
    assert seen.counts[BINS // 2] == 21
    assert seen.counts.sum() == 22
    assert (seen.low, seen.high, seen.span) == (-0.5, 0.0, 1.0)


def test_all_zero_activation() -> None:
    seen = observed(np.zeros((2, 9), np.float32))
    assert (seen.low, seen.high, seen.span) == (0.0, 0.0, 0.0)
    assert seen.counts[BINS // 2] == 18
    assert seen.percentile_range(99.0) == (0.0, 0.0)


@pytest.mark.parametrize("value", [3.7, -3.7])
def test_constant_activation_has_that_value_for_its_range(value: float) -> None:
    seen = observed(np.full((4, 10), value, np.float32))
    exact = float(np.float32(value))
    assert (seen.low, seen.high) == (exact, exact)
    assert seen.percentile_range(99.0) == (exact, exact)


@pytest.mark.parametrize("value", [1e-45, 3e-39, 2.0**-126, 3.4e38, -3.4e38])
def test_values_at_the_ends_of_float32_are_counted(value: float) -> None:
    seen = observed(np.array([[value, value]], np.float32))
    assert seen.low == seen.high == float(np.float32(value))
    assert seen.counts.sum() == 2


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9])
def test_percentile_range_of_a_uniform_ramp(percent: float) -> None:
    # 0, 1, ..., 99_999 in 100 samples: cutting (100 - p) / 2 % at either end leaves [c, 100_000 - c], to a bin
    # of 2 * 131_072 / 4096 = 64.
    seen = observed(np.arange(100_000, dtype=np.float32).reshape(100, 1000))
    cut = (100 - percent) / 200 * 100_000
    low, high = seen.percentile_range(percent)
    assert low == pytest.approx(cut, abs=64)
    assert high == pytest.approx(100_000 - cut, abs=64)
    assert low <= cut
    assert high >= 100_000 - cut - 1  # a range never keeps less than it promises


def test_percentile_range_drops_a_lone_outlier_and_keeps_exact_ends() -> None:
    values = np.concatenate([np.linspace(-1, 1, 99_999), [500.0]]).astype(np.float32).reshape(1000, 100)
    low, high = observed(values).percentile_range(99.99)  # 5 values go at either end: the outlier and 4 below 1
    width = 2 * 512 / BINS
    assert -1.0 <= low <= -1.0 + width  # five of the lowest bin's many: the exact end
    assert low == -1.0
    assert 1.0 - width <= high <= 1.0 + width


def test_percentile_range_without_samples_is_the_range() -> None:
    nothing = Statistics(low=-2.0, high=3.0, span=4.0, counts=np.zeros(BINS, np.int64))
    assert nothing.percentile_range(99.0) == (-2.0, 3.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_raises_and_changes_nothing(bad: float) -> None:
    observer = Observer()
    observer.update(torch.tensor([[1.0, 2.0]]))
    before = observer.statistics()
    with pytest.raises(ValueError, match="NaN or infinite"):
        observer.update(torch.tensor([[0.0, bad]]))
    after = observer.statistics()
    assert (after.low, after.high) == (before.low, before.high)
    np.testing.assert_array_equal(after.counts, before.counts)


def test_channels_last_and_contiguous_give_the_same() -> None:
    values = torch.randn(3, 16, 40, 40, generator=torch.Generator().manual_seed(0))  # larger than the sampled share
    plain = observed(values.contiguous())
    last = observed(values.contiguous(memory_format=torch.channels_last))
    assert (plain.low, plain.high) == (last.low, last.high)
    np.testing.assert_array_equal(plain.counts, last.counts)


def test_large_sample_is_taken_at_even_strides_over_all_channels() -> None:
    # 64 channels of 64 x 64: every 129th value (262_144 / 2048 = 128, made odd), and every channel is met.
    values = torch.arange(64.0).reshape(1, 64, 1, 1).expand(2, 64, 64, 64)
    seen = observed(values)
    assert seen.counts.sum() == 2 * -(-64 * 64 * 64 // 129)
    assert SAMPLED_VALUES * 0.9 < seen.counts.sum() / 2 <= SAMPLED_VALUES
    assert np.count_nonzero(seen.counts) == 64


@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 3, 1), (1, 2, 1, 3), (1, 1, 2, 1, 3)])
def test_every_rank_is_taken(shape: tuple[int, ...]) -> None:
    seen = observed(torch.arange(6.0).reshape(shape))
    assert (seen.low, seen.high, seen.counts.sum()) == (0.0, 5.0, 6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_floating_dtype_is_taken(dtype: torch.dtype) -> None:
    seen = observed(torch.tensor([[-1.5, 0.25]], dtype=dtype))
    assert (seen.low, seen.high, seen.counts.sum()) == (-1.5, 0.25, 2)


def test_float64_just_below_a_power_of_two_fits() -> None:
    assert observed(np.array([[1.0 - 1e-12]])).counts.sum() == 1  # float32 rounds it to 1


def test_empty_batch_changes_nothing() -> None:
    assert observed(torch.zeros(0, 3), torch.tensor([[2.0]])).counts.sum() == 1


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    observer, batch = Observer(), torch.randn(4, 2048, generator=torch.Generator().manual_seed(0))
    observer.update(batch)
    tracemalloc.start()
    try:
        observer.update(batch)
        early = tracemalloc.get_traced_memory()[0]
        for _ in range(300):
            observer.update(batch)
        late = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert late - early < 16_384  # 301 batches of 32 kB went through
