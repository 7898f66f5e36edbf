"""Images of a benchmark: paths that stay in their folder, files that do no harm, one error per bad image.

What a file holds beyond one picture of 8 bits a channel is settled here: of an animation the first frame; an image that
notes its orientation is turned upright, as transformers and datasets do; grey of 16 bits is brought down to 8; what is
transparent keeps the colour that it hides.
"""

from __future__ import annotations

import hashlib
import warnings
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError

MAX_PIXELS = 100_000_000
"""Larger images are taken for decompression bombs."""
MAX_RATIO = 200
"""A side may be so many times as long as the other, the bound of Qwen-VL's own processor; others bring the shorter
side to a fixed length, and would make gigabytes of a longer strip."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def locate(folder: Path, name: str) -> Path:
    """The file of that name below `folder`.

    Args:
        name: relative path with forward slashes, as data files give it.

    Raises:
        ImageError: the name is absolute, climbs with `..`, leaves the folder through a link, or names no file (one
            that no file system takes, for instance).
    """
    parts = PurePosixPath(name).parts
    windows = PureWindowsPath(name)
    if not parts or ".." in windows.parts or PurePosixPath(name).is_absolute() or windows.anchor or "\0" in name:
        raise ImageError(f"image name {name!r} leaves the image folder.")
    root = folder.resolve()
    try:
        path = root.joinpath(*parts).resolve()
        there = path.is_file()
    except (OSError, RuntimeError, UnicodeError) as error:  # too long, a link to itself, a lone surrogate
        raise ImageError(f"image {name[:80]!r} names no file.") from error
    if not path.is_relative_to(root):
        raise ImageError(f"image {name!r} is a link out of the image folder.")
    if not there:
        raise ImageError(f"image {name!r} is not in the image folder.")
    return path


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The whole image, decoded, as RGB.

    Raises:
        ImageError: it has more than `max_pixels`, is a strip, truncated or corrupt, has pixels of no fixed range, or is
            no image at all.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here; other remarks of the decoder change no pixel
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path.name, *image.size, max_pixels)
                return _of_eight_bits(path.name, _upright(image)).convert("RGB")
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"image {path.name!r} is not an image that can be read.") from error
    except Exception as error:  # decoders raise errors of many kinds on damaged files
        raise ImageError(f"image {path.name!r} cannot be decoded ({type(error).__name__}: {error}).") from error


def _check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"image {name!r} has {width} x {height} pixels, more than {max_pixels:,}.")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ImageError(
            f"image {name!r} is a strip of {width} x {height} pixels, and no side may be {MAX_RATIO} times the other.",
            "Crop it.",
        )


def _of_eight_bits(name: str, image: Image.Image) -> Image.Image:
    """The image; grey of 16 bits as grey of 8, where Pillow's own conversion makes all but the darkest white."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        grey = Image.fromarray(((values * 255 + 32895) >> 16).astype(np.uint8))
        grey.getexif().load(image.getexif().tobytes())
        return grey
    if image.mode in ("I", "F"):
        raise ImageError(
            f"image {name!r} has pixels of 32 bits, whose range nobody knows.", "Save it with 8 or 16 bits."
        )
    return image


def _upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says it is to be seen; as it is stored where that cannot be read."""
    image.load()
    with suppress(Exception):  # damaged notes cost no image
        return ImageOps.exif_transpose(image)
    return image
