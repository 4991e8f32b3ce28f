"""Where pictures lie: files in folders, files back to back in an `.npz`, or plain arrays in an `.npz`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeport.dataset.decode import decode_picture
from edgeport.errors import ConfigError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class Pictures(Protocol):
    """Numbered pictures that are decoded when asked for."""

    channels: int
    is_encoded: bool

    def __len__(self) -> int:
        """Return how many there are."""

    def where(self, index: int) -> str:
        """Return what to call a picture in an error."""

    def pixels(self, index: int) -> np.ndarray:
        """Return (height, width, channels) uint8 before any resizing.

        Raises:
            ConfigError: the picture is damaged; the message names it.
        """

    def digest(self) -> str:
        """Return a hash of the stored bytes, hex."""


class FolderPictures:
    """Picture files; `files` are relative to `folder`."""

    channels = 3
    is_encoded = True

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self._folder = folder
        self._files = files

    def __len__(self) -> int:
        """Return how many files there are."""
        return len(self._files)

    def where(self, index: int) -> str:
        """Return the file's name below the folder."""
        return f"picture '{self._files[index]}'"

    def pixels(self, index: int) -> np.ndarray:
        """Return (height, width, 3) uint8, RGB."""
        return decode_picture(self._read(index), self.where(index))

    def digest(self) -> str:
        """Return a hash of names and contents, hex."""
        whole = hashlib.sha256(b"folder")
        for index, file in enumerate(self._files):
            name = os.fsencode(file)
            whole.update(len(name).to_bytes(8, "little") + name + hashlib.sha256(self._read(index)).digest())
        return whole.hexdigest()

    def _read(self, index: int) -> bytes:
        try:
            return (self._folder / self._files[index]).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {self.where(index)}: {error.strerror}") from error


class JpegPictures:
    """Picture files back to back in one array: file i is `data[offsets[i]:offsets[i + 1]]`."""

    channels = 3
    is_encoded = True

    def __init__(self, path: Path, data: np.ndarray, offsets: np.ndarray) -> None:
        """Check that the offsets fit the data.

        Raises:
            ConfigError: they do not, or an array has the wrong dtype or shape.
        """
        where = path.name
        if data.dtype != np.uint8 or data.ndim != 1:
            raise ConfigError(f"{where}: jpeg is {data.dtype.name} of shape {data.shape}, needs uint8 of one dimension")
        if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or not len(offsets):
            raise ConfigError(
                f"{where}: offsets is {offsets.dtype.name} of shape {offsets.shape}, needs N+1 whole numbers"
            )
        bounds = [int(offset) for offset in offsets]
        if bounds[0] != 0 or bounds[-1] != len(data):
            raise ConfigError(f"{where}: offsets go from {bounds[0]} to {bounds[-1]}, jpeg from 0 to {len(data)}")
        for index, (start, stop) in enumerate(pairwise(bounds)):
            if stop <= start:
                raise ConfigError(f"{where}: offsets[{index + 1}] = {stop} is not above offsets[{index}] = {start}")
        self._path, self._data, self._bounds = path, data, bounds

    def __len__(self) -> int:
        """Return how many files there are."""
        return len(self._bounds) - 1

    def where(self, index: int) -> str:
        """Return the archive's name and the picture's number."""
        return f"picture {index} of {self._path.name}"

    def pixels(self, index: int) -> np.ndarray:
        """Return (height, width, 3) uint8, RGB."""
        return decode_picture(self._data[self._bounds[index] : self._bounds[index + 1]].tobytes(), self.where(index))

    def digest(self) -> str:
        """Return the archive's hash, hex."""
        return file_digest(self._path)


class ArrayPictures:
    """Decoded pictures of one size: (n, height, width) or (n, height, width, 1 or 3) uint8."""

    is_encoded = False

    def __init__(self, path: Path, images: np.ndarray) -> None:
        """Check dtype and layout.

        Raises:
            ConfigError: they are wrong.
        """
        if images.dtype != np.uint8:
            raise ConfigError(f"{path.name}: images is {images.dtype.name}, needs uint8 (float inputs are called x)")
        if images.ndim == 3:
            images = images[..., np.newaxis]
        if images.ndim != 4 or images.shape[3] not in {1, 3} or 0 in images.shape[1:]:
            raise ConfigError(f"{path.name}: images has shape {images.shape}, needs (N, height, width, 1 or 3)")
        self.channels = images.shape[3]
        self._path, self._images = path, images

    def __len__(self) -> int:
        """Return how many pictures there are."""
        return len(self._images)

    def where(self, index: int) -> str:
        """Return the archive's name and the picture's number."""
        return f"picture {index} of {self._path.name}"

    def pixels(self, index: int) -> np.ndarray:
        """Return (height, width, channels) uint8."""
        return np.ascontiguousarray(self._images[index])

    def digest(self) -> str:
        """Return the archive's hash, hex."""
        return file_digest(self._path)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hex, without holding it in memory."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}") from error


def scan_folder(folder: Path, classes: tuple[str, ...]) -> tuple[list[str], np.ndarray | None, tuple[str, ...]]:
    """Find the pictures of a folder of class folders, or of a flat folder.

    Hidden entries and files that are no pictures are passed over. Order: by class folder, then file name.

    Args:
        folder: where to look.
        classes: a recipe's names; see `Recipe.classes`.

    Returns:
        Files relative to `folder`; labels, (n,) int64, or None for a flat folder; class names.

    Raises:
        ConfigError: no pictures, a folder without any, or folder names that do not fit `classes`.
    """
    flat, folders = _entries(folder)
    if flat and any(_entries(folder / name)[0] for name in folders):
        raise ConfigError(f"folder '{folder}' holds pictures beside class folders; needs one or the other")
    if flat:
        return flat, None, classes
    numbers = _class_numbers(folders, classes, folder)
    files: list[str] = []
    labels: list[int] = []
    for name in folders:
        inside, deeper = _entries(folder / name)
        if not inside and any((folder / name).iterdir()):
            found = "folders" if deeper else "no pictures"
            raise ConfigError(
                f"class folder '{folder / name}' holds {found}; needs {', '.join(sorted(SUFFIXES))} files"
            )
        files += [f"{name}/{file}" for file in inside]
        labels += [numbers[name]] * len(inside)
    if not files:
        raise ConfigError(f"folder '{folder}' holds no pictures; needs {', '.join(sorted(SUFFIXES))} files")
    return files, np.asarray(labels, np.int64), classes or tuple(folders)


def _class_numbers(folders: list[str], classes: tuple[str, ...], folder: Path) -> dict[str, int]:
    strangers = [name for name in folders if name not in classes]
    if classes and not strangers:
        return {name: classes.index(name) for name in folders}
    if classes and (len(classes) != len(folders) or len(strangers) < len(folders)):
        raise ConfigError(
            f"folder '{folder}' has {len(folders)} class folders, one called '{strangers[0]}', which is not among the"
            f" {len(classes)} names in the recipe's classes"
        )
    return {name: number for number, name in enumerate(folders)}


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return names of the pictures and of the folders in it, each sorted."""
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        pictures = [entry.name for entry in entries if Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file()]
        return sorted(pictures), sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise ConfigError(f"cannot read folder '{folder}': {error.strerror}") from error
