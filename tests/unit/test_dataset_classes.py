"""A choice of classes: what the words mean, and what is left of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeport.dataset import (
    Classes,
    Dataset,
    check_overlap,
    choose_classes,
    classes_spoken_of,
    of_classes,
    open_dataset,
)
from edgeport.errors import ConfigError

LETTERS = ("a", "b", "c", "d", "e")
LABELS = [0, 1, 2, 3, 4, 3, 1, 0, 4, 3]


def written(folder: Path, labels: Sequence[int] | None = LABELS, names: Sequence[str] = (), count: int = 10) -> Dataset:
    """Write samples of one number each, which is their place."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {"x": np.arange(count, dtype=np.float32)[:, None]}
    if labels is not None:
        arrays["y"] = np.array(labels)
    if names:
        arrays["classes"] = np.array(names)
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub takes allow_pickle for a key
    return open_dataset(str(folder / "data.npz"))


def content(samples: Dataset, size: int = 3, order: Sequence[int] | None = None) -> list[tuple[int, int | None]]:
    """Return (place, label) of every sample."""
    found: list[tuple[int, int | None]] = []
    for batch in samples.batches(size, order=order):
        labels = [None] * len(batch) if batch.labels is None else batch.labels.tolist()
        found += list(zip(batch.inputs[0][:, 0].astype(int).tolist(), labels, strict=True))
    return found


def test_other_classes_are_dropped_and_labels_count_from_0_in_the_order_asked(tmp_path: Path) -> None:
    cut = of_classes(written(tmp_path), Classes(kept=(3, 1)), flag="--train")
    expected = [(1, 1), (3, 0), (5, 0), (6, 1), (9, 0)]
    assert content(cut) == expected
    labels = cut.labels()
    assert labels is not None
    assert labels.tolist() == [1, 0, 0, 1, 0]
    assert content(cut, order=[4, 0, 2]) == [expected[4], expected[0], expected[2]]
    assert content(cut.subset([1, 3])) == [expected[1], expected[3]]
    assert (len(cut), cut.name, cut.shapes, cut.dtypes) == (5, "data.npz", ((1,),), ("float32",))
    cut.check_labels(2)


def test_view_of_some_samples_is_cut_too(tmp_path: Path) -> None:
    cut = of_classes(written(tmp_path).subset(slice(4, None)), Classes(kept=(3, 4)), flag="--train")
    assert content(cut) == [(4, 1), (5, 0), (8, 1), (9, 0)]
    assert cut.where(1) == "row 5 of data.npz"


def test_names_are_cut_with_the_classes(tmp_path: Path) -> None:
    samples = written(tmp_path, names=LETTERS)
    classes = choose_classes(("d", "1"), {"--train": samples})
    assert (classes.kept, classes.names, classes.highest_label) == ((3, 1), ("d", "b"), 4)
    assert of_classes(samples, classes, flag="--train").classes == ("d", "b")


def test_data_set_with_a_few_of_the_names_is_cut_by_name(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", names=LETTERS)
    few = written(tmp_path / "few", labels=[0, 1, 1, 0], names=("b", "d"), count=4)
    plain = written(tmp_path / "plain")
    classes = choose_classes(("d", "b"), {"--train": few, "--calibrate": plain, "--evaluate": whole})
    assert classes.kept == (3, 1)
    assert content(of_classes(few, classes, flag="--train")) == [(0, 1), (1, 0), (2, 0), (3, 1)]
    assert content(of_classes(plain, classes, flag="--calibrate")) == content(
        of_classes(whole, classes, flag="--evaluate")
    )
    assert of_classes(plain, classes, flag="--calibrate").classes == ("d", "b")


def test_data_without_labels_stay_whole(tmp_path: Path) -> None:
    samples = written(tmp_path, labels=None, names=LETTERS)
    cut = of_classes(samples, choose_classes(("a", "c"), {"--train": samples}), flag="--train")
    assert content(cut) == [(place, None) for place in range(10)]
    assert (cut.classes, cut.has_labels) == (("a", "c"), False)


def test_digest_tells_every_choice_and_the_samples_are_the_same(tmp_path: Path) -> None:
    samples = written(tmp_path)
    names = Classes(kept=(3, 1), all_names=LETTERS)
    choices = [Classes(kept=(3, 1)), Classes(kept=(1, 3)), Classes(kept=(3, 2)), names]
    digests = {of_classes(samples, classes, flag="--train").digest for classes in choices}
    assert len(digests | {samples.digest}) == 5
    again = of_classes(written(tmp_path / "again"), names, flag="--train")
    assert again.digest == of_classes(samples, names, flag="--train").digest
    with pytest.raises(ConfigError, match="5 samples are in both"):
        check_overlap(samples, again, names=("one", "other"))


def test_callable_is_cut_in_every_pass(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(
        "import numpy as np\npasses = []\n"
        "def fixed():\n"
        "    for start in (0, 4, 8):\n"
        "        x = np.arange(start, start + 4, dtype=np.float32)[:, None]\n"
        "        yield x, (x[:, 0] % 3).astype(int)\n"
        "def turned():\n"
        "    passes.append(1)\n"
        "    x = np.roll(np.arange(12, dtype=np.float32), len(passes))[:, None]\n"
        "    yield x, (x[:, 0] % 3).astype(int)\n"
    )
    classes = Classes(kept=(2, 0))
    cut = of_classes(open_dataset(f"{tmp_path / 'data.py'}:fixed"), classes, flag="--train")
    expected = [(place, {0: 1, 2: 0}[place % 3]) for place in range(12) if place % 3 != 1]
    assert content(cut) == content(cut) == expected
    assert content(cut, order=[7, 0]) == [expected[7], expected[0]]
    turned = of_classes(open_dataset(f"{tmp_path / 'data.py'}:turned"), classes, flag="--train")
    with pytest.raises(ConfigError, match=r"'data\.py:turned' yields its samples in another order than in its first"):
        content(turned, order=[1, 0])


@pytest.mark.parametrize(
    ("words", "names", "message"),
    [
        (("a", "f"), LETTERS, r"--classes: no class 'f'; known: a, b, c, d, e"),
        (("a", "5"), LETTERS, r"--classes 5: the data name 5 classes \(0\.\.4\)"),
        (("a", "0"), LETTERS, r"--classes: class 0 is named twice"),
        (("a", "1"), (), r"--classes: no class 'a', and the data name none"),
        (("1", "-2"), (), r"--classes: no class '-2'"),
    ],
)
def test_words_that_name_no_classes_are_told(
    tmp_path: Path, words: tuple[str, ...], names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_classes(words, {"--train": written(tmp_path, names=names)})


def test_names_that_are_numbers_are_names(tmp_path: Path) -> None:
    samples = written(tmp_path, names=("1", "10", "2", "3", "4"))
    assert choose_classes(("2", "10"), {"--train": samples}).kept == (2, 1)


def test_data_sets_that_disagree_on_names_are_told(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", names=LETTERS)
    turned = written(tmp_path / "turned", names=LETTERS[::-1])
    other = written(tmp_path / "other", labels=[0, 1], names=("a", "z"), count=2)
    with pytest.raises(ConfigError, match="class names of --train are not in the order of --evaluate"):
        choose_classes(("a", "b"), {"--evaluate": whole, "--train": turned})
    with pytest.raises(ConfigError, match="class names of --train has 'z', which --evaluate has not"):
        choose_classes(("a", "b"), {"--evaluate": whole, "--train": other})


def test_data_without_any_kept_class_and_negative_labels_are_told(tmp_path: Path) -> None:
    samples = written(tmp_path / "a", labels=[0, 1, 0], count=3)
    with pytest.raises(ConfigError, match=r"--tune: no sample of 'data\.npz' is of the classes 2, 7"):
        of_classes(samples, Classes(kept=(2, 7)), flag="--tune")
    with pytest.raises(ConfigError, match=r"--tune: row 1 of data\.npz has label -1; labels count from 0"):
        of_classes(written(tmp_path / "b", labels=[0, -1], count=2), Classes(kept=(0, 1)), flag="--tune")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (Classes(kept=(1, 4)), r"--classes 4: the network has 4 classes \(0\.\.3\)"),
        (Classes(kept=(0, 1), all_names=LETTERS), "the data name 5 classes, the network has 4; name all of them in"),
        (Classes(kept=(0, 1), highest_label=4), r"a sample has label 4, the network has 4 classes \(0\.\.3\)"),
    ],
)
def test_choice_that_does_not_fit_the_network_is_told(classes: Classes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        classes.check_count(4)
    classes.check_count(5)


def test_classes_spoken_of(tmp_path: Path) -> None:
    assert classes_spoken_of(written(tmp_path / "a")) == 5
    assert classes_spoken_of(written(tmp_path / "b", labels=[0, 1], names=LETTERS, count=2)) == 5
    assert classes_spoken_of(written(tmp_path / "c", labels=None)) == 0
