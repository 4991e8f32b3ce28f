"""Data recipes: a TOML file that says where samples are and how they become network inputs (`calibration/*.toml`)."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgeport.dataset.decode import Preprocess
from edgeport.errors import ConfigError, did_you_mean
from edgeport.profile import data_folder

_Pixels = Annotated[int, msgspec.Meta(ge=1, le=16384)]
_IMAGE_KEYS = ("resize", "crop", "crop_ratio", "interpolation", "mean", "std")
_SPLIT = re.compile(r"\s*(-?\d{1,18})?\s*:\s*(-?\d{1,18})?\s*(?::\s*(-?\d{1,18})?\s*)?")


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One recipe; every key but `source` is optional.

    Attributes:
        source: a folder, an `.npz` or `file.py:callable`, relative to the recipe.
        split: which samples, a Python slice: `0:512`, `2000:`, `::10`.
        resize: short side, pixels.
        crop: side of the centre crop, pixels.
        crop_ratio: instead of `resize`: centre crop of this share of the short side, then resize to `crop`.
        interpolation: `bilinear` unless said otherwise.
        mean: per channel, of values in 0..1; 0 unless said otherwise.
        std: per channel, of values in 0..1; 1 unless said otherwise.
        classes: names for the report and the bundle's labels file. Class folders that all have these names are numbered
            by this list, otherwise in sorted order.
    """

    source: str
    split: str | None = None
    resize: _Pixels | None = None
    crop: _Pixels | None = None
    crop_ratio: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()

    def image_keys(self) -> tuple[str, ...]:
        """Return the keys in use that mean something for pictures only."""
        return tuple(key for key in _IMAGE_KEYS if getattr(self, key) is not None)

    def preprocess(self) -> Preprocess:
        """Return what to do with pictures."""
        return Preprocess(
            resize=self.resize,
            crop=self.crop,
            crop_ratio=self.crop_ratio,
            interpolation=self.interpolation or "bilinear",
            mean=self.mean or (),
            std=self.std or (),
        )


def known_recipes() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.stem for path in data_folder("calibration").glob("*.toml"))


def recipe_path(name: str) -> Path:
    """Return the file of a shipped recipe."""
    return data_folder("calibration") / f"{name}.toml"


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: no such file, not TOML, an unknown or ill-typed key, or values that do not fit together.
    """
    where = f"recipe {path.name}"
    try:
        content = msgspec.toml.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"no recipe file '{path}'") from error
    except OSError as error:
        raise ConfigError(f"cannot read {where}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} is not TOML: {error}") from error
    known = list(Recipe.__struct_fields__)
    for key in content:
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'; known: {', '.join(known)}{did_you_mean(key, known)}")
    try:
        recipe = msgspec.convert(content, Recipe)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error
    _check(recipe, where)
    return recipe


def parse_split(split: str, where: str) -> slice:
    """Return the slice that `split` spells.

    Raises:
        ConfigError: it is not `start:stop` or `start:stop:step` in whole numbers, or the step is 0.
    """
    match = _SPLIT.fullmatch(split)
    if match is None:
        raise ConfigError(f"{where}: split '{split}' is not a Python slice like '0:512', '2000:' or '::10'")
    start, stop, step = (None if part is None else int(part) for part in match.groups())
    if step == 0:
        raise ConfigError(f"{where}: split '{split}' has step 0")
    return slice(start, stop, step)


def _check(recipe: Recipe, where: str) -> None:
    """Raise ConfigError when values contradict each other; the channel count is checked where it is known."""
    if not recipe.source:
        raise ConfigError(f"{where}: source is empty; name a folder, an .npz or file.py:callable")
    if recipe.split is not None:
        parse_split(recipe.split, where)
    if recipe.crop_ratio is not None:
        if recipe.resize is not None:
            raise ConfigError(f"{where}: crop_ratio and resize exclude each other; crop_ratio resizes to crop itself")
        if recipe.crop is None:
            raise ConfigError(f"{where}: crop_ratio needs crop, the side in pixels to resize to")
    if recipe.resize is not None and recipe.crop is not None and recipe.crop > recipe.resize:
        raise ConfigError(f"{where}: crop = {recipe.crop} is larger than resize = {recipe.resize}")
    for key, values in (("mean", recipe.mean), ("std", recipe.std)):
        if values is not None and (not values or not all(math.isfinite(value) for value in values)):
            raise ConfigError(f"{where}: {key} = {list(values)} needs a finite number a channel")
    for value in recipe.std or ():
        if value <= 0:
            raise ConfigError(f"{where}: std holds {value}, must be above 0")
    for name in recipe.classes:
        if recipe.classes.count(name) > 1:
            raise ConfigError(f"{where}: classes holds '{name}' twice")
