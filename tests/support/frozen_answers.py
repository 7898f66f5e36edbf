"""Two hundred answers for each benchmark, frozen with their scores in tests/golden/frozen.

    python tests/support/frozen_answers.py answers    # the answers anew, the same bytes for the same code
    python tests/support/frozen_answers.py scores     # only where scores are meant to change: look at the difference

`{task}.jsonl.gz` holds a line for each answer with its gold, `{task}.json` the `metrics.json` that scoring them gives.
"""

import gzip
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from frozen_texts import (
    AMBER,
    COCO,
    FIRST,
    LAST,
    NO,
    NO_CAPTION,
    OBJECTS,
    ODD,
    PEOPLE,
    REFUSED,
    SAFE,
    SHORT,
    THEN,
    WRAPS,
    YES,
)
from sightline.eval.records import SampleRecord, digest
from sightline.eval.score import score_run
from sightline.eval.scoring.vocabulary import VARIANT

FOLDER = Path(__file__).parents[1] / "golden" / "frozen"
SEED = 20260301
N = 200
Line = dict[str, Any]


class Dice:
    """Draws that are the same in every version of Python: whole numbers and uniform ones only."""

    def __init__(self, task: str):
        self.random = random.Random(f"{SEED}/{task}")

    def one(self, options: Sequence[Any]) -> Any:
        return options[int(self.random.random() * len(options))]

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def some(self, options: Sequence[Any], least: int, most: int) -> list[Any]:
        left, found = list(options), []
        for _ in range(least + int(self.random.random() * (most - least + 1))):
            found.append(left.pop(int(self.random.random() * len(left))))
        return found

    def number(self, low: float, high: float, digits: int = 6) -> float:
        return round(low + (high - low) * self.random.random(), digits)


def line(dice: Dice, split: str, doc: str, image: str, output: str, label: str | None = None, **more: Any) -> Line:
    """An answer; one in forty failed."""
    failed = dice.chance(0.025)
    held = {"split": split, "doc_id": doc, "image_id": image, "label": label, "output": "" if failed else output}
    held |= {"n_output_tokens": 0 if failed else len(output.split()) + 1, "status": "error" if failed else "ok"}
    held |= {"finish": None if failed else ("length" if len(output) > 150 else "eos"), "margin": None}
    return held | more


def yes_no(dice: Dice, label: str, thing: str = "") -> tuple[str, float | None]:
    """An answer and its margin: right seven times in ten, odd once in ten; a margin that mostly goes with it."""
    thing = thing or dice.one(OBJECTS)
    said = label if dice.chance(0.75) else {"yes": "no", "no": "yes"}[label]
    text = dice.one(ODD if dice.chance(0.1) else YES if said == "yes" else NO).replace("{x}", thing)
    margin = dice.number(-1.5, 4.0) * (1 if said == "yes" else -1)
    return text, None if dice.chance(0.03) else round(margin, 6)


def asked(dice: Dice, split: str, doc: str, image: str, label: str, exact: float = 0.0, **more: Any) -> Line:
    text, margin = yes_no(dice, label)
    if dice.chance(exact):
        text = ("No", "Yes")[dice.chance(0.6 if label == "yes" else 0.3)]
    found = line(dice, split, doc, image, text, label, **more)
    return found | {"margin": None if found["status"] == "error" else margin}


def pope(dice: Dice) -> list[Line]:
    splits = ("random", "popular", "adversarial")
    found = [
        asked(dice, s, str(at), f"COCO_val2014_{at // 6:012d}", ("yes", "no")[at % 2])
        for s in splits
        for at in range(66)
    ]
    broken = {"status": "error", "output": "", "label": None, "n_output_tokens": 0, "finish": None, "margin": None}
    return found + [found[at] | broken | {"doc_id": f"line-{at}", "image_id": ""} for at in (0, 70)]


def mme(dice: Dice) -> list[Line]:
    """None failed: a pair that is not whole would leave the total without a value."""
    subtasks = ("existence", "count", "position", "color")
    found = [asked(dice, s, str(at), f"{s}/{at // 2:04d}", ("yes", "no")[at % 2]) for s in subtasks for at in range(50)]
    late = {"status": "ok", "output": "No answer came.", "n_output_tokens": 4, "finish": "eos", "margin": None}
    return [each if each["status"] == "ok" else each | late for each in found]


def amber(dice: Dice) -> list[Line]:
    parts = ("existence", "state", "number", "action", "relation")
    labels = {part: ("no",) if part == "existence" else ("yes", "no") for part in parts}
    return [
        asked(dice, part, str(1005 + at * 5 + place), f"AMBER_{at + 1}", dice.one(labels[part]), exact=0.6)
        for place, part in enumerate(parts)
        for at in range(40)
    ]


def hallusion_bench(dice: Dice) -> list[Line]:
    found = []
    for of in range(40):
        category = ("VD", "VS")[of >= 20]
        figures, questions = ((1, 2), (0, 1, 2)) if category == "VD" else ((0, 1), (0, 1))
        name = f"{category}/chart/{of}"
        for figure in figures:
            for question in questions:
                gold = {"set": name, "figure": str(figure), "question": str(question), "drawn": bool(figure or of < 20)}
                gold |= {"figure_size": len(questions), "question_size": len(figures)}
                label = ("yes", "no")[(figure + question + of) % 2]
                found.append(
                    asked(dice, category, f"chart/{of}/{figure}/{question}", f"{name}/{figure}", label, gold=gold)
                )
    return found


def said_things(dice: Dice, words: Sequence[str], there: Sequence[str]) -> str:
    """A caption that names some of what is there and some of what is not; now and then none at all."""
    if dice.chance(0.06):
        return dice.one(NO_CAPTION)
    first = dice.some(there, 1, min(3, len(there))) + (dice.some(words, 1, 2) if dice.chance(0.4) else [])
    text = f"{dice.one(FIRST)} {', '.join(first)}."
    for _ in range(8 if dice.chance(0.1) else int(dice.number(0, 2.999))):
        text += f" {dice.one(THEN)} {' and '.join(dice.some(words if dice.chance(0.3) else there, 1, 2))}."
    return text + dice.one(LAST)


def chair(dice: Dice) -> list[Line]:
    """`truth` is what the image holds; the loader puts it into the folder's truth.json."""
    found = []
    for at in range(N):
        there = dice.some(tuple(COCO), 2, 6)
        classes = sorted({COCO[word] for word in there})
        found.append(
            line(dice, "captions", str(at), f"img{at:04d}", said_things(dice, tuple(COCO), there), truth=classes)
        )
    return found


def amber_captions(dice: Dice) -> list[Line]:
    words = (*AMBER, *(word for ways in AMBER.values() for word in ways), *SAFE)
    found = []
    for at in range(N):
        truth, listed = dice.some(tuple(AMBER), 2, 5), dice.some(tuple(AMBER), 0, 3)
        there = [dice.one((word, *AMBER[word])) for word in truth]
        gold = {"truth": truth, "listed": [word for word in listed if word not in truth]}
        found.append(line(dice, "captions", str(at + 1), f"AMBER_{at + 1}", said_things(dice, words, there), gold=gold))
    return found


def text_vqa(dice: Dice) -> list[Line]:
    found = []
    for at in range(N):
        written = dice.one(tuple(SHORT))
        answers = [dice.one(SHORT[written]) if dice.chance(0.3) else written for _ in range(10)]
        text = dice.one(REFUSED) if dice.chance(0.1) else dice.one(SHORT[written])
        found.append(line(dice, "validation", str(at), f"sign{at // 3}", text, gold={"answers": answers}))
    return found


def nq_swap(dice: Dice) -> list[Line]:
    found = []
    for split, many in (("substituted", 100), ("original", 60), ("closed", 40)):
        for at in range(many):
            right, other, more = dice.some(PEOPLE, 3, 3)
            meant = right if dice.chance(0.65) else dice.one((other, more))
            wrap = dice.one(WRAPS)
            text = (
                wrap.format(meant, upper=meant.upper(), lower=meant.lower()) if dice.chance(0.9) else dice.one(REFUSED)
            )
            gold = {"answers": [right, "the"] if dice.chance(0.1) else [right], "others": [other]}
            found.append(line(dice, split, str(at), f"subject{at // 2}", text, right, gold=gold))
    return found


def scores_of(dice: Dice, many: int) -> list[float | None]:
    """Log-probabilities; now and then a tie, or one that a cut has ruled out."""
    found: list[float | None] = [dice.number(-40.0, -0.5, 3) for _ in range(many)]
    if dice.chance(0.08):
        found[0] = found[1]
    if dice.chance(0.08):
        found[int(dice.number(0, many - 0.001))] = None
    return found


def chosen(dice: Dice, split: str, doc: str, group: str, candidates: list[str], true: list[int], best: int) -> Line:
    scores = scores_of(dice, len(candidates))
    known = [-1e9 if score is None else score for score in scores]
    output = candidates[known.index(max(known))]
    gold = {"true": true, "best": best}
    more = {"candidates": candidates, "logprobs": scores, "gold": gold, "finish": "choice"}
    found = line(dice, split, doc, group, output, candidates[best].strip())
    return found | (more if found["status"] == "ok" else {"candidates": candidates, "gold": gold})


def memo_trap(dice: Dice) -> list[Line]:
    subtasks = ("proverb_ending", "proverb_translation", "hate_speech_ending", "history_of_science_qa")
    found = []
    for subtask in subtasks:
        for at in range(50):
            endings = [f" {word}" for word in dice.some(OBJECTS, 2, 3)]
            best = int(dice.number(0, len(endings) - 0.001))
            found.append(chosen(dice, subtask, str(at), f"{subtask}/{at // 2}", endings, [best], best))
    return found


def truthful_qa(dice: Dice) -> list[Line]:
    found = []
    for at in range(N):
        n_true, n_false = 1 + int(dice.number(0, 3.999)), 1 + int(dice.number(0, 4.999))
        candidates = [
            f" A {word} {place}." for place, word in enumerate(dice.some(OBJECTS, n_true + n_false, n_true + n_false))
        ]
        best = int(dice.number(0, n_true - 0.001))
        found.append(chosen(dice, "multiple_choice", str(at), f"question{at}", candidates, list(range(n_true)), best))
    return found


MAKERS: dict[str, Callable[[Dice], list[Line]]] = {
    "pope": pope,
    "chair": chair,
    "mme": mme,
    "amber": amber,
    "amber_captions": amber_captions,
    "hallusion_bench": hallusion_bench,
    "text_vqa": text_vqa,
    "nq_swap": nq_swap,
    "memo_trap": memo_trap,
    "truthful_qa": truthful_qa,
}
_SCORERS = {"nq_swap": "short_answers"}
_PARSERS = {
    "pope": "pope_official", "chair": VARIANT, "mme": "official", "amber": "amber", "amber_captions": "portable",
    "hallusion_bench": "vlmevalkit", "text_vqa": "vqa", "nq_swap": "squad", "memo_trap": "scores",
    "truthful_qa": "scores",
}  # fmt: skip
_OPTIONS = {"mme": {"subtasks": ["existence", "count", "position", "color"]}}


def packed(task: str) -> bytes:
    """The lines of a task, made anew."""
    lines = MAKERS[task](Dice(task))
    assert len(lines) == N, (task, len(lines))
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines).encode()


def frozen(task: str) -> bytes:
    """The lines of a task, as they are kept."""
    return gzip.decompress((FOLDER / f"{task}.jsonl.gz").read_bytes())


def lines(task: str) -> list[Line]:
    """The answers of a task with their gold."""
    return [json.loads(text) for text in frozen(task).decode().splitlines()]


def run_folder(task: str, folder: Path) -> Path:
    """The answers as `sightline run` leaves them: manifest, samples, and what is true of the images."""
    options, answers = _OPTIONS.get(task, {}), lines(task)
    manifest = {
        "schema": 1, "status": "complete", "identity": "frozen", "seed": 0, "limit": None, "n_samples": len(answers),
        "model": {"name": "frozen", "fingerprint": "frozen"},
        "decoder": {"key": "greedy", "kind": "control", "params": {}},
        "task": {"name": task, "version": 1, "options": options, "data": []}, "generation": {"mode": "greedy"},
        "prompt": {"name": "plain", "suffix": ""}, "margin_words": {"yes": [1], "no": [2]},
        "scorer": {"name": _SCORERS.get(task, task), "parser": _PARSERS[task]},
    }  # fmt: skip
    made_of = {"options": options, "data": []}
    if task == "chair":
        truth = {each["image_id"]: each.pop("truth") for each in answers}
        made_of |= {"variant": VARIANT, "vocabulary": "coco", "truth": truth}
    if task == "amber_captions":
        made_of |= {"words": {"associations": {word: list(ways) for word, ways in AMBER.items()}, "safe": list(SAFE)}}
    (folder / "samples").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "truth.json").write_text(json.dumps(made_of))
    with (folder / "samples" / f"{task}.jsonl").open("w", encoding="utf-8") as stream:
        for place, each in enumerate(answers):
            fixed = {"key": digest([task, place]), "task": task, "task_version": 1, "prompt": f"Question {place}?"}
            fixed |= {"n_prompt_tokens": 7, "seed": None, "error": None if each["status"] == "ok" else "frozen: failed"}
            stream.write(SampleRecord(**fixed, **each).line())
    return folder


def main(what: str) -> None:
    """Write answers, or scores."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for task in MAKERS:
        if what == "answers":
            (FOLDER / f"{task}.jsonl.gz").write_bytes(gzip.compress(packed(task), 9, mtime=0))
            continue
        with tempfile.TemporaryDirectory() as place:
            score_run(run_folder(task, Path(place) / "run"))
            held = json.loads((Path(place) / "run" / "metrics.json").read_text(encoding="utf-8"))
        (FOLDER / f"{task}.json").write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] not in (["answers"], ["scores"]):
        raise SystemExit("Say what to write: answers or scores.")
    main(sys.argv[1])
