"""Sparse constants of TFLite: what they hold, what they cost, and that nothing gets lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs edgeport[tflite]")

from edgeport.quant.tflite_csr import compress, expand, from_parameters, to_parameters  # after the skip


def test_rows_and_columns_are_those_of_the_last_dimension() -> None:
    found = compress(np.array([[[0, 5, 0], [0, 0, 0]], [[1, 0, 2], [0, 0, 3]]], np.float32))
    assert found.shape == (2, 2, 3)
    assert found.values.tolist() == [5, 1, 2, 3]
    assert found.indices.tolist() == [1, 0, 2, 2]
    assert found.segments.tolist() == [0, 1, 1, 3, 4]
    assert found.size_bytes == 4 * 4 + 4 + 5  # a byte an index and a segment


@pytest.mark.parametrize(
    ("columns", "dtype"), [(256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.int32)]
)
def test_indices_have_the_narrowest_type_that_holds_them(columns: int, dtype: type) -> None:
    dense = np.zeros((1, columns), np.float32)
    dense[0, -1] = 1
    found = compress(dense)
    assert found.indices.dtype == dtype
    assert found.segments.dtype == np.uint8
    assert expand(found)[0, -1] == 1


@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_round_trip_through_the_schema_is_exact(shape: list[int], share: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    dense = generator.standard_normal(shape).astype(np.float32)
    dense[generator.random(shape) < share] = 0
    sparse = compress(dense)
    found = from_parameters(to_parameters(sparse), shape, sparse.values)
    assert found is not None
    assert np.array_equal(expand(found), dense)


def test_other_sparse_forms_are_not_taken_for_ours() -> None:
    sparse = compress(np.eye(3, dtype=np.float32))
    parameters = to_parameters(sparse)
    parameters.traversalOrder = np.array([1, 0], np.int32)
    assert from_parameters(parameters, (3, 3), sparse.values) is None
    assert from_parameters(to_parameters(sparse), (3, 3, 1), sparse.values) is None
