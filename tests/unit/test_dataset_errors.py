"""Bad archives and folders: each ends in one line that names the file and says what is needed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeport.dataset import open_dataset
from edgeport.errors import ConfigError

IMAGES = np.zeros((4, 2, 2, 3), np.uint8)
X = np.zeros((4, 2), np.float32)
JPEG = np.zeros(8, np.uint8)
OFFSETS = np.array([0, 3, 8])


def refused(data: str | Path) -> str:
    with pytest.raises(ConfigError) as caught:
        open_dataset(str(data))
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"y": np.arange(4)}, "d.npz holds y; needs one of x (or x0, x1, ...), images, or jpeg and offsets"),
        ({"data": X}, "d.npz holds data; needs one of"),
        ({"x": X, "images": IMAGES}, "d.npz holds images, x; needs one of"),
        ({"x": X.astype(np.float64)}, "d.npz: x is float64, needs float32"),
        ({"x": X.astype(np.float16)}, "d.npz: x is float16, needs float32"),
        ({"x": np.array(["a", "b"])}, "d.npz: x is str32; needs float32 (or integers"),
        ({"x": np.float32(3)}, "d.npz: x is a single number, needs (N, ...)"),
        ({"x": X[:0]}, "d.npz holds no samples: x is empty"),
        ({"x": X, "y": np.arange(3)}, "d.npz: y have shape (3,), need (4,): one a sample"),
        ({"x": X, "y": np.zeros((4, 1), int)}, "d.npz: y have shape (4, 1), need (4,)"),
        ({"x": X, "y": np.zeros(4)}, "d.npz: y are float64, need integers (class numbers)"),
        ({"x": X, "y": np.full(4, 2**63, np.uint64)}, "y hold 9223372036854775808, too large"),
        ({"x": X, "labels": np.arange(4)}, "d.npz holds x and labels; labels of x are called y"),
        ({"x0": X, "x1": X[:3]}, "d.npz: inputs differ in length: {'x0': 4, 'x1': 3}"),
        ({"x0": X, "x2": X}, "d.npz holds x0, x2; inputs are x alone, or x0, x1, ... in a row"),
        ({"x": X, "x0": X}, "d.npz holds x, x0; inputs are x alone"),
        ({"x": X, "y": np.arange(4), "classes": np.array(["a", "b"])}, "sample 2 has label 2, but `classes` names 2"),
        ({"x": X, "classes": np.arange(4)}, "classes is int64 of shape (4,), needs a list of strings"),
        ({"images": IMAGES.astype(np.float32)}, "d.npz: images is float32, needs uint8"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, "images has shape (4, 3, 2, 2), needs (N, height, width, 1 or 3)"),
        ({"images": IMAGES[0, 0]}, "images has shape (2, 3), needs (N, height, width, 1 or 3)"),
        ({"images": IMAGES[:0]}, "d.npz holds no samples: images is empty"),
        ({"images": IMAGES, "labels": np.arange(5)}, "labels have shape (5,), need (4,)"),
        ({"images": IMAGES, "labels": np.ones(4, bool)}, "labels are bool, need integers"),
        ({"images": IMAGES, "y": np.arange(4)}, "labels of images are called labels"),
        ({"jpeg": JPEG}, "d.npz holds jpeg without offsets"),
        ({"jpeg": JPEG.astype(np.int16), "offsets": OFFSETS}, "jpeg is int16 of shape (8,), needs uint8"),
        ({"jpeg": JPEG, "offsets": OFFSETS.astype(float)}, "offsets is float64 of shape (3,), needs N+1 whole numbers"),
        ({"jpeg": JPEG, "offsets": OFFSETS[:0]}, "offsets is int64 of shape (0,), needs N+1 whole numbers"),
        ({"jpeg": JPEG, "offsets": OFFSETS + 1}, "offsets go from 1 to 9, jpeg from 0 to 8"),
        ({"jpeg": JPEG, "offsets": OFFSETS[:2]}, "offsets go from 0 to 3, jpeg from 0 to 8"),
        ({"jpeg": JPEG, "offsets": np.array([0, 5, 3, 8])}, "offsets[2] = 3 is not above offsets[1] = 5"),
        ({"jpeg": JPEG[:0], "offsets": OFFSETS[:1]}, "d.npz holds no samples: jpeg is empty"),
    ],
)
def test_bad_archive_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], expected: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]  # numpy types an option of its own beside the arrays
    assert expected in refused(tmp_path / "d.npz")


@pytest.mark.parametrize("name", ["x", "y"])
def test_pickles_are_refused_and_never_run(tmp_path: Path, name: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    trap = np.array([Trap()] * 4, object)
    np.savez(tmp_path / "d.npz", **({"x": X} | {name: trap}))
    assert refused(tmp_path / "d.npz") == f"d.npz: {name} holds Python objects (a pickle), which is refused"
    assert not (tmp_path / "ran").exists()


def test_missing_and_unreadable_data_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.npz").startswith("no file ")
    assert refused(tmp_path / "none").startswith("no data ")
    assert refused("") == (
        "the data's name is empty; needs a folder of pictures, an .npz, file.py:callable or a recipe (.toml)"
    )
    (tmp_path / "d.csv").write_text("1,2")
    assert "cannot read data" in refused(tmp_path / "d.csv")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", X)
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    assert refused(tmp_path / "d.npz") == "d.npz: archive is damaged or no .npz: File is not a zip file"


def test_a_damaged_compressed_array_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=np.random.default_rng(0).random((400, 20), np.float32))
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "d.npz").write_bytes(content)
    assert refused(tmp_path / "d.npz").startswith("d.npz: x is damaged")


def test_an_array_shorter_than_its_header_promises_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", x=X)
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(tmp_path / "d.npz", "w") as cut:
        cut.writestr("x.npy", whole.read("x.npy")[:-4])
    assert refused(tmp_path / "d.npz") == "d.npz: x is damaged: 28 bytes, its header promises 32"


@given(data=st.data(), compressed=st.booleans())
@settings(max_examples=200, deadline=None)
def test_damaged_archives_open_or_raise_config_error(
    data: st.DataObject, compressed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "d.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=X, y=np.arange(4))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) - 9, len(content)))])
    message, count = "", 0
    try:
        count = sum(len(batch) for batch in open_dataset(str(path)).batches(4))
    except ConfigError as error:
        message = str(error)
    assert bool(message) != bool(count)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], "holds no pictures; needs .bmp, .gif,"),
        (["notes.txt"], "holds no pictures; needs .bmp"),
        (["a.png", "cat/b.png"], "holds pictures beside class folders; needs one or the other"),
        (["cat/notes.txt", "dog/a.png"], "cat' holds no pictures; needs .bmp"),
        (["train/cat/a.png", "val/cat/b.png"], "train' holds folders; needs .bmp"),
    ],
)
def test_bad_folder_is_refused(tmp_path: Path, files: list[str], expected: str) -> None:
    for file in files:
        (tmp_path / "d" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / file).touch()
    (tmp_path / "d").mkdir(exist_ok=True)
    assert expected in refused(tmp_path / "d")
