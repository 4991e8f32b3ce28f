"""From what the user typed to a data set: a folder, an `.npz`, a `file.py:callable` or a recipe."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from edgeport.dataset.archive import Archive
from edgeport.dataset.batch import checked_classes, checked_labels
from edgeport.dataset.generator import CallableSource
from edgeport.dataset.pictures import ArrayPictures, FolderPictures, JpegPictures, Pictures, scan_folder
from edgeport.dataset.recipe import Recipe, known_recipes, load_recipe, parse_split, recipe_path
from edgeport.dataset.sources import ArraySource, PictureSource, Source
from edgeport.dataset.view import Dataset
from edgeport.errors import ConfigError, did_you_mean

_FORMS = "a folder of pictures, an .npz, file.py:callable or a recipe (.toml)"


def open_dataset(data: str) -> Dataset:
    """Open what a DATA argument names; a path goes before a shipped recipe of the same name.

    Raises:
        ConfigError: there is no such data, or it is wrong; pictures are looked at later, when they are decoded.
    """
    if not data:
        raise ConfigError(f"the data's name is empty; needs {_FORMS}")
    path = Path(data).expanduser()
    if data.endswith(".toml"):
        return _open_recipe(path)
    if _is_source(data, path):
        return Dataset(name=_short(path), source=_open_source(data, path, Recipe(source=data)))
    known = known_recipes()
    if data in known:
        return _open_recipe(recipe_path(data), name=data)
    if path.exists():
        raise ConfigError(f"cannot read data '{data}'; needs {_FORMS}")
    raise ConfigError(f"no data '{data}'; needs {_FORMS}; known recipes: {', '.join(known)}{did_you_mean(data, known)}")


def _open_recipe(path: Path, *, name: str | None = None) -> Dataset:
    recipe = load_recipe(path)
    where = f"recipe {path.name}"
    source_path = path.parent / Path(recipe.source).expanduser()
    if recipe.source.endswith(".toml"):
        raise ConfigError(f"{where}: source '{recipe.source}' is a recipe too; name the data itself")
    if not _is_source(recipe.source, source_path):
        raise ConfigError(
            f"{where}: no source '{source_path}'; needs a folder, an .npz or file.py:callable, relative to the recipe"
            " (copy a shipped recipe beside your data)"
        )
    try:
        source = _open_source(recipe.source, source_path, recipe)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    dataset = Dataset(name=name or path.name, source=source)
    if recipe.split is None:
        return dataset
    split = parse_split(recipe.split, where)
    if not len(range(len(dataset))[split]):
        raise ConfigError(f"{where}: split '{recipe.split}' leaves none of the {len(dataset)} samples")
    return dataset.subset(split)


def _is_source(data: str, path: Path) -> bool:
    """Whether it has the form of a folder, an .npz or a callable (a missing file is reported where it is opened)."""
    return ".py:" in data or data.endswith((".npz", ".py")) or path.is_dir()


def _short(path: Path) -> str:
    return path.name or path.resolve().name


def _open_source(data: str, path: Path, recipe: Recipe) -> Source:
    if data.endswith(".py"):
        raise ConfigError(f"'{data}' names no callable; write {path.name}:NAME")
    if ".py:" in data:
        folder_and_file, _, attribute = str(path).rpartition(":")
        _refuse_image_keys(recipe, data)
        file = Path(folder_and_file)
        if not file.is_file():
            raise ConfigError(f"no file '{file}'")
        return CallableSource(file, attribute, classes=recipe.classes)
    if path.is_dir():
        files, labels, classes = scan_folder(path, recipe.classes)
        return _picture_source(FolderPictures(path, files), recipe, labels, classes)
    if not path.is_file():
        raise ConfigError(f"no file '{path}'")
    return _open_archive(path, recipe)


def _open_archive(path: Path, recipe: Recipe) -> Source:
    archive = Archive(path)
    names = [name for name in archive.members if re.fullmatch(r"x\d*", name)]
    kinds = [kind for kind in ("images", "jpeg") if kind in archive.members] + (["x"] if names else [])
    if len(kinds) != 1:
        held = ", ".join(sorted(archive.members)) or "nothing"
        raise ConfigError(f"{path.name} holds {held}; needs one of x (or x0, x1, ...), images, or jpeg and offsets")
    label_name, other = ("y", "labels") if kinds == ["x"] else ("labels", "y")
    if other in archive.members:
        raise ConfigError(f"{path.name} holds {kinds[0]} and {other}; labels of {kinds[0]} are called {label_name}")
    classes = recipe.classes or _archive_classes(archive)
    if kinds == ["x"]:
        _refuse_image_keys(recipe, path.name)
        arrays = {name: archive.array(name) for name in _input_names(names, path)}
        first = next(iter(arrays.values()))
        labels = _archive_labels(archive, label_name, first.shape[0] if first.ndim else 0)
        source: Source = ArraySource(path, arrays, labels=labels, classes=classes)
    else:
        pictures = _archive_pictures(archive, kinds[0])
        labels = _archive_labels(archive, label_name, len(pictures))
        source = _picture_source(pictures, recipe, labels, classes)
    if not len(source):
        raise ConfigError(f"{path.name} holds no samples: {kinds[0]} is empty")
    checked_classes(source.labels(), classes, path.name)
    return source


def _archive_pictures(archive: Archive, kind: str) -> Pictures:
    if kind == "images":
        return ArrayPictures(archive.path, archive.array("images"))
    if "offsets" not in archive.members:
        raise ConfigError(f"{archive.path.name} holds jpeg without offsets")
    return JpegPictures(archive.path, archive.array("jpeg"), archive.array("offsets"))


def _archive_labels(archive: Archive, name: str, count: int) -> np.ndarray | None:
    if name not in archive.members:
        return None
    return checked_labels(archive.array(name), count, f"{archive.path.name}: {name}")


def _archive_classes(archive: Archive) -> tuple[str, ...]:
    if "classes" not in archive.members:
        return ()
    classes = archive.array("classes")
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise ConfigError(
            f"{archive.path.name}: classes is {classes.dtype.name} of shape {classes.shape}, needs a list of strings"
        )
    return tuple(classes.tolist())


def _input_names(names: list[str], path: Path) -> list[str]:
    """Return `x`, or `x0`, `x1`, ... in the order of the network's inputs."""
    expected = ["x"] if names == ["x"] else [f"x{number}" for number in range(len(names))]
    if sorted(names) != sorted(expected):
        raise ConfigError(f"{path.name} holds {', '.join(sorted(names))}; inputs are x alone, or x0, x1, ... in a row")
    return expected


def _picture_source(
    pictures: Pictures, recipe: Recipe, labels: np.ndarray | None, classes: tuple[str, ...]
) -> PictureSource:
    for key, values in (("mean", recipe.mean), ("std", recipe.std)):
        if values is not None and len(values) != pictures.channels:
            raise ConfigError(f"{key} has {len(values)} values, the pictures have {pictures.channels} channels")
    return PictureSource(pictures, recipe.preprocess(), labels=labels, classes=classes)


def _refuse_image_keys(recipe: Recipe, what: str) -> None:
    keys = recipe.image_keys()
    if keys:
        raise ConfigError(f"{', '.join(keys)} cannot be applied: {what} holds inputs as the network takes them")
