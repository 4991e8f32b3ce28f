"""Read an `.npz` without unpickling and, where it is not compressed, without loading it into memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeport.errors import ConfigError

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_LOCAL_HEADER_BYTES = 30  # PKWARE APPNOTE 6.3.10, section 4.3.7: fixed part of a local file header


@dataclass(frozen=True, kw_only=True)
class Member:
    """One array of the archive, described by its header.

    Attributes:
        shape: of the array.
        dtype: of the array, in the file's byte order.
        is_fortran: whether its first axis varies fastest.
        header_bytes: length of the `.npy` header in front of the data.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    header_bytes: int


class Archive:
    """An `.npz`: headers are read at once, data when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Open the archive at `path`.

        Raises:
            ConfigError: it cannot be read, is no `.npz`, or an array in it is damaged.
        """
        self.path = path
        self.members: dict[str, Member] = {}
        with self._reading("archive"), zipfile.ZipFile(path) as archive:
            self._entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for name, info in self._entries.items():
                if info.filename.endswith(".npy"):
                    self.members[name] = self._header(archive, name)

    def array(self, name: str) -> np.ndarray:
        """Return an array: mapped from the file when stored plainly, read into memory when compressed.

        Raises:
            ConfigError: it holds Python objects, or is damaged.
        """
        member, info = self.members[name], self._entries[name]
        if member.dtype.hasobject:
            raise ConfigError(f"{self.path.name}: {name} holds Python objects (a pickle), which is refused")
        with self._reading(name):
            expected = int(np.prod(member.shape, dtype=np.int64)) * member.dtype.itemsize
            if info.file_size - member.header_bytes != expected:
                raise ConfigError(
                    f"{self.path.name}: {name} is damaged: {info.file_size - member.header_bytes} bytes,"
                    f" its header promises {expected}"
                )
            if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1 and expected:
                return self._mapped(member, info)
            with zipfile.ZipFile(self.path) as archive, archive.open(info) as stream:
                return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))

    def _mapped(self, member: Member, info: zipfile.ZipInfo) -> np.ndarray:
        with self.path.open("rb") as stream:
            stream.seek(info.header_offset)
            local = stream.read(_LOCAL_HEADER_BYTES)
        names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        return np.asarray(
            np.memmap(
                self.path,
                dtype=member.dtype,
                mode="r",
                offset=info.header_offset + _LOCAL_HEADER_BYTES + names + member.header_bytes,
                shape=member.shape,
                order="F" if member.is_fortran else "C",
            )
        )

    def _header(self, archive: zipfile.ZipFile, name: str) -> Member:
        with archive.open(self._entries[name]) as stream:
            version = np.lib.format.read_magic(stream)
            if version not in _HEADER_READERS:
                raise ConfigError(f"{self.path.name}: {name} has .npy version {version}, needs 1.0 or 2.0")
            shape, is_fortran, dtype = _HEADER_READERS[version](stream)
            return Member(shape=shape, dtype=dtype, is_fortran=is_fortran, header_bytes=stream.tell())

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn what zipfile and numpy raise on a damaged file into ConfigError."""
        try:
            yield
        except zipfile.BadZipFile as error:
            raise ConfigError(f"{self.path.name}: {name} is damaged or no .npz: {error}") from error
        except OSError as error:
            raise ConfigError(f"cannot read '{self.path}': {error.strerror or error}") from error
        except (ValueError, EOFError, RuntimeError, zlib.error) as error:
            raise ConfigError(f"{self.path.name}: {name} is damaged: {' '.join(str(error).split())}") from error
