"""A place to try decoders: a page on this machine where answers stream side by side. Needs the extra `play`."""

from .command import main

__all__ = ["main"]
