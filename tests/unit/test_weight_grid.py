"""Grids of few bits: known answers of the papers, and what lies on a grid stays there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeport.quant.affine import symmetric_weight
from edgeport.quant.packing import pack, unpack
from edgeport.quant.weight_grid import LARGEST, channel_scales, kept_bits
from edgeport.types import WeightBits

BITS: st.SearchStrategy[WeightBits] = st.sampled_from(list(LARGEST))
WEIGHTS = arrays.arrays(
    np.float32, st.sampled_from([(3, 5), (4, 2, 3, 3)]), elements=st.floats(-4, 4, width=32, allow_subnormal=False)
)


def test_ternary_weights_are_those_of_the_paper() -> None:
    # mean magnitude 0.5, threshold 0.35: 1.0 and -0.6 stay, their mean is 0.8 (Li et al. 2016, equations 3, 5 and 6)
    found = symmetric_weight(np.array([[1.0, -0.6, 0.3, -0.1]], np.float32), axis=0, bits=2)
    assert found.integers.tolist() == [[1, -1, 0, 0]]
    assert found.scales == pytest.approx([0.8])


def test_binary_weights_are_those_of_the_paper_and_pruned_ones_stay_zero() -> None:
    # sign(w) times the mean magnitude (Rastegari et al. 2016, equations 4 and 6)
    weight = np.array([[0.5, -1.5, 1.0, -1.0], [0.5, -1.5, 0.0, 0.0]], np.float32)
    found = symmetric_weight(weight, axis=0, bits=1)
    assert found.integers.tolist() == [[1, -1, 1, -1], [1, -1, 0, 0]]
    assert found.scales.tolist() == [1.0, 1.0]


def test_four_bits_reach_from_minus_seven_to_seven() -> None:
    found = symmetric_weight(np.array([[3.5, -3.5, 1.0, -1.0]], np.float32), axis=0, bits=4)
    assert found.integers.tolist() == [[7, -7, 2, -2]]
    assert found.scales.tolist() == [0.5]


@settings(deadline=None)
@given(WEIGHTS, BITS)
def test_weights_on_their_grid_get_the_same_integers_again(weight: np.ndarray, bits: WeightBits) -> None:
    found = symmetric_weight(weight, axis=0, bits=bits)
    real = found.integers * found.scales.reshape(-1, *[1] * (weight.ndim - 1))
    again = symmetric_weight(real.astype(np.float32), axis=0, bits=bits)
    has_peak = np.abs(found.integers).reshape(len(weight), -1).max(axis=1) == LARGEST[bits]
    np.testing.assert_array_equal(again.integers[has_peak], found.integers[has_peak])
    np.testing.assert_allclose(again.scales[has_peak], found.scales[has_peak], rtol=1e-6)


def test_wide_layers_of_a_file_of_few_bits_keep_what_no_processor_saturates_with() -> None:
    assert {bits: kept_bits(bits) for bits in LARGEST} == {8: 8, 7: 7, 4: 7, 2: 7, 1: 7}


def test_a_layer_of_zeros_has_a_scale() -> None:
    assert all((channel_scales(np.zeros((2, 3), np.float32), bits) > 0).all() for bits in LARGEST)


def test_integers_are_packed_low_half_first() -> None:
    assert pack(np.array([1, -1, 7, -7, 3], np.int8)).tolist() == [0xF1, 0x97, 0x03]


@given(arrays.arrays(np.int8, st.integers(1, 9), elements=st.integers(-8, 7)))
def test_packed_integers_come_back(integers: np.ndarray) -> None:
    np.testing.assert_array_equal(unpack(pack(integers), integers.size), integers)
