"""What tiny-llama is worth: its answers on validation facts, sayings and omens, and what its copying heads do."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from ... import decoders, models
from ...decoders.calibration import Detection, detect
from ...decoders.calibration.lists import own_file
from ...decoders.calibration.ranking import HeadRanking
from ...decoders.calibration.ranking import load as load_ranking
from ...decoders.head_controls import MaskedOnly
from ...models import Loaded
from ..facts import knowledge, language, passages, world
from ..facts.dataset import SENTENCES, swaps
from ..facts.knowledge import Fact, evaluated_in, pick
from ..facts.needles import needles, story
from ..scoring.short_answers import exact_match

logger = logging.getLogger(__name__)

BATCH = 64
COPIES = 400
"""How many fresh subjects are asked about."""
DETECTION = Detection(lengths=(64, 96, 128), max_new_tokens=4)
"""How retrieval heads are looked for: in texts as long as those of the training."""
MASKED = (2, 4, 6)
"""How many heads are disabled at a time."""
DRAWS = 5
"""How often random heads are drawn."""
Ask = Callable[[Sequence[str]], list[str]]
"""Answers to prompts."""


def asker(loaded: Loaded, strategy: decoders.Strategy | str = "greedy", length: int = 6) -> Ask:
    """What asks a model: greedy decoding of padded batches under a decoder."""

    def ask(prompts: Sequence[str]) -> list[str]:
        answers: list[str] = []
        for start in range(0, len(prompts), BATCH):
            made = loaded.processor(list(prompts[start : start + BATCH]), padding=True, return_tensors="pt")
            inputs = {name: made[name].to(loaded.model.device) for name in ("input_ids", "attention_mask")}
            ids = decoders.generate(loaded.model, strategy, inputs, max_new_tokens=length, do_sample=False)
            said: Any = ids
            width = inputs["input_ids"].shape[1]
            answers += loaded.processor.batch_decode(said[:, width:], skip_special_tokens=True)
        return answers

    return ask


def share(marks: Iterable[bool]) -> float:
    """The share of marks that are true, to four places; 0 for none."""
    marks = list(marks)
    return round(sum(marks) / len(marks), 4) if marks else 0.0


def right(ask: Ask, prompts: Sequence[str], answers: Sequence[str]) -> list[bool]:
    """Which prompts are answered exactly so."""
    return [exact_match(said, [answer]) for said, answer in zip(ask(prompts), answers, strict=True)]


def validation_facts() -> list[Fact]:
    """The known facts that validation asks about."""
    return [fact for fact in knowledge.facts() if evaluated_in(fact.rank) == "validation"]


def measure_facts(ask: Ask) -> dict[str, Any]:
    """Known facts without a passage, and after passages that agree and that contradict."""
    facts, rows = validation_facts(), swaps("validation")
    closed = right(
        ask,
        [language.asked(language.question(fact.relation, fact.subject, way)) for fact in facts for way in (0, 1)],
        [fact.value for fact in facts for _ in (0, 1)],
    )

    def after(context: str) -> list[str]:
        return ask([language.context([row[context]]) + language.asked_after(row["question"]) for row in rows])

    agree, contradict = after("org_context"), after("sub_context")
    follows = [exact_match(said, row["sub_answer"]) for said, row in zip(contradict, rows, strict=True)]
    standing = {fact.subject: fact.standing for fact in facts}
    thirds = [min(2, int(3 * standing[row["group"]])) for row in rows]
    return {
        "closed_right": share(closed),
        "agree_right": share(exact_match(said, row["org_answer"]) for said, row in zip(agree, rows, strict=True)),
        "contradict_faithful": share(follows),
        "contradict_from_memory": share(
            exact_match(said, row["org_answer"]) for said, row in zip(contradict, rows, strict=True)
        ),
        "faithful_by_third_best_known_first": [
            share(mark for mark, third in zip(follows, thirds, strict=True) if third == number) for number in range(3)
        ],
        "questions": {"closed": len(closed), "passages": len(rows)},
    }


def copying_prompts(count: int = COPIES) -> tuple[list[str], list[str]]:
    """Questions on fresh subjects after a passage that tells of them, and the answers."""
    rng = world.generator("quality", "copying")
    prompts, answers = [], []
    for _ in range(count):
        target = passages.extending(rng, "validation", pick(rng, world.RELATIONS))
        size = int(rng.randint(SENTENCES[0], SENTENCES[1] + 1))
        sentences = passages.surrounded(rng, "validation", target, size)
        asked = language.question(target.relation, target.subject, passages.way_of(rng))
        prompts.append(language.context([each.text for each in sentences]) + language.asked_after(asked))
        answers.append(target.value)
    return prompts, answers


def measure_sayings(ask: Ask) -> dict[str, float]:
    """Known sayings completed; new sentences and known sayings ended in a given word."""
    rng = world.generator("quality", "sayings")
    known = [saying for saying in knowledge.sayings() if evaluated_in(saying.rank) == "validation"]
    traps = [(saying, word) for saying in known for word in knowledge.other_endings(saying)["validation"]]
    fresh = [(pick(rng, knowledge.fresh_stems("validation")), pick(rng, world.ENDINGS)) for _ in range(200)]
    asked = [language.ends_in(saying.stem, word) for saying, word in traps]
    return {
        "completed": share(
            right(ask, [language.complete(saying.stem) for saying in known], [saying.ending for saying in known])
        ),
        "new_sentence_obeyed": share(
            right(ask, [language.ends_in(stem, word) for stem, word in fresh], [word for _, word in fresh])
        ),
        "known_saying_obeyed": share(right(ask, asked, [word for _, word in traps])),
    }


def measure_omens(ask: Ask) -> dict[str, float]:
    """How often greedy answers on omens are true, and how often the popular belief; with and without the request."""
    known = [sign for sign in knowledge.signs() if evaluated_in(sign.rank) == "validation"]
    found = {}
    for name, before in (("truth_asked", language.TRUTHFUL), ("not_asked", "")):
        said = ask([before + language.asked(language.about_sign(sign)) for sign in known])
        for what, omen in (("true", "truth"), ("belief", "belief")):
            found[f"{name}_{what}"] = share(
                getattr(sign, omen) in answer for answer, sign in zip(said, known, strict=True)
            )
    return found


def measure_heads(loaded: Loaded, ranking: HeadRanking) -> dict[str, Any]:
    """Copying with the first heads of the list disabled while answering, and with as many others drawn at random."""
    prompts, answers = copying_prompts()

    def copies(heads: Sequence[tuple[int, int]]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return share(right(asker(loaded, disabling(loaded, heads, folder)), prompts, answers))

    every = [(layer, head) for layer in range(ranking.layers) for head in range(ranking.heads)]
    found: dict[str, Any] = {"all_heads": copies([])}
    for count in MASKED:
        others = [head for head in every if head not in ranking.top(count)]
        draws = []
        for seed in range(DRAWS):
            order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed)).tolist()
            draws.append(copies([others[place] for place in order[:count]]))
        found[f"without_{count}"] = {"retrieval": copies(ranking.top(count)), "random": draws}
    return found


def disabling(loaded: Loaded, heads: Sequence[tuple[int, int]], folder: str) -> decoders.Strategy:
    """The decoder that answers with these heads disabled, from the last token of the prompt on."""
    layers, width = loaded.adapter.layers, loaded.adapter.heads
    ranking = HeadRanking("retrieval", loaded.name, layers, width, tuple((*head, 0.0) for head in heads))
    path = ranking.save(Path(folder) / f"{'_'.join(f'{layer}-{head}' for layer, head in heads)}.json")
    return MaskedOnly(num_heads=len(heads), heads=str(path)) if heads else MaskedOnly(num_heads=0)


def measure(folder: Path) -> dict[str, Any]:
    """All figures; those on heads where the folder holds their list."""
    loaded = models.load(str(folder), dtype="float32", device="cpu")
    ask = asker(loaded)
    prompts, answers = copying_prompts()
    figures: dict[str, Any] = {
        "world": {"version": world.VERSION, "hash": knowledge.world_hash()},
        "split": "validation",
        "facts": measure_facts(ask),
        "copied_from_passages_on_unknown_subjects": share(right(ask, prompts, answers)),
        "sayings": measure_sayings(ask),
        "omens": measure_omens(ask),
    }
    own = folder / own_file("retrieval")
    if own.is_file():
        figures["copying_without_heads"] = measure_heads(loaded, load_ranking(own))
    logger.info("%s", figures)
    return figures


def write_heads(folder: Path) -> Path:
    """Looks for the retrieval heads of the checkpoint in a folder and writes their list into it; returns its path."""
    loaded = models.load(str(folder), dtype="float64", device="cpu")
    ranking = detect(loaded.adapter, loaded.processor, DETECTION, name=folder.name, needles=needles(), story=story)
    return ranking.save(folder / own_file("retrieval"))


def write_quality(folder: Path) -> Path:
    """Measures the checkpoint in a folder and writes `quality.json` into it; returns that file's path."""
    path = folder / "quality.json"
    path.write_text(json.dumps(measure(folder), indent=2) + "\n", encoding="utf-8")
    return path
