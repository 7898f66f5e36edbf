"""Samples side by side: image, question, truth, every decoder's answer with its words marked, and why words changed."""

from .write import GalleryError, write_gallery

__all__ = ["GalleryError", "write_gallery"]
