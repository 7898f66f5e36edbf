"""What is fuzzed: every parser of answers and every reader of files, each on a folder of `corpus/` with sound ones.

A target reads a folder in which one file is damaged. It may succeed, or fail with an error that Sightline declares;
everything else is a fault of ours.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sightline import decoders
from sightline.decoders.calibration import detector, inducing, passages, ranking, threshold, triples
from sightline.eval import relabel
from sightline.eval.compare import compare
from sightline.eval.config import compose_settings
from sightline.eval.folder import read_json
from sightline.eval.images import locate, open_image
from sightline.eval.records import SampleFiles, parse_line, read_part, read_samples
from sightline.eval.report import write_report
from sightline.eval.report.runs import find_runs
from sightline.eval.score import score_run
from sightline.eval.scoring import ScoringError, amber, chair, choices, hallusion, mme, short_answers, vqa, yes_no
from sightline.eval.settings import settings
from sightline.eval.tasks import registry
from sightline.models.checkpoint import parameters_in
from sightline.models.errors import SightlineError
from sightline.models.refused import refuse

CORPUS = Path(__file__).parent / "corpus"
DECLARED = (SightlineError, ScoringError)
SAYS = {"yes", "no", None}
WORDS = amber.Associations({"dog": ["puppy"], "sky": ["cloud"], "fire hydrant": ["hydrant"]}, frozenset({"image"}))
PARSERS = {**yes_no.PARSERS, **mme.MME_PARSERS, **amber.AMBER_PARSERS, **hallusion.HALLUSION_PARSERS}


@dataclass(frozen=True)
class Target:
    """One thing to fuzz.

    Attributes:
        name: in tables.
        corpus: folder of sound files below `corpus/`.
        read: given the folder and the file in it that is damaged.
        weight: how much of the time it gets beside the others.
    """

    name: str
    corpus: str
    read: Callable[[Path, Path], Any]
    weight: float = 1.0

    def files(self) -> list[Path]:
        """The sound files, sorted; hidden ones are not damaged."""
        found = (CORPUS / self.corpus).rglob("*")
        return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _answer(folder: Path, file: Path) -> None:
    text = file.read_bytes().decode("utf-8", "surrogateescape")
    for parser in PARSERS.values():
        for label in ("yes", "no"):
            said = parser.parse(text, label)
            assert said in SAYS, f"{parser.name} says {said!r}"
            assert said is not None or parser.abstains, f"{parser.name} abstains"
    short_answers.exact_match(text, ["a", text])
    short_answers.subspan_match(text, ["the dog"])
    assert 0 <= vqa.soft_accuracy(text, [text] * 10) <= 1
    assert vqa.soft_accuracy(text, ["stop", text]) <= 1


def _caption(folder: Path, file: Path) -> None:
    text = file.read_bytes().decode("utf-8", "surrogateescape")
    read = chair.read_caption(text, {"dog", "person"})
    counts = chair.chair_counts([{**read, "image_id": "1"}])
    assert (counts.counts >= 0).all()
    chair.trim_caption(text)
    assert len(chair.cut_caption(text, 5).split()) <= 5
    amber.read_nouns(amber.portable_nouns(text, WORDS), ["dog"], ["sky"], WORDS)


def _choices(folder: Path, file: Path) -> None:
    try:
        held = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return
    scores = [[each for each in _listed(held, name) if isinstance(each, float)] for name in ("true", "false")]
    found = choices.truthfulness(*scores)
    assert found.mc1 in (0.0, 1.0)
    assert not found.mc3 < 0
    choices.chosen_right(scores[0], 0)


def _listed(held: Any, name: str) -> list[Any]:
    value = held.get(name) if isinstance(held, dict) else None
    return value if isinstance(value, list) else []


def _task(name: str, **options: Any) -> Callable[[Path, Path], None]:
    def read(folder: Path, file: Path) -> None:
        given = {"data": str(folder), **options}
        if "images" in registry.get(name).options:
            given["images"] = str(folder)
        found = registry.load(registry.get(name), given)
        places = [(document.split, document.doc_id) for document in found.documents if not document.error]
        assert len(set(places)) == len(places), "two documents are told apart by nothing"
        for document in found.documents:
            assert document.image_id is not None
            json.dumps(dict(document.gold or {}))
            for text in (document.text, document.image, document.doc_id, document.group, *document.candidates):
                text.encode()

    return read


def _hub(folder: Path, file: Path) -> None:
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_CACHE", cache)
        _task("mme", subtasks=["existence"])(folder, file)


def _image(folder: Path, file: Path) -> None:
    image = open_image(file)
    assert image.mode == "RGB"
    assert image.width * image.height > 0


def _name(folder: Path, file: Path) -> None:
    for name in text_of_lines(file):
        found = locate(folder, name)
        assert found.is_relative_to(folder.resolve()), f"{name!r} leaves the folder"


def text_of_lines(file: Path) -> list[str]:
    """The lines of a file as texts, undecodable bytes as surrogates."""
    return file.read_bytes().decode("utf-8", "surrogateescape").split("\n")


def _samples(folder: Path, file: Path) -> None:
    for line in text_of_lines(file):
        try:
            parse_line(line).line().encode("utf-8", "surrogatepass")
        except DECLARED:
            continue
    read_part(file)
    SampleFiles(file.parent, "pope").answered()
    read_samples(file)


def _run(folder: Path, file: Path) -> None:
    read_json(folder / "manifest.json")
    relabel.held(folder)
    score_run(folder)


def _compared(folder: Path, file: Path) -> None:
    compare([folder / "a", folder / "b"])


def _report(folder: Path, file: Path) -> None:
    find_runs(folder)
    write_report(folder)


def _override(folder: Path, file: Path) -> None:
    compose_settings([line for line in text_of_lines(file) if line])


def _choice(folder: Path, file: Path) -> None:
    compose_settings(["decoder=mine"], str(folder))


def _settings(folder: Path, file: Path) -> None:
    held = _json(file)
    if isinstance(held, dict):
        made = settings(held)
        decoders.build(made.decoder.name, dict(made.decoder.params))
        registry.settle(registry.get(made.task.name), made.task.params)


def _calibration(folder: Path, file: Path) -> None:
    readers = {"heads": ranking.load, "detector": detector.load, "inducing": inducing.load, "listed": inducing.load}
    readers |= {"threshold": threshold.load, "questions": triples.read_questions, "items": passages.read_items}
    found = readers[file.stem](file)
    if isinstance(found, ranking.HeadRanking):
        assert all(type(layer) is int and type(head) is int for layer, head in found.top(5))
    if isinstance(found, detector.Detector):
        found.weights("one")
    if isinstance(found, inducing.Importance | inducing.HeadList):
        found.choose(None, 0.5, "correct")


def _weights(folder: Path, file: Path) -> None:
    assert parameters_in(folder) >= 0
    held = _json(folder / "config.json")
    if isinstance(held, dict):
        refuse(held)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None


TARGETS = (
    Target("answers", "answers", _answer),
    Target("captions", "captions", _caption),
    Target("choices", "choices", _choices, 0.3),
    Target("pope", "pope", _task("pope", splits=["random"])),
    Target("mme", "mme", _task("mme", subtasks=["existence"])),
    Target("mme of the hub", "hub", _hub, 0.5),
    Target("amber", "amber", _task("amber")),
    Target("amber captions", "amber", _task("amber_captions"), 0.5),
    Target("hallusion bench", "hallusion_bench", _task("hallusion_bench")),
    Target("text vqa", "text_vqa", _task("text_vqa")),
    Target("chair", "chair", _task("chair")),
    Target("nq swap", "nq_swap", _task("nq_swap", contexts=["substituted", "original", "closed"])),
    Target("memo trap", "memo_trap", _task("memo_trap", subtasks=["proverb_ending"])),
    Target("truthful qa", "truthful_qa", _task("truthful_qa")),
    Target("truthful qa, CSV", "truthful_qa_csv", _task("truthful_qa")),
    Target("images", "images", _image),
    Target("image names", "names", _name, 0.5),
    Target("sample lines", "samples", _samples),
    Target("run folders", "run", _run),
    Target("comparisons", "pair", _compared),
    Target("reports", "scored", _report),
    Target("overrides", "overrides", _override),
    Target("configuration files", "config", _choice),
    Target("settings", "settings", _settings),
    Target("calibrations", "calibrations", _calibration),
    Target("weights", "weights", _weights),
)
