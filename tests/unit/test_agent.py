"""The device agent's own parts: what it imports, how it reads, quantizes, writes and compares."""

from __future__ import annotations

import ast
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeport.devices import agent

SOURCE = Path(agent.__file__).read_text(encoding="utf-8")


def test_agent_imports_only_the_standard_library_and_numpy() -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"numpy"}


def test_agent_names_no_runtime_but_the_four_it_runs() -> None:
    calls = [
        node.args[0].value
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "import_module"
        and isinstance(node.args[0], ast.Constant)
    ]
    packages = {str(call).split(".", maxsplit=1)[0] for call in calls}
    assert packages == {"ai_edge_litert", "tflite_runtime", "openvino", "onnxruntime"}


def test_agent_is_python_3_9_syntax() -> None:
    ast.parse(SOURCE, feature_version=(3, 9))


def test_encode_quantizes_by_scale_and_zero_point() -> None:
    slot = agent.Slot(["x"], [1, 5], np.int8, 0.5, 10)
    # 0.75 / 0.5 = 1.5 -> 2 (half to even); 100 / 0.5 + 10 = 210 -> 127; -100 / 0.5 + 10 = -190 -> -128
    array = np.array([[0.0, 0.75, -1.0, 100.0, -100.0]], np.float32)
    encoded = agent.encode(array, slot, 0)
    assert encoded.dtype == np.int8
    assert encoded.tolist() == [[10, 12, 8, 127, -128]]


@given(
    values=hnp.arrays(np.float32, (1, 7), elements=st.floats(-100, 100, width=32)),
    scale=st.floats(0.015625, 4.0, width=32),
    zero_point=st.integers(-128, 127),
)
def test_quantized_value_is_off_by_at_most_half_a_step(values: np.ndarray, scale: float, zero_point: int) -> None:
    slot = agent.Slot(["x"], [1, 7], np.int8, scale, zero_point)
    back = (agent.encode(values, slot, 0).astype(np.float64) - zero_point) * scale
    reachable = np.clip(values, (-128 - zero_point) * scale, (127 - zero_point) * scale)
    assert np.abs(back - reachable).max() <= scale / 2 + 1e-4  # 1e-4: float32 of values up to 100


def test_encode_refuses_what_would_lose_meaning() -> None:
    with pytest.raises(agent.AgentError, match=r"input 1 'x' is float32, the file takes int64"):
        agent.encode(np.zeros((1, 2), np.float32), agent.Slot(["x"], [1, 2], np.int64), 1)
    with pytest.raises(agent.AgentError, match="int64, the file takes int32"):
        agent.encode(np.array([[2**40]]), agent.Slot(["x"], [1, 1], np.int32), 0)
    with pytest.raises(agent.AgentError, match="not finite"):
        agent.encode(np.array([[np.nan]], np.float32), agent.Slot(["x"], [1, 1], np.int8, 1.0, 0), 0)


def test_encode_narrows_integers_that_fit() -> None:
    encoded = agent.encode(np.array([[7, -3]]), agent.Slot(["x"], [1, 2], np.int32), 0)
    assert encoded.dtype == np.int32
    assert encoded.tolist() == [[7, -3]]


def test_rows_are_read_one_at_a_time_into_one_buffer(tmp_path: Path) -> None:
    data = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    np.save(tmp_path / "x.npy", data)
    rows = agent.Rows(str(tmp_path / "x.npy"))
    assert rows.count == 4
    first = rows.row(3)
    assert np.array_equal(first, data[3])
    assert rows.row(1) is first
    assert np.array_equal(first, data[1])


def _saved(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a numpy file at all", "is not a .npy file"),
        (b"", "is not a .npy file"),
        (_saved(np.zeros((4, 8), np.float32))[:-1], "is cut short: .* promises 4 rows"),
        (_saved(np.zeros((0, 8), np.float32)), "wanted numbers"),
        (_saved(np.array(3.0)), "wanted numbers"),
        (_saved(np.asfortranarray(np.ones((3, 2), np.float32))), "in Fortran order"),
        (_saved(np.array([["a"]])), "wanted numbers"),
        (_saved(np.array([{}, {}]), allow_pickle=True), "wanted numbers"),
    ],
    ids=["text", "empty", "cut", "no rows", "scalar", "fortran", "strings", "pickle"],
)
def test_rows_refuses_a_bad_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(agent.AgentError, match=message):
        agent.Rows(str(path))


def test_samples_of_different_length_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((4, 2), np.float32))
    with pytest.raises(agent.AgentError, match=r"a\.npy has 3, .*b\.npy has 4"):
        agent.Samples([str(tmp_path / "a.npy"), str(tmp_path / "b.npy")])


@given(
    first=hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)),
    second=hnp.arrays(np.int64, hnp.array_shapes(min_dims=1, max_dims=2, max_side=4)),
)
def test_results_are_what_numpy_loads(
    tmp_path_factory: pytest.TempPathFactory, first: np.ndarray, second: np.ndarray
) -> None:
    folder = tmp_path_factory.mktemp("results")
    count = min(len(first), len(second))
    results = agent.Results(str(folder / "out.npz"), count)
    for index in range(count):
        results.add([first[index], second[index]])
    results.finish()
    results.clear()
    with np.load(folder / "out.npz", allow_pickle=False) as archive:
        assert archive.files == ["out0", "out1"]
        np.testing.assert_array_equal(archive["out0"], first[:count])
        np.testing.assert_array_equal(archive["out1"], second[:count])
    assert [path.name for path in folder.iterdir()] == ["out.npz"]


def test_unfinished_results_leave_nothing(tmp_path: Path) -> None:
    results = agent.Results(str(tmp_path / "out.npz"), 2)
    results.add([np.zeros(3, np.float32)])
    results.clear()
    assert list(tmp_path.iterdir()) == []


def test_results_refuse_a_shape_that_changes(tmp_path: Path) -> None:
    results = agent.Results(str(tmp_path / "out.npz"), 2)
    results.add([np.zeros(3, np.float32)])
    with pytest.raises(agent.AgentError, match=r"from \(3,\) to \(4,\)"):
        results.add([np.zeros(4, np.float32)])
    results.clear()


def test_results_are_stored_uncompressed_for_cheap_boards(tmp_path: Path) -> None:
    results = agent.Results(str(tmp_path / "out.npz"), 1)
    results.add([np.zeros(1000, np.float32)])
    results.finish()
    results.clear()
    with zipfile.ZipFile(tmp_path / "out.npz") as archive:
        assert [entry.compress_type for entry in archive.infolist()] == [zipfile.ZIP_STORED]


def test_cosines_by_hand() -> None:
    outputs = np.array([[3, 4], [1, 0], [0, 0], [0, 0], [-2, 0], [np.nan, 1], [1e30, 0]], np.float32)
    expected = np.array([[4, 3], [0, 2], [0, 0], [1, 0], [5, 0], [1, 1], [1e-30, 0]], np.float32)
    # (3*4 + 4*3) / (5 * 5) = 0.96; orthogonal; both zero; one zero; opposite; not finite; same direction
    np.testing.assert_allclose(agent.cosines(outputs, expected), [0.96, 0, 1, 0, -1, np.nan, 1], atol=1e-7)


@given(
    row=hnp.arrays(np.float64, (1, 5), elements=st.floats(-1e3, 1e3)),
    other=hnp.arrays(np.float64, (1, 5), elements=st.floats(-1e3, 1e3)),
    factor=st.floats(0.001, 1000),
)
def test_cosine_is_bounded_symmetric_and_blind_to_scale(row: np.ndarray, other: np.ndarray, factor: float) -> None:
    cosine = agent.cosines(row, other)[0]
    assert abs(cosine) <= 1 + 1e-12
    assert agent.cosines(other, row)[0] == pytest.approx(cosine, abs=1e-12)
    if (row * factor).any() == row.any():  # unless the product vanished
        assert agent.cosines(row * factor, other)[0] == pytest.approx(cosine, abs=1e-9)


def test_agreement_by_hand() -> None:
    scores = np.array([[1, 2, 3], [9, 0, 0], [5, 5, 1], [np.nan, 0, 1]], np.float32)
    expected = np.array([[0, 0, 1], [0, 0, 7], [2, 1, 0], [9, 0, 1]], np.float32)
    # same; different; a tie goes to the first; NaN never agrees: 2 of 4
    assert agent.agreement_percent(scores, expected) == 50.0


@pytest.mark.parametrize(
    ("shapes", "index"),
    [([(8, 10)], 0), ([(8, 1), (8, 2)], 1), ([(8, 3, 4, 4), (8, 5)], 1), ([(8,)], None), ([(8, 3, 4, 4)], None)],
)
def test_class_scores_are_the_first_matrix_of_two_or_more_columns(
    shapes: list[tuple[int, ...]], index: int | None
) -> None:
    assert agent.class_scores_index(shapes) == index


def test_peak_memory_grows_with_what_is_touched() -> None:
    before = agent.peak_rss_bytes()
    if before is None:
        pytest.skip("this system does not tell a process's peak memory")
    block = np.ones(before // 8 + 4_000_000, np.float64)  # 32 MB more than the peak so far
    after = agent.peak_rss_bytes()
    assert after is not None
    assert after >= block.nbytes > before
