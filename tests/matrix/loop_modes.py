"""Modes that concern the loop of `generate()`, its prompts and what stands in it.

Runs are compared by their tokens and by the logits that led to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sightline
import torch
from cells import IMAGES, ROWS, STEPS, TOLERANCE, Case, Forced, Outcome, Run, differs, new_tokens, same
from modes import equal, mode
from naive_family import NAIVE, naive_tokens
from promised import CONTEXT, DETECTOR, RANKED, TEXTS
from promised import MODES as SETTINGS
from sightline.decoders.calibration import HeadRanking
from sightline.models import errors
from sightline.models.versions import CACHE
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer


def given(case: Case) -> dict[str, Any]:
    """What calibrations say, for the naive version of a decoder."""
    decoder: Any = case.decoder
    if decoder.key == "hicd":
        return {"heads": [(1, 0), (1, 3), (2, 1)]}
    ranking = HeadRanking("image", "random", 3, 4, RANKED)
    return {"heads": decoder.chosen(ranking)} if hasattr(decoder, "chosen") else {"detector": DETECTOR}


@mode(
    "greedy", "sequential branching, `sightline.generate`, naive passes where the family has them; not plain decoding"
)
def greedy(case: Case) -> Outcome:
    inputs, plain = case.inputs(), case.tried("greedy")
    same(case.both(), case.default)
    one_line = sightline.generate(
        case.model, case.decoder, inputs, **case.marked(inputs), max_new_tokens=STEPS, do_sample=False
    )
    assert new_tokens(one_line, inputs) == case.default.tokens
    if case.plain:
        same(case.default, plain)
        return equal("plain generate()")
    assert differs(case.default, plain), "this is plain decoding"
    if case.strategy not in NAIVE or case.family.sight is None:
        return equal("sequential branching")
    for row in (0, 1):
        _equals_naive(case, row)
    return equal("naive passes, sequential branching")


def _equals_naive(case: Case, row: int) -> None:
    seeds, text = ROWS[row]
    image = case.family.shown(seeds)[0] if case.family.images else None
    assert case.family.sight is not None
    sight = case.family.sight(case.model, case.processor, image, text, CONTEXT[TEXTS.index(text)])
    tokens, trail = naive_tokens(sight, case.decoder, given(case), STEPS)
    assert case.default.tokens[row] == tokens
    for step, scores in enumerate(trail):
        found = case.default.logits[step][row].double()
        if case.strategy == "code":  # known up to a constant
            found, scores = found.log_softmax(-1), scores.log_softmax(-1)
        torch.testing.assert_close(found, scores, atol=TOLERANCE, rtol=TOLERANCE)


@mode("sampling", "sequential branching with the same seed; greedy where one token is kept")
def sampling(case: Case) -> Outcome:
    case.both(**SETTINGS["sample"])
    same(case.run(do_sample=True, top_k=1), case.default)
    return equal("sequential branching; greedy at top_k 1")


@mode("beams", "sequential branching; scores of beams = their tokens forced one by one")
def beams(case: Case) -> Outcome:
    settings = SETTINGS["beams"] | {"length_penalty": 0.0, "output_scores": True}
    found = case.both(**settings)
    best = found.tokens[::2]
    path = case.run(after=[Forced(best)])
    for row, tokens in enumerate(best):
        total = sum(float(path.logits[step][row].log_softmax(-1)[token]) for step, token in enumerate(tokens))
        assert abs(total - float(found.output.sequences_scores[2 * row])) < 1e-3, (row, total)
    same(case.run(num_beams=1), case.default)
    return equal("sequential branching; scores of forced tokens")


@mode("num_return_sequences", "greedy, for each sequence, where one token is kept; sequential branching")
def return_sequences(case: Case) -> Outcome:
    case.both(num_return_sequences=2, **SETTINGS["sample"])
    found = case.run(num_return_sequences=2, do_sample=True, top_k=1)
    same(found, case.default, rows=[0, 0, 1, 1, 2, 2])
    return equal("greedy, each twice")


@mode("left-padded batch", "its rows one by one")
def padded_batch(case: Case) -> Outcome:
    for row, prompt in enumerate(ROWS):
        same(case.run(case.inputs([prompt])), case.default, rows=[row])
    return equal("its rows one by one")


@mode("several images in a prompt", "its rows one by one, sequential branching")
def several_images(case: Case) -> Outcome:
    if not case.family.images:
        return Outcome("n/a", "a text model")
    if case.family.several:
        return Outcome("n/a", case.family.several)
    rows = [((0, 1), TEXTS[1]), ((3, 2), TEXTS[0])]
    found = case.both(case.inputs(rows))
    for row, prompt in enumerate(rows):
        same(case.run(case.inputs([prompt])), found, rows=[row])
    if case.plain:
        same(found, case.bare(case.inputs(rows)))
    return equal("its rows one by one")


@mode("no image", "sequential branching, no cache")
def no_image(case: Case) -> Outcome:
    if not case.family.images:
        return Outcome("n/a", "no prompt of a text model has one")
    inputs = case.inputs([((), text) for _, text in ROWS])
    if case.strategy in IMAGES or case.name == "instructblip":
        return case.refused(errors.MissingImage, inputs)
    found = case.both(inputs)
    same(case.run(inputs, use_cache=False), found)
    if case.plain:
        same(found, case.bare(inputs))
    return equal("sequential branching, no cache")


class _Heard(BaseStreamer):
    """Keeps what a streamer is given."""

    def __init__(self) -> None:
        self.given: list[list[int]] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.given.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


@mode("streamer", "greedy, token by token")
def streamer(case: Case) -> Outcome:
    heard = _Heard()
    found = case.run(case.inputs(ROWS[:1]), streamer=heard)
    same(found, case.default, rows=[0])
    said = [tokens[0] for tokens in heard.given[1:]]
    assert said == case.default.tokens[0], said
    assert heard.ended
    return equal("greedy, token by token")


class _Stops(StoppingCriteria):
    """Stops after so many new tokens."""

    def __init__(self, count: int):
        self.count, self.seen = count, 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.seen += 1
        return torch.full((len(input_ids),), self.seen >= self.count)


@mode("stopping criteria", "the first tokens of greedy")
def stopping(case: Case) -> Outcome:
    found = case.run(stopping_criteria=[_Stops(3)])
    expected = Run([tokens[:3] for tokens in case.default.tokens], None, case.default.logits)
    same(found, expected)
    return equal("the first tokens of greedy")


class _Bans:
    """Forbids a token to each row, and keeps the scores that it was given."""

    def __init__(self, tokens: Sequence[int]):
        self.tokens, self.scores = torch.tensor(tokens), []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.scores.append(scores)
        return scores.scatter(1, self.tokens[:, None], -torch.inf)


@mode("other processors before and after", "each other; the next best token of greedy")
def processors(case: Case) -> Outcome:
    best = [tokens[0] for tokens in case.default.tokens]
    runs, bans = [], []
    for name in ("before", "after"):
        bans.append(_Bans(best))
        runs.append(case.run(**{name: [bans[-1]]}))
    same(runs[0], runs[1])
    first = case.default.logits[0].double()
    for ban in bans:
        torch.testing.assert_close(ban.scores[0].double(), first, atol=TOLERANCE, rtol=TOLERANCE)
    expected = first.scatter(1, torch.tensor(best)[:, None], -torch.inf).argmax(-1).tolist()
    if case.strategy != "cut_only":  # which may leave one token alone
        assert [tokens[0] for tokens in runs[0].tokens] == expected
    return equal("the next best token, before and after")


class _Ids:
    """Keeps the ids that processors are given."""

    def __init__(self) -> None:
        self.ids: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.ids.append(input_ids)
        return scores


@mode("repetition penalty and minimum length", "the penalty written out on contrasted logits; sequential branching")
def penalties(case: Case) -> Outcome:
    seen = _Ids()
    settings = {"repetition_penalty": 1.7, "min_new_tokens": STEPS - 1, "output_scores": True}
    found = case.both(after=[], **settings)
    again = case.run(after=[seen], **settings)
    same(again, found)
    for step, ids in enumerate(seen.ids):
        for row in range(len(ids)):
            expected = again.logits[step][row].tolist()
            for token in set(ids[row].tolist()):
                expected[token] *= 1.7 if expected[token] < 0 else 1 / 1.7
            if step < STEPS - 1:
                expected[2] = float("-inf")
            scores, expected = again.output.scores[step][row].double(), torch.tensor(expected, dtype=torch.float64)
            torch.testing.assert_close(scores[1:], expected[1:], atol=1e-3, rtol=1e-3)  # versions differ on padding
    return equal("the penalty on contrasted logits")


@mode("output_scores, output_logits", "greedy; base rows alone in every output")
def outputs(case: Case) -> Outcome:
    found = case.run(output_scores=True, output_hidden_states=True)
    same(found, case.default)
    output, rows = found.output, len(found.tokens)
    words = case.model.config.get_text_config(decoder=True).vocab_size
    for scores, logits in zip(output.scores, output.logits, strict=True):
        assert scores.shape == logits.shape == (rows, words)
    assert all(state.shape[0] == rows for step in output.hidden_states for state in step)
    assert all(layer.keys.shape[0] == rows for layer in output[CACHE].layers)
    return equal("greedy; base rows alone")
