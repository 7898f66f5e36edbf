"""Writes questions about facts to a folder, in the file formats of three text benchmarks.

    nq_swap.jsonl                       NQ-Swap's columns: a passage that agrees, and the same one that contradicts
    memo_trap/1-proverb-ending.csv      MemoTrap's columns: sayings that shall end in another word than usual
    truthful_qa_multiple_choice.jsonl   TruthfulQA's columns: omens with true and false answers
    world.json                          version, hash, split, counts, and the sha256 of every other file

Validation asks about every other known thing, test about the rest. Contradicting values and endings, and the fresh
subjects around them, are the split's own: no passage of it was seen in training.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..scenes.dataset import cache_folder, is_complete
from . import knowledge, language, passages, world
from .knowledge import Fact, evaluated_in, shuffled

DatasetSplit = Literal["validation", "test"]
MANIFEST = "world.json"
NQ_SWAP, TRUTHFUL_QA = "nq_swap.jsonl", "truthful_qa_multiple_choice.jsonl"
MEMO_TRAP = "memo_trap/1-proverb-ending.csv"
PASSAGES = 3
"""How many passages there are on each fact."""
SENTENCES = (3, 6)
"""How many sentences a passage has: low and high, both included."""
LAYOUT = 1
"""The version of the files; another number makes old folders stale."""


def ensure_dataset(split: DatasetSplit) -> Path:
    """The folder of a split in the cache, built if need be.

    Raises:
        ValueError: an unknown split.
        OSError: it cannot be written.
    """
    if split not in knowledge.EVALUATED:
        raise ValueError(f"facts are built for validation or test, got {split!r}")
    folder = cache_folder() / "facts" / f"v{world.VERSION}-{knowledge.world_hash()}-{LAYOUT}-{split}"
    order = {"world": "facts", "version": world.VERSION, "hash": knowledge.world_hash(), "split": split}
    if is_complete(folder, order):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(part, split, order)
        part.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError:
        if not is_complete(folder, order):  # another process may have put the same there meanwhile
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def swaps(split: DatasetSplit) -> list[dict[str, Any]]:
    """The rows of NQ-Swap: for each known fact some passages that agree, and that contradict in one sentence."""
    found = []
    for fact in knowledge.facts():
        if evaluated_in(fact.rank) == split:
            found += [_swap(fact, split, number) for number in range(PASSAGES)]
    return found


def _swap(fact: Fact, split: DatasetSplit, number: int) -> dict[str, Any]:
    rng = world.generator("swap", split, fact.subject, fact.relation.name, number)
    other = passages.contradicting(rng, split, fact)
    agrees = replace(other, value=fact.value)
    size = int(rng.randint(SENTENCES[0], SENTENCES[1] + 1))
    sentences = passages.surrounded(rng, split, agrees, size, (other.value,))
    swapped = [other if sentence is agrees else sentence for sentence in sentences]
    name = f"{fact.subject}/{fact.relation.name}"
    return {
        "id": f"{name}/{number}",
        "group": fact.subject,
        "question": language.question(fact.relation, fact.subject, passages.way_of(rng)),
        "org_context": " ".join(sentence.text for sentence in sentences),
        "org_answer": [fact.value],
        "sub_context": " ".join(sentence.text for sentence in swapped),
        "sub_answer": [other.value],
    }


def traps(split: DatasetSplit) -> list[dict[str, Any]]:
    """The rows of MemoTrap: every known saying with every other word of the split that it may be asked to end in."""
    found = []
    for saying in knowledge.sayings():
        if evaluated_in(saying.rank) != split:
            continue
        for word in knowledge.other_endings(saying)[split]:
            endings = shuffled(world.generator("trap", saying.stem, word), [f" {saying.ending}.", f" {word}."])
            asked = language.ends_in(saying.stem, word)
            right = endings.index(f" {word}.")
            found.append({"prompt": asked, "classes": repr(endings), "answer_index": right, "group": saying.stem})
    return found


def truths(split: DatasetSplit) -> list[dict[str, Any]]:
    """The rows of TruthfulQA: every known sign with what is true, what is believed, and what nobody says."""
    found = []
    for sign in knowledge.signs():
        if evaluated_in(sign.rank) != split:
            continue
        neither = [omen for omen in world.OMENS if omen not in (sign.truth, sign.belief)]
        third = knowledge.pick(world.generator("third", sign.colour, sign.animal), neither)
        true = language.brings(sign, sign.truth)
        false = [*language.brings(sign, sign.belief), *language.brings(sign, third)]
        both = [*true, *false]
        found.append(
            {
                "question": language.about_sign(sign),
                "mc1_targets": {"choices": [true[0], *false], "labels": [1] + [0] * len(false)},
                "mc2_targets": {"choices": both, "labels": [1] * len(true) + [0] * len(false)},
            }
        )
    return found


def _write(folder: Path, split: DatasetSplit, order: Mapping[str, Any]) -> None:
    rows = {NQ_SWAP: swaps(split), MEMO_TRAP: traps(split), TRUTHFUL_QA: truths(split)}
    hashes = {}
    for name, own in rows.items():
        text = _csv(own) if name.endswith(".csv") else "".join(json.dumps(row) + "\n" for row in own)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="")
        hashes[name] = hashlib.sha256(text.encode()).hexdigest()
    facts = {**order, "layout": LAYOUT, "rows": {name: len(own) for name, own in rows.items()}, "sha256": hashes}
    (folder / MANIFEST).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8", newline="\n")


def _csv(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
