"""From a picture file to what a network takes: decode to 8-bit RGB, resize, crop, normalise."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np

from edgeport.errors import ConfigError

_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"})


def decode_picture(data: bytes, where: str) -> np.ndarray:
    """Decode a picture file.

    As torchvision's `ImageFolder` does it: transparency is dropped, grey becomes RGB, EXIF orientation is not applied.

    Args:
        data: the file's bytes.
        where: what to call the picture in an error.

    Returns:
        (height, width, 3) uint8, RGB, read-only.

    Raises:
        ConfigError: it is damaged, no picture, or has more than 8 bits a channel.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data)) as image:
            if image.mode not in _EIGHT_BIT_MODES:
                raise ConfigError(f"{where} has pixels of mode {image.mode}, needs 8 bits a channel")
            image.load()
            rgb = image if image.mode == "RGB" else image.convert("RGB")
            return np.frombuffer(rgb.tobytes(), np.uint8).reshape(rgb.height, rgb.width, 3)
    except UnidentifiedImageError as error:
        raise ConfigError(f"{where} is no picture that Pillow can read ({len(data)} bytes)") from error
    except (
        OSError,
        SyntaxError,  # how Pillow reports a broken PNG
        ValueError,
        EOFError,
        IndexError,
        TypeError,
        MemoryError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise ConfigError(f"{where} is damaged: {' '.join(str(error).split())}") from error


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Size and value range of the pictures (the keys of a recipe, see `Recipe`).

    Attributes:
        resize: short side in pixels; the long side follows, rounded down.
        crop: side of the centre crop in pixels.
        crop_ratio: share of the short side that a centre crop takes before it is resized to `crop`.
        interpolation: Pillow's filter, antialiased: `nearest`, `bilinear`, `bicubic` or `lanczos`.
        mean: per channel, of values in 0..1; empty: 0.
        std: per channel, of values in 0..1; empty: 1.
    """

    resize: int | None = None
    crop: int | None = None
    crop_ratio: float | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def keeps_size(self) -> bool:
        """Whether `fit` returns every picture as it is."""
        return self.resize is None and self.crop is None

    def fit(self, pixels: np.ndarray, where: str) -> np.ndarray:
        """Resize and crop one picture.

        Sizes and offsets are rounded as in torchvision 0.21 `transforms/functional.py` (`Resize`, `CenterCrop`).

        Args:
            pixels: (height, width, channels) uint8, 1 or 3 channels.
            where: what to call the picture in an error.

        Returns:
            (height, width, channels) uint8, contiguous.

        Raises:
            ConfigError: it is smaller than the crop.
        """
        height, width = pixels.shape[:2]
        short = min(height, width)
        if self.crop_ratio is not None and self.crop is not None:
            pixels = _centre(pixels, max(1, round(short * self.crop_ratio)))
            return _resized(pixels, (self.crop, self.crop), self.interpolation)
        if self.resize is not None:
            long = int(self.resize * max(height, width) / short)
            size = (self.resize, long) if height <= width else (long, self.resize)
            pixels = _resized(pixels, size, self.interpolation)
        if self.crop is not None:
            if min(pixels.shape[:2]) < self.crop:
                raise ConfigError(
                    f"{where} is {width}x{height} pixels, smaller than crop = {self.crop}; set resize in a recipe"
                )
            pixels = _centre(pixels, self.crop)
        return np.ascontiguousarray(pixels)

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """Return (value / 255 - mean) / std, computed in float32 in this order, as torchvision does.

        Args:
            pixels: (n, height, width, channels) uint8.

        Returns:
            (n, channels, height, width) float32, contiguous.
        """
        n, height, width, channels = pixels.shape
        values = np.empty((n, channels, height, width), np.float32)
        values[...] = pixels.transpose(0, 3, 1, 2)
        values /= np.float32(255)
        if any(self.mean):
            values -= np.asarray(self.mean, np.float32).reshape(1, channels, 1, 1)
        if self.std:
            values /= np.asarray(self.std, np.float32).reshape(1, channels, 1, 1)
        return values


def _centre(pixels: np.ndarray, side: int) -> np.ndarray:
    top, left = (round((size - side) / 2) for size in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _resized(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Return (height, width, channels) uint8 of that (height, width)."""
    if pixels.shape[:2] == size:
        return np.ascontiguousarray(pixels)
    from PIL import Image

    channels = pixels.shape[2]
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels))
    image = image.resize((size[1], size[0]), Image.Resampling[interpolation.upper()])
    return np.frombuffer(image.tobytes(), np.uint8).reshape(*size, channels)
