"""Recipes: the documented keys, splits, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeport.dataset import known_recipes, load_recipe, open_dataset
from edgeport.dataset.recipe import parse_split, recipe_path
from edgeport.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ten pictures of 6x4 in `images.npz` and ten rows in `x.npz`."""
    np.savez(tmp_path / "images.npz", images=np.zeros((10, 4, 6, 3), np.uint8), labels=np.arange(10) % 3)
    np.savez(tmp_path / "x.npz", x=np.zeros((10, 2), np.float32), y=np.arange(10) % 3)
    return tmp_path


def refused(folder: Path, text: str) -> str:
    """Return the one line that opening a recipe of this text ends with."""
    (folder / "r.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        open_dataset(str(folder / "r.toml"))
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def test_every_documented_key_is_known(folder: Path) -> None:
    (folder / "all.toml").write_text(
        'source = "images.npz"\nsplit = "0:5"\nresize = 4\ncrop = 4\ninterpolation = "bicubic"\n'
        'mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\nclasses = ["a", "b", "c"]\n'
    )
    dataset = open_dataset(str(folder / "all.toml"))
    assert (dataset.name, len(dataset), dataset.shapes, dataset.classes) == (
        "all.toml",
        5,
        ((3, 4, 4),),
        ("a", "b", "c"),
    )
    (folder / "ratio.toml").write_text('source = "images.npz"\ncrop = 3\ncrop_ratio = 0.5\n')
    assert open_dataset(str(folder / "ratio.toml")).shapes == ((3, 3, 3),)


def test_source_is_relative_to_the_recipe(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep/r.toml").write_text('source = "../images.npz"')
    assert len(open_dataset(str(folder / "deep/r.toml"))) == 10


def test_split_and_classes_apply_to_arrays_too(folder: Path) -> None:
    (folder / "r.toml").write_text('source = "x.npz"\nsplit = "::4"\nclasses = ["a", "b", "c"]')
    dataset = open_dataset(str(folder / "r.toml"))
    labels = dataset.labels()
    assert labels is not None
    assert (labels.tolist(), dataset.classes) == ([0, 1, 2], ("a", "b", "c"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sizes = 3", "recipe r.toml: unknown key 'sizes'; known: source, split, resize,"),
        ("interpolate = 'nearest'", "(did you mean interpolation?)"),
        ("resize = '3'", "Expected `int | null`, got `str` - at `$.resize`"),
        ("resize = true", "got `bool` - at `$.resize`"),
        ("crop = 0", "Expected `int` >= 1 - at `$.crop`"),
        ("crop = 3\ncrop_ratio = 1.5", "Expected `float` <= 1.0 - at `$.crop_ratio`"),
        ("interpolation = 'cubic'", "Invalid enum value 'cubic' - at `$.interpolation`"),
        ("mean = 0.5", "Expected `array | null`, got `float` - at `$.mean`"),
        ("mean = [0.5, 0.5, nan]", "mean = [0.5, 0.5, nan] needs a finite number a channel"),
        ("mean = []", "mean = [] needs a finite number a channel"),
        ("mean = [0.5]", "recipe r.toml: mean has 1 values, the pictures have 3 channels"),
        ("std = [1.0, 1.0, 1.0, 1.0]", "std has 4 values, the pictures have 3 channels"),
        ("std = [0.2, 0, 0.2]", "std holds 0.0, must be above 0"),
        ("crop_ratio = 0.5", "crop_ratio needs crop"),
        ("crop = 3\ncrop_ratio = 0.5\nresize = 4", "crop_ratio and resize exclude each other"),
        ("crop = 5\nresize = 4", "crop = 5 is larger than resize = 4"),
        ("classes = ['a', 'b', 'a']", "classes holds 'a' twice"),
        ("classes = ['a', 'b']", "sample 2 has label 2, but `classes` names 2 (0..1)"),
        ("split = '0-5'", "split '0-5' is not a Python slice like '0:512'"),
        ("split = '5'", "split '5' is not a Python slice"),
        ("split = '0:5:0'", "split '0:5:0' has step 0"),
        ("split = '10:'", "split '10:' leaves none of the 10 samples"),
        ("split = 5", "Expected `str | null`, got `int` - at `$.split`"),
        ("= 3", "recipe r.toml is not TOML"),
    ],
)
def test_bad_key_is_refused(folder: Path, line: str, expected: str) -> None:
    assert expected in refused(folder, f'source = "images.npz"\n{line}')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("crop = 3", "recipe r.toml: Object missing required field `source`"),
        ('source = ""', "source is empty"),
        ('source = "other.npz"', "no file"),
        ('source = "imagenet"', "recipe r.toml: no source"),
        ('source = "r.toml"', "source 'r.toml' is a recipe too"),
        ('source = "x.npz"\nmean = [0.5]', "mean cannot be applied: x.npz holds inputs as the network takes them"),
        ('source = "x.npz"\ncrop = 2\ninterpolation = "nearest"', "crop, interpolation cannot be applied"),
        ('source = "data.py:make"\nstd = [0.5]', "std cannot be applied"),
    ],
)
def test_bad_source_is_refused(folder: Path, text: str, expected: str) -> None:
    assert expected in refused(folder, text)


def test_a_recipe_that_is_not_utf8_is_refused(folder: Path) -> None:
    (folder / "r.toml").write_bytes(b'source = "\xff"')
    with pytest.raises(ConfigError, match=r"recipe r\.toml is not TOML"):
        load_recipe(folder / "r.toml")


def test_missing_recipe_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe file"):
        open_dataset(str(tmp_path / "none.toml"))


@given(st.tuples(*[st.one_of(st.none(), st.integers(-20, 20))] * 2), st.sampled_from([None, 1, 2, 7, -1, -3]))
def test_split_reads_as_python_reads_it(bounds: tuple[int | None, int | None], step: int | None) -> None:
    start, stop = ("" if bound is None else str(bound) for bound in bounds)
    text = f"{start}:{stop}" + ("" if step is None else f":{step}")
    assert list(range(15))[parse_split(text, "it")] == list(range(15))[slice(*bounds, step)]


def test_shipped_recipes_are_known_and_valid() -> None:
    assert {"cifar10", "imagenet-224"} <= set(known_recipes())
    for name in known_recipes():
        recipe = load_recipe(recipe_path(name))
        assert not Path(recipe.source).is_absolute()
        assert recipe.mean is not None
        assert recipe.std is not None
        assert len(recipe.mean) == len(recipe.std) == 3


def test_a_shipped_recipe_without_its_data_says_where_to_put_it() -> None:
    with pytest.raises(ConfigError, match=r"^recipe imagenet-224\.toml: no source '.*imagenet'.*copy a shipped recipe"):
        open_dataset("imagenet-224")


def test_a_copied_recipe_stands_on_its_own(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(recipe_path("cifar10").read_bytes())
    np.savez(tmp_path / "cifar10.npz", images=np.zeros((2, 32, 32, 3), np.uint8), labels=np.array([0, 9]))
    dataset = open_dataset(str(tmp_path / "r.toml"))
    (batch,) = dataset.batches(2)
    expected = np.array([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    np.testing.assert_allclose(batch.inputs[0][0, :, 0, 0], expected, rtol=1e-6)
    assert dataset.classes[9] == "truck"


def test_unknown_name_suggests_a_recipe() -> None:
    with pytest.raises(
        ConfigError, match=r"no data 'cifar-10'; needs .*known recipes: cifar10, .*did you mean cifar10\?"
    ):
        open_dataset("cifar-10")


def test_a_folder_goes_before_a_recipe_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar10").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^folder 'cifar10' holds no pictures"):
        open_dataset("cifar10")
