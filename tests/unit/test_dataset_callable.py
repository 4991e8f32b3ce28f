"""The user's own callable: passes, shapes, tensors, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeport.dataset import Dataset, generator, open_dataset
from edgeport.errors import ConfigError

SIXTEEN = """
import numpy as np
def make():
    for start in range(0, 16, 5):
        rows = np.arange(start, min(start + 5, 16))
        yield rows.astype(np.float32)[:, None] * np.ones(2, np.float32), rows % 3
"""


@pytest.fixture
def sixteen(tmp_path: Path) -> Dataset:
    """Sixteen samples in batches of 5, 5, 5, 1; sample i is (i, i), labelled i % 3."""
    return written(tmp_path, SIXTEEN)


def written(folder: Path, code: str, name: str = "make") -> Dataset:
    (folder / "data.py").write_text(code)
    return open_dataset(f"{folder / 'data.py'}:{name}")


def refused(folder: Path, code: str, name: str = "make") -> str:
    with pytest.raises(ConfigError) as caught:
        list(written(folder, code, name).batches(4))
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def numbers(dataset: Dataset, size: int, order: list[int] | None = None) -> list[list[int]]:
    return [batch.inputs[0][:, 0].astype(int).tolist() for batch in dataset.batches(size, order=order)]


def test_describes_itself_after_a_first_pass(sixteen: Dataset) -> None:
    labels = sixteen.labels()
    assert (sixteen.name, len(sixteen), sixteen.has_labels) == ("data.py:make", 16, True)
    assert (sixteen.shapes, sixteen.dtypes, sixteen.classes) == (((2,),), ("float32",), ())
    assert labels is not None
    assert labels.tolist() == [number % 3 for number in range(16)]


@pytest.mark.parametrize("size", [1, 4, 5, 7, 16, 99])
def test_batches_have_the_size_asked_for(sixteen: Dataset, size: int) -> None:
    assert numbers(sixteen, size) == [list(range(16))[start : start + size] for start in range(0, 16, size)]


def test_order_and_subset_select_rows_with_their_labels(sixteen: Dataset) -> None:
    assert numbers(sixteen, 3, [15, 2, 2, 7]) == [[15, 2, 2], [7]]
    assert numbers(sixteen.subset(slice(3, 12, 4)), 2) == [[3, 7], [11]]
    assert numbers(sixteen.subset([9, 1]), 2) == [[9, 1]]
    (batch,) = sixteen.subset([9, 1, 5]).batches(3, order=[2, 0])
    assert batch.labels is not None
    assert batch.labels.tolist() == [2, 0]


def test_split_in_a_recipe_applies(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(SIXTEEN)
    (tmp_path / "r.toml").write_text('source = "data.py:make"\nsplit = "-3:"\nclasses = ["a", "b", "c"]')
    dataset = open_dataset(str(tmp_path / "r.toml"))
    assert (numbers(dataset, 9), dataset.classes) == ([[13, 14, 15]], ("a", "b", "c"))


def test_labels_beyond_the_recipes_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(SIXTEEN)
    (tmp_path / "r.toml").write_text('source = "data.py:make"\nclasses = ["a", "b"]')
    with pytest.raises(ConfigError, match=r"sample 2 has label 2, but `classes` names 2"):
        len(open_dataset(str(tmp_path / "r.toml")))


def test_rows_hash_like_the_same_rows_in_an_archive(sixteen: Dataset, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.repeat(np.arange(16, dtype=np.float32)[:, None], 2, axis=1))
    assert sixteen.sample_digests() == open_dataset(str(tmp_path / "x.npz")).sample_digests()


def test_digest_is_of_the_content_not_of_the_code(sixteen: Dataset, tmp_path: Path) -> None:
    before = sixteen.digest
    assert written(tmp_path, SIXTEEN + "\n# a remark\n").digest == before
    assert written(tmp_path, SIXTEEN.replace("% 3", "% 4")).digest != before


def test_tensors_and_several_inputs(tmp_path: Path) -> None:
    dataset = written(
        tmp_path,
        "import torch\n"
        "def make():\n"
        "    x = torch.arange(6.0, requires_grad=True).reshape(3, 2)\n"
        "    yield [x, torch.arange(3)], torch.tensor([2, 1, 0])\n",
    )
    (batch,) = dataset.batches(9)
    assert [array.dtype.name for array in batch.inputs] == ["float32", "int64"]
    assert (dataset.shapes, dataset.dtypes) == (((2,), ()), ("float32", "int64"))
    assert batch.labels is not None
    assert batch.labels.tolist() == [2, 1, 0]


def test_a_callable_may_reuse_its_buffer(tmp_path: Path) -> None:
    dataset = written(
        tmp_path,
        "import numpy as np\n"
        "buffer = np.zeros((2, 1), np.float32)\n"
        "def make():\n"
        "    for start in range(0, 6, 2):\n"
        "        buffer[:, 0] = start, start + 1\n"
        "        yield buffer, None\n",
    )
    assert numbers(dataset, 3) == [[0, 1, 2], [3, 4, 5]]
    assert not dataset.has_labels


def test_empty_batches_count_for_nothing(tmp_path: Path) -> None:
    code = "import numpy as np\ndef make():\n    for n in (0, 2, 0, 1): yield np.zeros((n, 3), np.float32), None\n"
    assert [len(batch) for batch in written(tmp_path, code).batches(2)] == [2, 1]


AUGMENTED = """
import numpy as np
rng = np.random.default_rng(0)
def make():
    yield rng.random((4, 2), np.float32), np.arange(4)
"""


def test_a_pass_in_order_must_repeat_the_first(tmp_path: Path) -> None:
    message = refused(tmp_path, AUGMENTED)
    assert message.startswith("data.py:make yields another sample 0 than in its first pass; do not shuffle or augment")


def test_a_shuffling_callable_is_caught_by_its_labels_alone(tmp_path: Path) -> None:
    code = AUGMENTED.replace(
        "rng.random((4, 2), np.float32), np.arange(4)", "np.zeros((9, 1)).astype('f4'), rng.permutation(9)"
    )
    assert "than in its first pass" in refused(tmp_path, code)


def test_a_pass_with_an_order_may_augment(tmp_path: Path) -> None:
    dataset = written(tmp_path, AUGMENTED)
    epochs = [next(dataset.batches(4, order=[3, 2, 1, 0])) for _ in range(2)]
    assert [batch.labels.tolist() for batch in epochs if batch.labels is not None] == [[3, 2, 1, 0]] * 2
    assert not np.array_equal(epochs[0].inputs[0], epochs[1].inputs[0])


@pytest.mark.parametrize(("later", "found"), [(3, "3"), (0, "0"), (6, "more than 4")])
def test_a_pass_of_other_length_is_refused(tmp_path: Path, later: int, found: str) -> None:
    code = (
        "import numpy as np\n"
        f"lengths = iter([4] + [{later}] * 9)\n"
        "def make():\n"
        "    yield np.zeros((next(lengths), 1), np.float32), None\n"
    )
    assert f"yielded 4 samples in the first pass and {found} in another" in refused(tmp_path, code)


def test_a_later_pass_without_end_is_refused(tmp_path: Path) -> None:
    code = (
        "import itertools\nimport numpy as np\npasses = itertools.count()\n"
        "def make():\n"
        "    for _ in [0] if next(passes) == 0 else itertools.repeat(0):\n"
        "        yield np.zeros((4, 1), np.float32), None\n"
    )
    assert "yielded 4 samples in the first pass and more than 4 in another" in refused(tmp_path, code)


def test_a_subset_is_left_as_soon_as_it_is_complete(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    part = written(tmp_path, SIXTEEN.replace("        yield", "        print('batch')\n        yield")).subset([1, 6])
    capfd.readouterr()
    assert numbers(part, 2) == [[1, 6]]
    assert capfd.readouterr().err == "batch\nbatch\n"  # of four


def test_a_shuffle_too_large_for_memory_is_refused(sixteen: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "SHUFFLE_BYTES", 8 * 3)
    assert numbers(sixteen, 3, [8, 3, 1]) == [[8, 3, 1]]
    with pytest.raises(ConfigError, match=r"too much to shuffle in memory .*save it as an \.npz"):
        numbers(sixteen, 3, [8, 3, 1, 0])
    assert numbers(sixteen, 16) == [list(range(16))]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("other = 3\ndef mine(): pass", "has no 'make'; callables: mine"),
        ("def maker(): pass", "callables: maker (did you mean maker?)"),
        ("make = 3", "data.py:make is a int, needs a callable without arguments"),
        ("def make(:", "data.py:make raised SyntaxError at line 1: "),
        ("import nowhere_at_all", "raised ModuleNotFoundError at line 1: No module named 'nowhere_at_all'"),
        ("import sys\nsys.exit(3)", "data.py:make raised SystemExit at line 2: 3"),
        ("def make():\n    pass", "data.py:make returns a NoneType, needs (inputs, labels) batches"),
        ("def make(x):\n    pass", "data.py:make raised TypeError: make() missing 1 required positional argument: 'x'"),
        ("def make():\n    yield from ()", "data.py:make yields no samples"),
        (
            "def make():\n    raise OSError('disk\\n gone')\n    yield",
            "data.py:make raised OSError at line 2: disk gone",
        ),
        (
            "def inner():\n    return {}['a']\ndef make():\n    yield inner()",
            "data.py:make raised KeyError at line 2: 'a'",
        ),
    ],
)
def test_bad_code_is_refused(tmp_path: Path, code: str, expected: str) -> None:
    assert expected in refused(tmp_path, code)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("f(2, 3)", "data.py:make: batch 0 is a ndarray, needs (inputs, labels); labels may be None"),
        ("(f(2, 3),)", "batch 0 is a tuple of 1, needs (inputs, labels)"),
        ("('text', None)", "batch 0, input 0 is a str, needs a numpy array or a torch tensor"),
        ("(f(2, 3).astype('f8'), None)", "batch 0, input 0 is float64, needs float32"),
        ("(f(2, 3).astype(object), None)", "batch 0, input 0 is object; needs float32"),
        ("(torch.zeros(2, dtype=torch.bfloat16), None)", "input 0 is torch.bfloat16, needs a dense float32 tensor"),
        ("([], None)", "batch 0 has inputs of shapes [], needs (n, ...) with one n"),
        ("(f(2, 3)[0, 0], None)", "batch 0, input 0 is a float32, needs a numpy array or a torch tensor"),
        ("([f(2, 3), f(3, 3)], None)", "has inputs of shapes [(2, 3), (3, 3)], needs (n, ...) with one n"),
        ("(f(2, 3), [0.5, 1])", "batch 0: labels are float64, need integers"),
        ("(f(2, 3), [0, 1, 2])", "batch 0: labels have shape (3,), need (2,): one a sample"),
        ("(f(2, 3) * np.float32('nan'), None)", "batch 0, input 0: sample 0 holds NaN or infinity"),
    ],
)
def test_bad_batch_is_refused(tmp_path: Path, item: str, expected: str) -> None:
    torch = "import torch\n" if "torch." in item else ""
    code = f"import numpy as np\n{torch}f = lambda *shape: np.zeros(shape, np.float32)\ndef make():\n    yield {item}\n"
    assert expected in refused(tmp_path, code)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ("f(2, 4), [0, 1]", "batch 1 has samples of [((4,), 'float32')], batch 0 of [((3,), 'float32')]"),
        ("f(2, 3).astype('i4'), [0, 1]", "batch 1 has samples of [((3,), 'int32')], batch 0 of"),
        ("[f(2, 3)] * 2, [0, 1]", "batch 1 has samples of [((3,), 'float32'), ((3,), 'float32')]"),
        ("f(2, 3), None", "batch 1 and batch 0: one has labels, the other has none"),
        ("f(2, 3) + np.float32('inf'), [0, 1]", "batch 1, input 0: sample 2 holds NaN or infinity"),
    ],
)
def test_batches_that_differ_are_refused(tmp_path: Path, second: str, expected: str) -> None:
    code = (
        "import numpy as np\nf = lambda *shape: np.zeros(shape, np.float32)\n"
        f"def make():\n    yield f(2, 3), [0, 1]\n    yield {second}\n"
    )
    assert expected in refused(tmp_path, code)


def test_missing_file_or_name_is_refused(tmp_path: Path) -> None:
    for data, expected in ((f"{tmp_path}/data.py:make", "no file "), (f"{tmp_path}/data.py", "write data.py:NAME")):
        with pytest.raises(ConfigError, match=expected):
            open_dataset(data)


def test_what_the_callable_prints_stays_off_stdout(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("print('loading')\n" + SIXTEEN.replace("    for", "    print('pass')\n    for"))
    code = "import sys; from edgeport.dataset import open_dataset; print(len(open_dataset(sys.argv[1])))"
    command = [sys.executable, "-c", code, f"{tmp_path / 'data.py'}:make"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == ("16\n", "loading\npass\n")


def test_neighbours_can_be_imported_and_nothing_is_left_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_data.py").write_text("count = 2\n")
    (tmp_path / "data.py").write_text(
        "import sys\nsys.dont_write_bytecode = True\nfrom neighbour_of_data import count\n"
        "from dataclasses import dataclass\nimport numpy as np\n"
        "@dataclass\nclass Row:\n    value: 'float' = 1.0\n"
        "def make():\n    yield np.full((count, 1), Row().value, np.float32), None\n"
    )
    code = "import sys; from edgeport.dataset import open_dataset; print(len(open_dataset(sys.argv[1])))"
    command = [sys.executable, "-c", code, f"{tmp_path / 'data.py'}:make"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "2\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.py", "neighbour_of_data.py"]


def test_the_file_runs_with_its_own_future_imports(tmp_path: Path) -> None:
    code = (
        "import numpy as np\ndef make(n: int = 2):\n"
        "    yield np.zeros((make.__annotations__['n'](n), 1), np.float32), None\n"
    )
    assert len(written(tmp_path, code)) == 2
