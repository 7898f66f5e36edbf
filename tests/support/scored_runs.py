"""Run folders as `run` and `score` write them, made in an instant: POPE, CHAIR and MME on scenes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sightline.eval.scenes.world import KINDS
from sightline.eval.score import score_run
from sightline.eval.scoring.pope import score_pope
from sightline.eval.scoring.vocabulary import VARIANT
from sightline.eval.tasks import registry

SPLITS = {"random": 0.6, "popular": 1.0, "adversarial": 1.9}
GREEDY, SAMPLE = {"mode": "greedy", "max_new_tokens": 1}, {"mode": "sample", "temperature": 1.0, "max_new_tokens": 1}


MME_TASKS = ("existence", "count", "position", "color")
PARSERS = {"pope": "pope_official", "mme": "official", "chair": VARIANT}


def question(text: str) -> str:
    """The prompt of a question."""
    return f"USER: <image>\n{text} ASSISTANT:"


def manifest(
    key: str,
    control: bool,
    generation: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    seed: int = 0,
    n: int = 0,
    task: str = "pope_scenes",
    **changes: Any,
) -> dict[str, Any]:
    """A manifest with everything that scoring, comparing and reporting read."""
    scorer = task.partition("_")[0]
    options = {"split": "test", "images": 500}
    return {
        "schema": 1, "status": "complete", "identity": f"{seed:04x}c0ffee", "started": "2026-11-02T10:00:00+00:00",
        "command": ["sightline", "run", f"decoder={key}"], "model": {"name": "tiny-llava", "fingerprint": "9f2c41d7"},
        "decoder": {"key": key, "params": dict(params), "kind": "control" if control else "strategy"},
        "task": {"name": task, "version": 1, "options": options, "data": [{"file": "a.json", "sha256": "5a1e" * 16}],
                 "world": {"version": 1, "hash": "77aa01"}},
        "prompt": {"name": "plain", "suffix": "", "template_sha256": "ab" * 32}, "generation": dict(generation),
        "scorer": {"name": scorer, "parser": PARSERS[scorer]}, "margin_words": {"yes": [1], "no": [2]},
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"}, "sightline": "0.1.0", "seed": seed, "limit": None,
        "n_samples": n,
    } | changes  # fmt: skip


def record(
    split: str, doc: str, image: str, prompt: str, label: str | None, output: str, **more: Any
) -> dict[str, Any]:
    """One sample line."""
    return {
        "key": f"{split}-{doc}", "task": "scenes", "task_version": 1, "split": split, "doc_id": doc, "image_id": image,
        "prompt": prompt, "label": label, "output": output, "n_prompt_tokens": 30,
        "n_output_tokens": len(output.split()) + 1, "finish": "eos", "margin": None, "seed": None, "status": "ok",
        "error": None,
    } | more  # fmt: skip


def write_run(folder: Path, told: Mapping[str, Any], lines: Iterable[Mapping[str, Any]], slow: float = 1.0) -> Path:
    """A run folder without scores."""
    held = list(lines)
    (folder / "samples").mkdir(parents=True)
    (folder / "timings").mkdir()
    text = "".join(json.dumps(line) + "\n" for line in held)
    (folder / "samples" / f"{told['task']['name']}.jsonl").write_text(text)
    (folder / "manifest.json").write_text(json.dumps({**told, "n_samples": len(held)}))
    timing = {"schema": 1, "forwards_per_token": 1.0, "rows_per_token": slow, "beside_greedy": {"ratio": slow}}
    (folder / "timings" / "summary.json").write_text(json.dumps(timing))
    return folder


def yes_no_run(
    folder: Path,
    key: str,
    answers: Mapping[tuple[str, str, str], tuple[str, str]],
    *,
    task: str = "pope_scenes",
    control: bool = True,
    generation: Mapping[str, Any] = GREEDY,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A run of given answers, not scored.

    Args:
        answers: (split, image, question) -> (label, answer).
        changes: overwrite parts of the manifest.
    """
    told = manifest(key, control, generation, params or {}, seed=seed, task=task, **changes)
    lines = [
        record(split, str(place), image, question(text), label, answer)
        for place, ((split, image, text), (label, answer)) in enumerate(answers.items())
    ]
    return write_run(folder, told, lines, 1.0 if control else 1.6)


def caption_run(
    folder: Path,
    key: str,
    captions: Sequence[str],
    truth: Sequence[Sequence[str]],
    *,
    control: bool = True,
    generation: Mapping[str, Any] = GREEDY,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A run of given captions, one an image, not scored; what is true of the images lies beside them."""
    told = manifest(key, control, generation, {}, seed=seed, task="chair_scenes", **changes)
    prompt = question("Please describe this image in detail.")
    lines = [record("captions", str(at), f"scene{at:04d}", prompt, None, text) for at, text in enumerate(captions)]
    write_run(folder, told, lines, 1.0 if control else 1.6)
    made_of = {"variant": VARIANT, "vocabulary": registry.get("chair_scenes").vocabulary.name}
    made_of |= {"options": told["task"]["options"], "data": told["task"]["data"]}
    held = {f"scene{at:04d}": list(classes) for at, classes in enumerate(truth)}
    (folder / "truth.json").write_text(json.dumps(made_of | {"truth": held}))
    return folder


def caption_world(images: int, honesty: float, length: int = 6, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Captions of `length` things each, in any order, and the truth: three kinds an image.

    Args:
        images: number of images.
        honesty: chance that a thing that is not there is left out; 1 = nothing is made up.
        length: things that a caption looks at.
        seed: of the captions; the truth does not depend on it.
    """
    truth = [[KINDS[(at + step) % 12] for step in (0, 3, 7)] for at in range(images)]
    random = np.random.default_rng([seed, images])
    captions = []
    for at, there in enumerate(truth):
        seen = [*there, *(KINDS[(at + step) % 12] for step in (1, 5, 8))]
        seen = [seen[place] for place in random.permutation(6)[:length]]
        said = [kind for kind in seen if kind in there or random.random() > honesty]
        captions.append("There is " + ", ".join(f"a {kind}" for kind in said) + " in the image.")
    return captions, truth


def mme_answers(images: int, skill: Mapping[str, float], seed: int = 0) -> dict[tuple[str, str, str], tuple[str, str]]:
    """Two questions an image in each subtask, answered rightly with the subtask's chance."""
    random = np.random.default_rng([seed, images])
    found = {}
    for subtask, chance in skill.items():
        for image in range(images):
            for label in ("yes", "no"):
                right = random.random() < chance
                answer = label if right else {"yes": "no", "no": "yes"}[label]
                found[subtask, f"scene{image:04d}", f"Is {subtask} {label}?"] = (label, answer.capitalize())
    return found


def margins(images: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Yes-no margins `[images, 6]` per split: three positives, three negatives that lean to yes."""
    random = np.random.default_rng(seed)
    truth = np.array([1.0, -1.0] * 3)
    base = random.normal(0.0, 0.5, (images, 1))
    return {
        split: np.where(truth > 0, 2.2, -2.2 + lean) + base + random.normal(0.0, 1.4, (images, 6))
        for split, lean in SPLITS.items()
    }


def records(scores: Mapping[str, np.ndarray], sampled: bool, seed: int) -> list[dict[str, Any]]:
    """Sample lines of one run."""
    random = np.random.default_rng(seed)
    lines = []
    for split, values in scores.items():
        chance = 1 / (1 + np.exp(-1.6 * values))
        says_yes = random.random(values.shape) < chance if sampled else values > 0
        for place in np.ndindex(*values.shape):
            doc = str(place[0] * 6 + place[1])
            lines.append({
                "key": f"{split}-{doc}-{seed}", "task": "pope_scenes", "task_version": 1, "split": split,
                "doc_id": doc, "image_id": f"scene{place[0]:04d}",
                "prompt": question(f"Is there a {KINDS[place[1]]} for {split}?"),
                "label": "no" if place[1] % 2 else "yes", "output": "Yes" if says_yes[place] else "No",
                "n_prompt_tokens": 30, "n_output_tokens": 2, "finish": "eos",
                "margin": round(float(values[place]), 6), "seed": None, "status": "ok", "error": None,
            })  # fmt: skip
    return lines


def table(row: Mapping[str, Any], auc: bool = True) -> dict[str, Any]:
    """One table of `metrics.json` from one row of the scorer."""
    n, found = row.get("n", 0), {}
    for key in ("accuracy", "f1", "precision", "recall", "yes_ratio", "unparsed_rate"):
        value = row[key]
        found[key] = {"value": value, "low": max(0.0, value - 0.012), "high": min(1.0, value + 0.012), "n": n}
    if auc and row["auc"] is not None:
        found["auc"] = {"value": row["auc"], "low": row["auc"] - 0.008, "high": row["auc"] + 0.008, "n": n}
    else:
        found["auc"] = {"value": None, "reason": "no record carries a margin"}
    found["output_tokens"] = {"value": row["mean_output_tokens"], "low": 2.0, "high": 2.0, "n": n}
    return found


def make_run(
    root: Path,
    name: str,
    key: str,
    scores: Mapping[str, np.ndarray],
    *,
    control: bool = False,
    generation: Mapping[str, Any] = GREEDY,
    params: Mapping[str, Any] | None = None,
    seed: int = 1,
    **changes: Any,
) -> Path:
    """A scored run folder; `changes` overwrite fields of its metrics."""
    folder = root / name
    (folder / "samples").mkdir(parents=True)
    (folder / "timings").mkdir()
    lines = records(scores, generation["mode"] == "sample", seed)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "samples" / "pope_scenes.jsonl").write_text(text)
    score, strict = score_pope(lines), score_pope(lines, parser="lmms_eval")
    rows = {**score["splits"], "mean": {**score["mean_of_splits"], "n": len(lines)}, "pooled": score["pooled"]}
    metrics = {
        "schema": 1, "task": "pope_scenes", "task_version": 1, "parser": "pope_official", "model": "tiny-llava",
        "decoder": {"key": key, "kind": "control" if control else "strategy", "params": dict(params or {})},
        "generation": dict(generation), "n": len(lines), "n_ok": len(lines), "n_error": 0,
        "n_images": len(next(iter(scores.values()))), "partial": False,
        "tables": {split: table(row) for split, row in rows.items()},
        "parsers": {"lmms_eval": {"pooled": {k: strict["pooled"][k] for k in ("accuracy", "f1", "yes_ratio")}}},
        "notes": [],
    }  # fmt: skip
    metrics.update(changes)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    told = manifest(key, control, generation, params or {}, seed=seed, n=len(lines))
    (folder / "manifest.json").write_text(json.dumps(told))
    slow = 1.0 if control else 1.62
    timing = {
        "schema": 1, "samples": len(lines), "forwards_per_token": 1.0, "rows_per_token": 1.0 if control else 2.0,
        "beside_greedy": {"requests": 64, "ratio": slow},
    }  # fmt: skip
    (folder / "timings" / "summary.json").write_text(json.dumps(timing))
    return folder


def moved(scores: Mapping[str, np.ndarray], shift: float = 0.0, sharper: float = 0.0) -> dict[str, np.ndarray]:
    """Margins after a constant shift, and after grounding: pulled towards the truth."""
    truth = np.array([1.0, -1.0] * 3)
    return {split: values + shift + sharper * truth for split, values in scores.items()}


def seven(root: Path, images: int = 60, vcd: Mapping[str, float] | None = None, shift: float = -0.5) -> Path:
    """Greedy, sampling, cut only, two shifts and VCD in two modes."""
    base = margins(images)
    noisy = {split: values + np.random.default_rng(5).normal(0, 0.3, values.shape) for split, values in base.items()}
    altered = moved(noisy, **(vcd or {"shift": 0.2}))
    make_run(root, "greedy", "greedy", base, control=True)
    make_run(root, "sample", "sample", base, control=True, generation=SAMPLE, seed=2)
    cut = {split: values * 1.3 for split, values in base.items()}
    make_run(root, "cut", "cut_only", cut, control=True, generation=SAMPLE, params={"beta": 0.1}, seed=3)
    params = {"delta": shift}
    make_run(root, "shift-greedy", "shift", moved(base, shift), control=True, params=params)
    make_run(root, "shift-sample", "shift", moved(base, shift), control=True, params=params, generation=SAMPLE, seed=4)
    params = {"alpha": 1.0, "beta": 0.1, "noise_step": 500}
    make_run(root, "vcd-greedy", "vcd", altered, params=params)
    make_run(root, "vcd-sample", "vcd", altered, params=params, generation=SAMPLE, seed=6)
    return root


def three_tasks(root: Path, images: int = 60) -> Path:
    """POPE, CHAIR and MME on one model, each with greedy, a control and a strategy; CHAIR and MME really scored."""
    seven(root / "pope", images, vcd={"sharper": 1.0})
    for name, honesty, length, control in (("greedy", 0.8, 6, True), ("random_heads", 0.8, 6, True),
                                           ("vcd", 0.95, 6, False), ("short", 0.8, 4, False)):  # fmt: skip
        captions, truth = caption_world(images, honesty, length, seed=len(name))
        folder = caption_run(root / "chair" / name, name, captions, truth, control=control)
        score_run(folder, like=None if name == "greedy" else root / "chair" / "greedy")
    skills = {"greedy": 0.72, "shift": 0.74, "vcd": 0.76}
    for number, (name, skill) in enumerate(skills.items()):
        chances = {task: skill + step for task, step in zip(MME_TASKS, (0.1, -0.05, -0.1, 0.05), strict=True)}
        answers = mme_answers(images, chances, seed=number)
        score_run(yes_no_run(root / "mme" / name, name, answers, task="mme_scenes", control=name != "vcd"))
    return root
