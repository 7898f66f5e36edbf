"""Tasks of the real harnesses with questions of ours, so that their answers can be held against `sightline run`."""

import json
from collections.abc import Collection
from pathlib import Path

from sightline.eval.tasks import registry

LM_TASK, LMMS_TASK = "sightline_facts", "sightline_scenes"
_LM = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{text}}}}"
{asked}
"""
_ANSWERED = """\
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
_CHOSEN = """\
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
_LMMS = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function scenes.image
doc_to_text: !function scenes.question
doc_to_target: answer
generation_kwargs: {{max_new_tokens: {tokens}, do_sample: false}}
process_results: !function scenes.right
metric_list:
  - {{metric: accuracy, aggregation: mean, higher_is_better: true}}
"""
_SCENES = '''\
"""What the task of this folder asks."""

from PIL import Image


def image(doc):
    return [Image.open(doc["image"])]


def question(doc, lmms_eval_specific_kwargs=None):
    return doc["text"]


def right(doc, results):
    return {"accuracy": float(results[0].strip().lower().startswith(doc["answer"]))}
'''


def write_lm_tasks(folder: Path, number: int) -> list[str]:
    """Two tasks of lm-evaluation-harness on texts with passages: answers generated, and given ones chosen from.

    Returns:
        Their names.
    """
    facts = registry.load(registry.get("nq_swap_facts"), {"contexts": ["substituted"]}).documents[:number]
    words = sorted({str(document.label) for document in facts})
    rows = [
        {
            "text": each.text,
            "passage": each.context,
            "answer": str(each.label),
            "choices": [f"{each.label}.", f"{other}."],
        }
        for each in facts
        for other in [next(word for word in words if word != str(each.label))]
    ]
    place = _rows(folder, LM_TASK, rows)
    names = []
    for kind, asked in (("generate_until", _ANSWERED), ("multiple_choice", _CHOSEN)):
        names.append(f"{LM_TASK}_{kind}")
        (folder / f"{names[-1]}.yaml").write_text(_LM.format(name=names[-1], rows=place, kind=kind, asked=asked))
    return names


def write_lmms_task(folder: Path, images: Collection[str]) -> str:
    """A task of lmms-eval: the questions of POPE on these scenes, by their image ids. Returns its name."""
    task = registry.get("pope_scenes")
    found = registry.load(task, {})
    rows = [
        {
            "image": f"{found.images}/{each.image}",
            "text": each.text,
            "answer": each.label,
            "of": [each.split, each.doc_id],
        }
        for each in found.documents
        if each.image_id in images
    ]
    place = _rows(folder, LMMS_TASK, rows)
    (folder / "scenes.py").write_text(_SCENES)
    text = _LMMS.format(name=LMMS_TASK, rows=place, tokens=task.max_new_tokens)
    (folder / f"{LMMS_TASK}.yaml").write_text(text)
    return LMMS_TASK


def _rows(folder: Path, name: str, rows: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{name}.jsonl"
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place
