"""Images of a benchmark: paths that stay in their folder, files that do no harm, one error per bad image."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image, UnidentifiedImageError

from .errors import ImageError

MAX_PIXELS = 100_000_000
"""Larger images are taken for decompression bombs."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def locate(folder: Path, name: str) -> Path:
    """The file of that name below `folder`.

    Args:
        name: relative path with forward slashes, as data files give it.

    Raises:
        ImageError: the name is absolute, climbs with `..`, leaves the folder through a link, or names no file.
    """
    parts = PurePosixPath(name).parts
    windows = PureWindowsPath(name)
    if not parts or ".." in windows.parts or PurePosixPath(name).is_absolute() or windows.anchor or "\0" in name:
        raise ImageError(f"image name {name!r} leaves the image folder.")
    root = folder.resolve()
    path = root.joinpath(*parts).resolve()
    if not path.is_relative_to(root):
        raise ImageError(f"image {name!r} is a link out of the image folder.")
    if not path.is_file():
        raise ImageError(f"image {name!r} is not in the image folder.")
    return path


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The whole image, decoded, as RGB.

    Raises:
        ImageError: it has more than `max_pixels`, is truncated or corrupt, or no image at all.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here; other remarks of the decoder change no pixel
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise ImageError(
                        f"image {path.name!r} has {image.width} x {image.height} pixels, more than {max_pixels:,}."
                    )
                return image.convert("RGB")
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"image {path.name!r} is not an image that can be read.") from error
    except Exception as error:  # decoders raise errors of many kinds on damaged files
        raise ImageError(f"image {path.name!r} cannot be decoded ({type(error).__name__}: {error}).") from error
