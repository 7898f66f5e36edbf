"""Nothing fails silently: parts of the engine are broken on purpose, and the self-check or a promise must notice.

Beside the faults of `tests/matrix/test_broken.py`. What must notice is named with each fault: an error of ours, or the
equality of rows, single prompts, passes without a cache, or the naive decoder.
"""

import weakref
from functools import partial

import naive
import pytest
import sightline
import torch
from naive_selection import hidden_columns
from sightline.decoders import avc, in_rows, rows, same_inputs
from sightline.decoders.vcd import noise_images
from sightline.models import adapter, attention, errors, self_check
from transformers.masking_utils import sdpa_mask

SETTINGS = {"max_new_tokens": 5, "do_sample": False}
VCD = sightline.VCD(alpha=1.0, beta=0.1, noise_step=700)
CAD = sightline.CAD(alpha=2.0)
AVC = sightline.AVC(lamb=0.3)
LANGUAGE = sightline.CausalMM(modality="language", language_layers="all")


@pytest.fixture
def unchecked(monkeypatch):
    """The self-check has not been made yet."""
    monkeypatch.setattr(self_check, "_CHECKED", weakref.WeakKeyDictionary())


def unmasked(*args, **kwargs):
    """A mask that shows everything; as if none were registered."""
    return None


def padding_seen(*args, **kwargs):
    """A mask of what comes later, without the padding."""
    return sdpa_mask(*args, **(kwargs | {"attention_mask": None}))


LAST_ROW, EDITED, KEEP = attention.last_row, attention._edited, attention.LayerState.keep


def shifted_probe(*args, **kwargs):
    """The attention of the next column."""
    return LAST_ROW(*args, **kwargs).roll(1, dims=-1)


def halved_probe(*args, **kwargs):
    return LAST_ROW(*args, **kwargs) / 2


def unmasked_probe(query, key, mask, *args, **kwargs):
    return LAST_ROW(query, key, None, *args, **kwargs)


def uncalled(module, *args, **kwargs):
    """An attention function that forgets its edits and its count."""
    return attention.sdpa_attention_forward(module, *args, **kwargs)


def deaf(module, state, *args, **kwargs):
    """One that counts and edits nothing."""
    query, key, value, mask, scaling = args
    state.reading = LAST_ROW(query, key, mask, scaling) if state.probe else None
    return attention.sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)[0]


CHECKED = {
    "a mask that shows all": ("sdpa_mask", unmasked),
    "a mask that shows padding": ("sdpa_mask", padding_seen),
    "a probe of other columns": ("last_row", shifted_probe),
    "a probe of half the attention": ("last_row", halved_probe),
    "a probe that sees padding": ("last_row", unmasked_probe),
    "an attention function that is not ours": ("attention", uncalled),
    "edits that do nothing": ("_edited", deaf),
}


@pytest.mark.parametrize("fault", CHECKED)
def test_the_self_check_finds(llava, inputs, unchecked, monkeypatch, fault):
    name, broken = CHECKED[fault]
    with monkeypatch.context() as patch:
        patch.setattr(attention, name, broken)
        with pytest.raises(errors.SelfCheckFailed):
            sightline.generate(llava, LANGUAGE, inputs((6, 4)), **SETTINGS)
    sightline.generate(llava, LANGUAGE, inputs((6, 4)), **SETTINGS)


def holds(model, decoder, batch, **settings):
    """The promises of one decoder on one batch; an error where one is broken."""
    asked = {"spans": context(batch), "suppress_tokens": [5]} | SETTINGS | settings  # no image without pixels
    together = sightline.generate(model, decoder, batch, branching="rows", **asked)
    apart = sightline.generate(model, decoder, batch, branching="sequential", **asked)
    assert together.equal(apart)
    if settings:
        return
    width = batch["input_ids"].shape[1]
    assert sightline.generate(model, decoder, batch, use_cache=False, **asked)[:, width:].equal(together[:, width:])
    for row, expected in enumerate(together[:, width:].tolist()):
        own = sightline.generate(model, decoder, one := naive.single(batch, row), **(asked | {"spans": context(one)}))
        own = own[0, one["input_ids"].shape[1] :].tolist()
        assert own == expected[: len(own)]


def holds_naively(model, batch):
    """VCD against the naive decoder, which shares no code with the engine."""
    pixels = noise_images(batch["pixel_values"], VCD.noise_step, VCD.noise_schedule, VCD.seed)
    expected, _ = naive.decode(model, batch, pixels, VCD.alpha, VCD.beta, SETTINGS["max_new_tokens"])
    told = sightline.generate(model, VCD, batch, **SETTINGS)[:, batch["input_ids"].shape[1] :].tolist()
    assert [row[: len(new)] for row, new in zip(told, expected, strict=True)] == expected


def context(batch):
    marked = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    marked[:, -3:-1] = True
    return marked


@torch.no_grad()
def without_context_naively(model, batch):
    """CAD, one row at a time: two forwards over everything, the second one without the context."""
    marked, pixels = context(batch), batch["pixel_values"]
    for row, told in enumerate(sightline.generate(model, CAD, batch, spans=marked, suppress_tokens=[5], **SETTINGS)):
        seen = batch["attention_mask"][row].bool()
        prompts, new = (batch["input_ids"][row, seen], batch["input_ids"][row, seen & ~marked[row]]), []
        while len(new) < SETTINGS["max_new_tokens"] and 2 not in new:
            base, without = (
                model(
                    input_ids=torch.cat([prompt, torch.tensor(new, dtype=torch.long)])[None],
                    pixel_values=pixels[row : row + 1], use_cache=False,
                ).logits[0, -1].tolist()
                for prompt in prompts
            )  # fmt: skip
            scores = torch.tensor(naive.vcd_scores(base, without, CAD.alpha, CAD.beta))
            scores[5] = -torch.inf
            new.append(int(scores.argmax()))
        assert told[batch["input_ids"].shape[1] :].tolist()[: len(new)] == new


@torch.no_grad()
def blind_naively(model, batch):
    """The columns that AVC hides, from full maps of eager attention, one row at a time."""
    hidden = []
    with pytest.MonkeyPatch.context() as patch:
        real = avc.seen_alone
        patch.setattr(avc, "seen_alone", lambda *given: hidden.append(given[2]) or real(*given))
        sightline.generate(model, AVC, batch, **SETTINGS)
    for row, found in enumerate(hidden[0]):
        one, padding = naive.single(batch, row), batch["input_ids"].shape[1] - int(batch["attention_mask"][row].sum())
        model.set_attn_implementation("eager")
        maps = model(**one, use_cache=False, output_attentions=True).attentions
        model.set_attn_implementation("sdpa")
        columns = [place for place, token in enumerate(one["input_ids"][0].tolist()) if token == 5]
        expected = hidden_columns(maps, columns, AVC.gamma, AVC.lamb)
        assert [place - padding for place in found.nonzero().flatten().tolist()] == expected


def standing(mask):
    """Positions that stand still. (Those that are all too large by a number are no fault: only distances count.)"""
    return torch.zeros_like(mask, dtype=torch.long)


def doubled(mask):
    """Positions that go on by two."""
    return 2 * (mask.long().cumsum(dim=1) - 1).clamp(min=0)


OVERLAY, OF_CALL, IMAGE, SELECT = rows.overlay, rows.repeat_call, adapter.Adapter.image_mask, rows.select_cache_rows
LOGITS, PAD = in_rows.RowsRunner.logits, rows.pad_left


def swapped_rows(base, prompt, past):
    """A branch whose rows have each other's images."""
    return OVERLAY(base, prompt.flip(0), past)


def late_overlay(base, prompt, past):
    """A branch that reads its prompt one column too far."""
    return OVERLAY(base, prompt.roll(1, dims=1), past)


def swapped_streams(self, output, count):
    """Base and branch taken for each other."""
    return LOGITS(self, output, count)[::-1]


def interleaved(self, output, count):
    """Rows taken apart as if streams alternated."""
    streams = LOGITS(self, output, count)
    joined = torch.cat(streams)
    return tuple(joined[place :: len(streams)] for place in range(len(streams)))


def padded_right(streams, width):
    def padded(stream):
        zeros = stream.new_zeros(stream.shape[0], width - stream.shape[1], *stream.shape[2:])
        return torch.cat([stream, zeros], dim=1)

    return torch.cat([padded(stream) for stream in streams])


def image_later(self, ids):
    """An image span that begins one column late."""
    return IMAGE(self, ids).roll(1, dims=-1)


def own_rows_only(reorder, streams):
    """Beam search's reorder that gives every stream the base's order without its offset."""
    return lambda beam_idx: reorder(beam_idx.repeat(streams))


def unordered(reorder, streams):
    return lambda beam_idx: None


def whole_prompt(self, rows, generated):
    return torch.ones(rows, self.mask.shape[1] + generated, dtype=torch.long)


BROKEN = {
    "branch rows have each other's images": (holds_naively, "sightline.decoders.runner.overlay", swapped_rows),
    "a branch reads its prompt a column late": (holds_naively, "sightline.decoders.runner.overlay", late_overlay),
    "base and branch are swapped": (VCD, "sightline.decoders.in_rows.RowsRunner.logits", swapped_streams),
    "rows are taken apart in another order": (VCD, "sightline.decoders.in_rows.RowsRunner.logits", interleaved),
    "shorter branches are padded on the right": (CAD, "sightline.decoders.in_rows.pad_left", padded_right),
    "a branch's positions stand still": (
        without_context_naively, "sightline.decoders.runner.positions_of", standing,
    ),
    "a branch's positions go on by two": (
        without_context_naively, "sightline.decoders.runner.positions_of", doubled,
    ),
    "a branch sees the padding": (CAD, "sightline.decoders.runner.Stream.grown_mask", whole_prompt),
    "the probe reads another column": (blind_naively, "sightline.models.attention.last_row", shifted_probe),
    "the image span begins a column late": (blind_naively, "sightline.models.adapter.Adapter.image_mask", image_later),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_promise_finds(llava, inputs, monkeypatch, fault):
    promise, where, broken = BROKEN[fault]
    held = promise if callable(promise) else partial(holds, decoder=promise)
    batch = inputs((9, 6, 7), seed=3)
    held(llava, batch=batch)
    monkeypatch.setattr(where, broken)
    with pytest.raises((AssertionError, RuntimeError, errors.SightlineError)):
        held(llava, batch=batch)


@pytest.mark.parametrize("broken", [own_rows_only, unordered])
def test_beams_find_rows_in_another_order(llava, inputs, monkeypatch, broken):
    batch = inputs((9, 6, 7))
    holds(llava, VCD, batch, num_beams=3)
    monkeypatch.setattr(in_rows, "reordering", broken)
    with pytest.raises((AssertionError, RuntimeError)):
        holds(llava, VCD, batch, num_beams=3)


def test_other_images_are_found_by_their_bits(llava, inputs, monkeypatch):
    """The test of this guard is worth something: without it, other images go through."""
    batch = inputs((6,))
    other = batch | {"pixel_values": batch["pixel_values"] + 1}
    for expected in (pytest.raises(errors.InputsMismatch), monkeypatch.context()):
        with expected as patch:
            if isinstance(patch, pytest.MonkeyPatch):
                patch.setattr(same_inputs, "digests", lambda pixels: set())
            with sightline.attach(llava, VCD, batch) as processor:
                llava.generate(**other, logits_processor=[processor], **SETTINGS)
