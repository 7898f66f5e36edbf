"""Images that are encoded once: a module that treats each image by itself is run on those that it has not seen yet.

Goes by content: two images are the same if all that the module is given of them is, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from ..models.attention import NAME as EDITED

GRID = "grid_thw"
"""The argument with frames, rows and columns of patches of each image, of towers that read all images in one row."""
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Piece:
    """One image as a module is given it (its tensors, without those of other images), and what came of it."""

    given: tuple[Tensor, ...]
    made: Any

    def fits(self, given: Sequence[Tensor]) -> bool:
        """Whether it was made of just this."""
        return all(torch.equal(mine, its) for mine, its in zip(self.given, given, strict=True))


@dataclass
class _Call:
    """A call taken apart: per image the tensors that are its own, and what all images have in common."""

    args: tuple
    kwargs: dict[str, Any]
    sizes: list[int]
    own: dict[int | str, Sequence[Tensor]]
    packed: bool

    def of(self, wanted: Sequence[int]) -> tuple[tuple, dict[str, Any]]:
        """The arguments for some of the images, in that order."""
        found = {name: torch.cat([pieces[place] for place in wanted]) for name, pieces in self.own.items()}
        args = tuple(found.get(place, value) for place, value in enumerate(self.args))
        return args, {name: found.get(name, value) for name, value in self.kwargs.items()}

    def given(self, place: int) -> tuple[Tensor, ...]:
        """The tensors of one image."""
        return tuple(pieces[place] for pieces in self.own.values())

    @property
    def rest(self) -> str:
        """What else was asked; another wish has another answer."""
        everything = {**dict(enumerate(self.args)), **self.kwargs}
        return repr([(name, value) for name, value in everything.items() if name not in self.own])


@dataclass
class EncodedOnce:
    """Stands for the forward of a module that treats each image by itself, and has it work out each image once.

    Without effect where attention inside is edited, and where inputs or outputs do not fall into images: then the
    module is called as it is.
    """

    module: nn.Module
    _kept: dict[Key, list[Piece]] = field(default_factory=dict)
    _latest: dict[Key, list[Piece]] = field(default_factory=dict)
    _asked: int = 0
    _run: int = 0

    def __call__(self, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The module's output for this call."""
        call = None if self._edited() or torch.is_grad_enabled() else taken_apart(args, kwargs)
        if call is None:
            return self._whole(plain, args, kwargs, 0)
        keys = _keys(call)
        known = self._known(call, keys)
        missing = [place for place, piece in enumerate(known) if isinstance(piece, int) and piece == place]
        if missing:
            part_args, part_kwargs = call.of(missing)
            everything = len(missing) == len(known)
            output = plain(*args, **kwargs) if everything else plain(*part_args, **part_kwargs)
            pieces = cut(output, [call.sizes[place] for place in missing], call.packed)
            if pieces is None:
                return output if everything else self._whole(plain, args, kwargs, len(known))
            for place, made in zip(missing, pieces, strict=True):
                known[place] = Piece(call.given(place), made)
            if everything:
                self._note(keys, [piece for piece in known if isinstance(piece, Piece)], len(missing))
                return output
        found = [known[piece] if isinstance(piece, int) else piece for piece in known]
        pieces = [piece for piece in found if isinstance(piece, Piece)]
        self._note(keys, pieces, len(missing))
        return joined([piece.made for piece in pieces])

    def counts(self) -> tuple[int, int]:
        """Images asked for since the last time, and those that were worked out."""
        found = self._asked, self._run
        self._asked = self._run = 0
        return found

    def turn(self) -> None:
        """A batch is over: what it used is kept for the next one, the rest goes."""
        self._kept, self._latest = self._latest, {}

    def forget(self) -> None:
        """Keep nothing."""
        self._kept, self._latest = {}, {}
        self.counts()

    def _edited(self) -> bool:
        return getattr(getattr(self.module, "config", None), "_attn_implementation", None) == EDITED

    def _whole(self, plain: Callable[..., Any], args: tuple, kwargs: dict[str, Any], images: int) -> Any:
        call = taken_apart(args, kwargs) if not images else None
        images = images or (len(call.sizes) if call is not None else 0)
        self._asked += images
        self._run += images
        return plain(*args, **kwargs)

    def _note(self, keys: Sequence[Key], pieces: Sequence[Piece], run: int) -> None:
        self._asked += len(pieces)
        self._run += run
        for key, piece in zip(keys, pieces, strict=True):
            entries = self._latest.setdefault(key, [])
            if not any(entry is piece for entry in entries):
                entries.append(piece)

    def _known(self, call: _Call, keys: Sequence[Key]) -> list[Piece | int]:
        """For each image what is kept of it, or the place of the first one in this call that is equal to it."""
        found: list[Piece | int] = []
        first: dict[Key, list[int]] = {}
        for place, key in enumerate(keys):
            given = call.given(place)
            kept = (*self._latest.get(key, ()), *self._kept.get(key, ()))
            piece = next((each for each in kept if each.fits(given)), None)
            if piece is None:
                same = (other for other in first.get(key, ()) if Piece(call.given(other), None).fits(given))
                number = next(same, place)
                first.setdefault(key, []).append(place)
                found.append(number)
            else:
                found.append(piece)
        return found


def _keys(call: _Call) -> list[Key]:
    """Something that is the same for equal images; images that share it are compared bit by bit."""
    sums = sums_of(next(iter(call.own.values())))
    return [(call.rest, *each, *(part.shape for part in call.given(place))) for place, each in enumerate(sums)]


def taken_apart(args: tuple, kwargs: dict[str, Any]) -> _Call | None:
    """A call image by image; None where its tensors do not fall into images.

    Towers that read all images in one row are told their grids; elsewhere images are rows of `[rows, a, b, ...]`.
    """
    everything: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
    tensors = {name: value for name, value in everything.items() if isinstance(value, Tensor)}
    if not tensors or not all(_plain(value) for name, value in everything.items() if name not in tensors):
        return None
    main = next(iter(tensors))
    grid = next((name for name in tensors if name == GRID or (name == 1 and _is_grid(tensors[1]))), None)
    if grid is not None:
        sizes = [int(size) for size in tensors[grid].prod(dim=-1).tolist()]
        if set(tensors) != {main, grid} or sum(sizes) != len(tensors[main]):
            return None
        own: dict[int | str, Sequence[Tensor]] = {main: tensors[main].split(sizes), grid: tensors[grid].split(1)}
        return _Call(args, kwargs, sizes, own, packed=True)
    rows = len(tensors[main])
    if not rows or tensors[main].dim() < 3 or any(not each.dim() or len(each) != rows for each in tensors.values()):
        return None
    return _Call(args, kwargs, [1] * rows, {name: each.split(1) for name, each in tensors.items()}, packed=False)


def _plain(value: Any) -> bool:
    """Whether `repr` tells all that there is to a value."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)


def _is_grid(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and tensor.shape[1] == 3 and not tensor.is_floating_point()


def sums_of(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Two sums over the bits of each image, exact and in any number format."""
    found = []
    for image in images:
        raw = image.detach().contiguous().view(torch.uint8).flatten()
        each = (raw.view(torch.int16) if len(raw) % 2 == 0 else raw).long()
        places = torch.arange(1, len(each) + 1, device=each.device) % 8191
        found.append(torch.stack([each.sum(), (each * places).sum()]))
    return [(plain, placed) for plain, placed in torch.stack(found).tolist()]


class _NoImages(Exception):
    """An output does not fall into images."""


def cut(output: Any, sizes: Sequence[int], packed: bool) -> list[Any] | None:
    """An output image by image; None where it cannot be cut.

    Args:
        output: tensors `[rows, ...]`, or where all images stand in one row `[patches, ...]` and `[tokens, ...]`; tuples
            and model outputs of them.
        sizes: rows, or patches, of each image.
        packed: they are patches.
    """
    try:
        return _cut(output, sizes, packed)
    except _NoImages:
        return None


def _cut(output: Any, sizes: Sequence[int], packed: bool) -> list[Any]:
    if output is None:
        return [None] * len(sizes)
    if isinstance(output, Tensor):
        whole, length = sum(sizes), output.shape[0] if output.dim() else 0
        if not length or whole % length or (not packed and length != whole):
            raise _NoImages
        merged = whole // length
        if any(size % merged for size in sizes):
            raise _NoImages
        return list(output.split([size // merged for size in sizes]))
    if isinstance(output, ModelOutput):
        fields = {name: _cut(value, sizes, packed) for name, value in output.items()}
        kind: Any = type(output)
        return [kind(**{name: pieces[place] for name, pieces in fields.items()}) for place in range(len(sizes))]
    if type(output) in (tuple, list):
        every = [_cut(value, sizes, packed) for value in output]
        return [type(output)(pieces[place] for pieces in every) for place in range(len(sizes))]
    raise _NoImages


def joined(pieces: Sequence[Any]) -> Any:
    """The output for images whose pieces these are; see `cut`."""
    first = pieces[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(pieces))
    if isinstance(first, ModelOutput):
        kind: Any = type(first)
        return kind(**{name: joined([piece[name] for piece in pieces]) for name in first})
    return type(first)(joined([piece[place] for piece in pieces]) for place in range(len(first)))
