"""Integer mappings: zero is exact, errors are bounded, sums of errors cancel, biases fit 32 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeport.quant.affine import BIAS_LIMIT, asymmetric, integer_bias, symmetric_weight
from edgeport.quant.weight_grid import LARGEST
from edgeport.types import WeightBits

ENDS = st.floats(-1e6, 1e6, width=32)
WEIGHTS = arrays.arrays(
    np.float32,
    st.sampled_from([(3, 5), (4, 2, 3, 3), (6, 1, 3, 3), (2, 7, 1, 1)]),
    elements=st.floats(-4, 4, width=32),
)
BITS: st.SearchStrategy[WeightBits] = st.sampled_from([4, 7, 8])


def test_asymmetric_of_a_relu_starts_at_zero() -> None:
    affine = asymmetric(0.0, 6.0)
    assert (affine.zero_point, affine.low) == (0, 0.0)
    assert affine.scale == np.float32(6 / 255)
    assert affine.quantize(np.array([-1.0, 0.0, 2.4, 6.0, 7.0])).tolist() == [0, 0, 102, 255, 255]


def test_asymmetric_widens_a_range_without_zero() -> None:
    assert asymmetric(2.0, 5.1).zero_point == 0
    assert asymmetric(-5.1, -2.0).zero_point == 255
    assert asymmetric(-5.1, -2.0).high == 0.0


def test_asymmetric_signed_is_the_unsigned_shifted_by_128() -> None:
    unsigned, signed = asymmetric(-1.0, 3.0), asymmetric(-1.0, 3.0, signed=True)
    assert unsigned.zero_point == 64  # 1 / (4 / 255) = 63.75
    assert (signed.zero_point, signed.smallest, signed.largest) == (-64, -128, 127)
    assert (signed.scale, signed.low, signed.high) == (unsigned.scale, unsigned.low, unsigned.high)


def test_asymmetric_of_only_zeros_maps_zero_to_the_smallest() -> None:
    assert asymmetric(0.0, 0.0).scale == 1.0
    assert asymmetric(0.0, 0.0, signed=True).zero_point == -128


@pytest.mark.parametrize("ends", [(1.0, 0.0), (np.nan, 1.0), (0.0, np.inf)])
def test_asymmetric_refuses_what_is_no_range(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="not a range"):
        asymmetric(*ends)


@given(ENDS, ENDS, st.floats(0, 1), st.booleans())
def test_quantizing_and_back_errs_by_half_a_step(first: float, second: float, share: float, signed: bool) -> None:
    low, high = sorted((first, second))
    affine = asymmetric(low, high, signed=signed)
    assert affine.dequantize(affine.quantize(0.0)) == 0.0
    value = low + share * (high - low)
    # rounding the zero point moves the ends by half a step; 1e-6 is float32 rounding of the scale, 255 times over
    assert abs(affine.dequantize(affine.quantize(value)) - value) <= affine.scale * (1 + 255e-6)
    if affine.low <= value <= affine.high:
        assert abs(affine.dequantize(affine.quantize(value)) - value) <= affine.scale / 2 * (1 + 255e-6)


@settings(deadline=None)
@given(WEIGHTS, BITS)
def test_symmetric_weight_errs_by_less_than_a_step_and_by_half_a_step_in_sum(
    weight: np.ndarray, bits: WeightBits
) -> None:
    result = symmetric_weight(weight, axis=0, bits=bits)
    scales = result.scales.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    errors = (result.integers - weight / scales).reshape(len(weight), -1)
    assert result.integers.dtype == np.int8
    assert np.abs(result.integers.astype(int)).max(initial=0) <= LARGEST[bits]
    assert np.abs(errors).max() < 1.0
    assert np.abs(errors.sum(1)).max() <= 0.5 + 1e-6  # in steps; 1e-6: float32 rounding of the scale


def test_symmetric_weight_flips_the_value_that_was_rounded_furthest() -> None:
    # steps 127, 1.4, 1.3, 1.3 round to 127, 1, 1, 1, which errs by -1.0 in sum: the 1.4 goes up
    weight = np.array([[127.0, 1.4, 1.3, 1.3]], np.float32)
    assert symmetric_weight(weight, axis=0).integers.tolist() == [[127, 2, 1, 1]]


def test_symmetric_weight_never_flips_beyond_the_largest() -> None:
    weight = np.array([[63.0, -63.0, 0.45, 0.45, 0.45]], np.float32)
    assert symmetric_weight(weight, axis=0, bits=7).integers.tolist() == [[63, -63, 1, 0, 0]]


def test_symmetric_weight_along_the_last_axis_is_the_transposed() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    along_last, transposed = symmetric_weight(weight, axis=-1), symmetric_weight(weight.T.copy(), axis=0)
    assert np.array_equal(along_last.integers, transposed.integers.T)
    assert np.array_equal(along_last.scales, transposed.scales)


def test_symmetric_weight_widens_only_the_channel_whose_bias_needs_it() -> None:
    weight = np.array([[1e-9, 5e-10], [1.0, -0.5], [0.0, 0.0]], np.float32)
    bias = np.array([3.0, 3.0, 3.0], np.float32)
    result = symmetric_weight(weight, axis=0, bias=bias, input_scale=0.1)
    assert result.widened == (0,)  # the channel of only zeros loses nothing, it is not worth a word
    assert result.scales[1] == np.float32(1 / 127)
    assert result.scales[0] == pytest.approx(3 / (0.1 * 2**30), rel=1e-6)
    assert integer_bias(bias, input_scale=0.1, weight_scales=result.scales).tolist()[0] == pytest.approx(
        2**30, rel=1e-6
    )


@settings(deadline=None)
@given(WEIGHTS, st.floats(-1e4, 1e4, width=32), st.floats(2.0**-20, 16.0))
def test_every_bias_fits_half_of_the_accumulator(weight: np.ndarray, bias: float, input_scale: float) -> None:
    biases = np.full(len(weight), bias, np.float32)
    result = symmetric_weight(weight * np.float32(1e-12), axis=0, bias=biases, input_scale=input_scale)
    integers = integer_bias(biases, input_scale=input_scale, weight_scales=result.scales)
    assert np.abs(integers.astype(np.int64)).max() <= BIAS_LIMIT * (1 + 1e-6)  # the scale is rounded to float32
    steps = input_scale * result.scales.astype(np.float64)
    assert (np.abs(integers * steps - biases) <= steps / 2 * (1 + 1e-9)).all()


def test_integer_bias_refuses_to_saturate() -> None:
    with pytest.raises(ValueError, match=r"bias 3.0 does not fit 32 bits"):
        integer_bias(np.array([3.0], np.float32), input_scale=0.1, weight_scales=np.array([1e-9], np.float32))
