"""The data set as other steps see it: batches, order, subsets, digests, overlap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeport.dataset import Dataset, check_overlap, open_dataset
from edgeport.errors import ConfigError


def saved(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy types an option of its own beside the arrays
    return str(path)


@pytest.fixture
def rows(tmp_path: Path) -> Dataset:
    """Seven samples whose only value is their number, labelled 10 x number."""
    x = np.arange(7, dtype=np.float32).reshape(7, 1)
    return open_dataset(saved(tmp_path / "rows.npz", x=x, y=np.arange(7) * 10))


def values(dataset: Dataset, **options: object) -> list[float]:
    batches = dataset.batches(3, **options)  # type: ignore[arg-type]  # the options of batches
    return [float(value) for batch in batches for value in batch.inputs[0][:, 0]]


def test_import_needs_neither_torch_nor_pillow() -> None:
    code = "import sys, edgeport.dataset; print(sorted({'torch', 'PIL', 'onnx'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_batches_keep_order_and_the_last_is_smaller(rows: Dataset) -> None:
    batches = list(rows.batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [batch.inputs[0].ravel().tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    labels = [batch.labels for batch in batches]
    assert all(label is not None and label.dtype == np.int64 for label in labels)
    assert np.concatenate([label for label in labels if label is not None]).tolist() == [0, 10, 20, 30, 40, 50, 60]


def test_describes_itself_without_reading(rows: Dataset) -> None:
    assert (rows.name, len(rows), rows.has_labels) == ("rows.npz", 7, True)
    assert (rows.shapes, rows.dtypes, rows.classes) == (((1,),), ("float32",), ())


def test_order_selects_and_may_repeat(rows: Dataset) -> None:
    assert values(rows, order=[5, 0, 0, 6]) == [5, 0, 0, 6]
    with pytest.raises(IndexError):
        values(rows, order=[7])


def test_batch_size_must_be_positive(rows: Dataset) -> None:
    with pytest.raises(ValueError, match="size is 0"):
        rows.batches(0)


def test_order_counts_within_the_subset(rows: Dataset) -> None:
    assert values(rows.subset([6, 4, 2]), order=[2, 0]) == [2, 6]


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_subset_is_python_indexing(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    bound = st.one_of(st.none(), st.integers(-9, 9))
    first, second = (
        slice(data.draw(bound), data.draw(bound), data.draw(st.sampled_from([None, 1, 2, -1]))) for _ in range(2)
    )
    x = np.arange(7, dtype=np.float32).reshape(7, 1)
    dataset = open_dataset(saved(tmp_path_factory.mktemp("subset") / "rows.npz", x=x, y=np.arange(7) * 10))
    expected = list(range(7))[first]
    if not expected or not expected[second]:
        with pytest.raises(ValueError, match="is empty"):
            dataset.subset(first).subset(second)
        return
    part = dataset.subset(first).subset(second)
    labels = part.labels()
    assert values(part) == expected[second]
    assert labels is not None
    assert labels.tolist() == [10 * number for number in expected[second]]
    assert part.sample_digests() == tuple(dataset.sample_digests()[number] for number in expected[second])


def test_digest_depends_on_content_and_choice_but_not_on_place(tmp_path: Path) -> None:
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    (tmp_path / "elsewhere").mkdir()
    one, same = (open_dataset(saved(path, x=x)) for path in (tmp_path / "a.npz", tmp_path / "elsewhere/b.npz"))
    other = open_dataset(saved(tmp_path / "c.npz", x=x + 1))
    assert one.digest == same.digest
    assert len({one.digest, other.digest, one.subset([0, 1]).digest, one.subset([1, 0]).digest}) == 4
    assert one.subset(slice(0, 2)).digest == same.subset([0, 1]).digest
    assert one.subset(slice(None)).digest == one.digest
    assert int(one.digest, 16) > 0


def test_inputs_keep_their_dtype_and_number(tmp_path: Path) -> None:
    x0, x1 = np.ones((3, 2, 2), np.float32), np.arange(3, dtype=np.int64)
    dataset = open_dataset(saved(tmp_path / "two.npz", x1=x1, x0=x0))
    assert (dataset.shapes, dataset.dtypes) == (((2, 2), ()), ("float32", "int64"))
    (batch,) = dataset.batches(8)
    assert batch.labels is None
    assert not dataset.has_labels
    assert dataset.labels() is None
    assert batch.inputs[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("layout", ["compressed", "big endian", "fortran"])
def test_storage_layout_changes_neither_values_nor_sample_digests(tmp_path: Path, layout: str) -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    plain = open_dataset(saved(tmp_path / "plain.npz", x=x))
    path = tmp_path / "other.npz"
    if layout == "compressed":
        np.savez_compressed(path, x=x)
    else:
        np.savez(path, x=x.astype(">f4") if layout == "big endian" else np.asfortranarray(x))
    other = open_dataset(str(path))
    (batch,) = other.batches(9)
    np.testing.assert_array_equal(batch.inputs[0], x)
    assert batch.inputs[0].dtype == np.dtype("float32")
    assert batch.inputs[0].dtype.isnative
    assert other.sample_digests() == plain.sample_digests()


def test_plain_archives_are_mapped_not_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path / "large.npz", x=np.zeros((64, 2**18), np.float32))  # 64 MB
    code = (
        "import sys, tracemalloc; from edgeport.dataset import open_dataset; tracemalloc.start()\n"
        "n = sum(len(b) for b in open_dataset(sys.argv[1]).batches(4)); print(n, tracemalloc.get_traced_memory()[1])"
    )
    shown = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    count, peak_bytes = map(int, shown.stdout.split())
    assert count == 64
    assert peak_bytes < 16 * 2**20  # two batches of 4 MB and their finite masks, not 64 MB


def test_nan_names_its_sample(tmp_path: Path) -> None:
    x = np.zeros((20, 3), np.float32)
    x[13, 2], x[17, 0] = np.inf, np.nan
    dataset = open_dataset(saved(tmp_path / "bad.npz", x=x))
    with pytest.raises(ConfigError, match=r"^bad\.npz: x: sample 13 holds NaN or infinity$"):
        list(dataset.batches(4))
    assert len(list(dataset.subset(slice(0, 13)).batches(4))) == 4


def test_check_labels_names_the_first_wrong_one(tmp_path: Path) -> None:
    dataset = open_dataset(saved(tmp_path / "d.npz", x=np.zeros((4, 1), np.float32), y=np.array([0, 2, 3, -1])))
    dataset.subset([0, 1, 2]).check_labels(4)
    with pytest.raises(
        ConfigError, match=r"sample 2 \(row 2 of d\.npz\) has label 3, the network has 3 classes \(0\.\.2\)"
    ):
        dataset.check_labels(3)
    with pytest.raises(ConfigError, match=r"sample 0 \(row 3 of d\.npz\) has label -1"):
        dataset.subset([3]).check_labels(3)


def test_overlap_is_found_by_content(tmp_path: Path) -> None:
    x = np.arange(10, dtype=np.float32).reshape(10, 1)
    first = open_dataset(saved(tmp_path / "a.npz", x=x[:6]))
    second = open_dataset(saved(tmp_path / "b.npz", x=x[[8, 4, 9, 2]]))
    message = r"^2 samples are in both --calibrate and --evaluate \(first: sample 4 = sample 1\); they must"
    with pytest.raises(ConfigError, match=message):
        check_overlap(first, second, names=("--calibrate", "--evaluate"))
    with pytest.raises(ConfigError, match=r"^1 sample is in both"):
        check_overlap(first, second.subset([0, 1]), names=("a", "b"))
    check_overlap(first, second.subset([0, 2]), names=("a", "b"))
    with pytest.raises(ConfigError, match=r"^2 samples are in both a and b \(first: sample 1 = sample 0\)"):
        check_overlap(first.subset([3, 2, 3, 2]), second.subset([3, 3]), names=("a", "b"))


def test_rows_of_other_shape_or_dtype_do_not_overlap(tmp_path: Path) -> None:
    zeros = [np.zeros((1, 4), np.float32), np.zeros((1, 2, 2), np.float32), np.zeros((1, 4), np.int32)]
    sets = [open_dataset(saved(tmp_path / f"{number}.npz", x=x)) for number, x in enumerate(zeros)]
    assert len({dataset.sample_digests() for dataset in sets}) == 3
