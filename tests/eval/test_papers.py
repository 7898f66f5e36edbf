"""Presets of papers: every one composes and builds; numbers that fit each other; a run held against them."""

import dataclasses
import json
import math
import re
import shutil

import pytest
from omegaconf import OmegaConf
from scored_runs import record, write_run
from sightline import decoders
from sightline.eval import cli, papers
from sightline.eval.compare_answers import NotComparable
from sightline.eval.compare_reported import as_json, as_text, hold
from sightline.eval.config import choices, compose_settings, conf_folder
from sightline.eval.errors import ConfigError, UsageError
from sightline.eval.preparing import settle
from sightline.eval.reported import reported
from sightline.eval.score import SCORERS

PRESETS = [name for name in choices("experiment") if name.startswith("paper_")]
METHODS = {"vcd", "decore", "hicd", "iava", "avc", "code", "causalmm", "cgvlm", "dagcd"}
METRICS = {
    "pope": {"accuracy", "precision", "recall", "f1"},
    "mme": {"score"},
    "amber": {"accuracy", "precision", "recall", "f1"},
    "amber_captions": {"CHAIR", "Cover", "Hal", "Cog"},
    "chair": {"CHAIRs", "CHAIRi"},
    "nq_swap": {"em", "subspan_em"},
    "memo_trap": {"accuracy"},
    "truthful_qa": {"MC1", "MC2", "MC3"},
}


@pytest.fixture(scope="module")
def composed():
    return {name: compose_settings([f"experiment={name}"]) for name in PRESETS}


def test_every_method_has_a_preset():
    assert {name.split("_")[1] for name in PRESETS} == METHODS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_whole(name, composed):
    settings, tree = composed[name]
    paper = settings.reported
    strategy, task, options = settle(settings)
    assert paper.preset == name
    assert strategy.key == name.split("_")[1]
    assert (task.name, tree["prompt"]["name"]) == (settings.task.name, settings.prompt.name)
    assert name.removeprefix(f"paper_{strategy.key}_").startswith(task.name)
    assert paper.model in (settings.model.title, None)
    assert paper.parser is None or paper.parser in SCORERS[task.scorer].parsers
    assert not paper.rows or strategy.key in paper.decoders
    for row in paper.rows:
        assert row.decoder in decoders.names()
        assert set(row.values) <= METRICS[task.name]
        assert row.table in {*options.get("splits", ()), *options.get("subtasks", ()), *tables(task.name)}
        assert all(0 < value <= (paper.scale if paper.scale > 1 else 800) for value in row.values.values())


def tables(task):
    """Tables that are no split."""
    more = {"mme": {"total"}, "amber": {"all"}, "amber_captions": {"captions"}, "chair": {"free"}}
    more |= {"nq_swap": {"substituted"}, "memo_trap": {"micro", "macro"}, "truthful_qa": {"multiple_choice"}}
    return more.get(task, set())


def test_numbers_fit_each_other(composed):
    """F1 follows from precision and recall, accuracy of balanced questions too, a total is a sum: no slip of pen."""
    triples = balanced = sums = 0
    for settings, _ in composed.values():
        rows = settings.reported.rows
        for held in (row.values for row in rows if {"precision", "recall", "f1"} <= set(row.values)):
            p, r = held["precision"], held["recall"]
            assert abs(2 * p * r / (p + r) - held["f1"]) < 0.1
            triples += 1
            if settings.task.name == "pope":
                assert abs(50 * (1 + r / 100 - r * (100 - p) / (100 * p)) - held["accuracy"]) < 0.1
                balanced += 1
        for decoder in settings.reported.decoders:
            scores = {
                row.table: row.values["score"] for row in rows if row.decoder == decoder and "score" in row.values
            }
            if "total" in scores:
                assert math.isclose(sum(scores.values()), 2 * scores["total"], abs_tol=0.05)
                sums += 1
    assert (triples, balanced, sums) == (17, 12, 6)


@pytest.mark.parametrize(
    "file", sorted((conf_folder() / "decoder" / "paper").glob("*.yaml")), ids=lambda file: file.stem
)
def test_settings_of_papers_have_every_field(file):
    held = OmegaConf.to_container(OmegaConf.load(file))
    key = held.pop("key")
    strategy = decoders.build(key, held)
    assert set(held) == {spec.name for spec in dataclasses.fields(strategy)}
    assert strategy != decoders.build(key)
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert all(" # " in line for line in lines[1:])
    choice = f"/decoder: paper/{file.stem}\n"
    assert any(choice in each.read_text() for each in (conf_folder() / "experiment").glob("paper_*.yaml"))


def small(pope, folder, *more):
    """The command of a small run of a preset on files in POPE's format, with the model that is shipped."""
    places = [f"task.data={pope}", f"task.images={pope / 'images'}", f"run.dir={folder}"]
    quick = ["model=tiny-llava", "generation.max_new_tokens=3", "run.limit=2", "run.cost_requests=0", "run.threads=1"]
    return ["run", *more, *places, *quick]


def shares(folder, split):
    """Accuracy in percent by VCD's rule, written out: a label is met where it stands anywhere in the answer."""
    lines = [json.loads(line) for line in (folder / "samples" / "pope.jsonl").read_text().splitlines()]
    own = [line for line in lines if line["split"] == split]
    return 100 * sum(line["label"] in line["output"].lower() for line in own) / len(own), len(own)


def test_from_the_preset_to_the_differences(pope, tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(small(pope, folder, "experiment=paper_vcd_pope")) == 0
    metrics = (folder / "metrics.json").read_bytes()
    assert f"beside the numbers of paper_vcd_pope: sightline compare {folder} --reported\n" in capsys.readouterr().out
    assert cli.main(["compare", str(folder), "--reported", "--json", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr().out
    assert "NOT COMPARABLE:\n  - the model is tiny-llava, the paper's llava-1.5-7b\n" in shown
    assert "- run.limit is 2, the preset's null" in shown
    assert "- popular has 6 samples, the paper's 3000" in shown
    assert "Answers read by vcd." in shown
    (held,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert held["comparable"] is False
    assert len(held["rows"]) == 12
    for row in (row for row in held["rows"] if row["metric"] == "accuracy"):
        measured, n = shares(folder, row["table"])
        assert row["measured"] == pytest.approx(measured, abs=1e-4)
        assert row["difference"]["value"] == pytest.approx(measured - row["reported"], abs=1e-4)
        assert row["difference"]["low"] == pytest.approx(row["low"] - row["reported"], abs=1e-6)
        assert (row["n"], row["n_paper"]) == (n, 3000)
        assert f"{row['table']:<11}  accuracy   {row['measured']:.2f} [" in shown
    assert [row["reported"] for row in held["rows"] if row["metric"] == "accuracy"] == [87.73, 85.38, 80.88]
    assert (folder / "metrics.json").read_bytes() == metrics


def test_a_preset_changes_no_answer_and_no_name(pope, tmp_path):
    """The same settings by hand: the same bytes of samples, the same identity."""
    by_hand = ["decoder=vcd", "decoder.noise_step=999", "task=pope", "prompt=one_word", "generation=sample"]
    for name, asked in (("preset", ["experiment=paper_vcd_pope"]), ("hand", by_hand)):
        assert cli.main(small(pope, tmp_path / name, *asked)) == 0
    assert "reported" in (tmp_path / "preset" / "config.yaml").read_text()
    for file in ("samples/pope.jsonl", "metrics.json"):
        assert (tmp_path / "preset" / file).read_bytes() == (tmp_path / "hand" / file).read_bytes()
    first, second = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("preset", "hand"))
    assert first["identity"] == second["identity"]
    with pytest.raises(UsageError, match="without a preset"):
        hold(tmp_path / "hand")
    assert hold(tmp_path / "hand", preset="paper_vcd_pope").lines == hold(tmp_path / "preset").lines


@pytest.fixture
def as_reported(composed, tmp_path):
    """A folder as the preset's own run would leave it, four answers a split, and a way to change its manifest."""
    settings, _ = composed["paper_vcd_pope"]
    strategy, task, options = settle(settings)
    told = {name: value for name, value in options.items() if name not in task.places}

    def make(decoder=strategy.key, name="own", said=("Yes", "No", "Yes", "Yes"), **changes):
        params = strategy.params() if decoder == strategy.key else {}
        manifest = {
            "schema": 1, "status": "complete", "identity": "0", "seed": 0, "limit": None, "margin_words": {},
            "model": {"name": "llava-1.5-7b", "fingerprint": "1"}, "prompt": {"suffix": settings.prompt.suffix},
            "decoder": {"key": decoder, "kind": "strategy", "params": params},
            "task": {"name": "pope", "version": 1, "options": told, "data": []},
            "generation": settings.generation.describe(), "scorer": {"name": "pope", "parser": "pope_official"},
        }  # fmt: skip
        for path, value in changes.items():
            *way, last = path.split("__")
            inner = manifest
            for key in way:
                inner = inner[key]
            inner[last] = value
        lines = [
            record(split, str(at), f"image{at}", "?", ("yes", "no")[at % 2], said[at], task="pope")
            for split in ("random", "popular", "adversarial")
            for at in range(4)
        ]
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        return write_run(tmp_path / name, json.loads(json.dumps(manifest)), lines)

    return make


def test_the_same_settings_are_comparable(as_reported):
    held = hold(as_reported(), preset="paper_vcd_pope")
    assert held.obstacles == ()
    assert all("samples, the paper's 3000" in line for line in held.settings)
    first = held.lines[0]
    assert (first.metric, first.measured, first.reported, first.difference[0]) == ("accuracy", 75.0, 87.73, -12.73)
    assert as_json(held)["comparable"] is True
    assert "NOT COMPARABLE" not in as_text(held)
    baseline = hold(as_reported(decoder="sample"), preset="paper_vcd_pope")
    assert [line.reported for line in baseline.lines if line.metric == "f1"] == [81.33, 80.06, 77.57]
    assert baseline.obstacles == ()


@pytest.mark.parametrize(
    ("changes", "obstacle", "said"),
    [
        ({"model__name": "my-llava"}, True, "the model is my-llava, the paper's llava-1.5-7b"),
        ({"task__options__dataset": "gqa"}, True, 'task.options.dataset is "gqa", the preset\'s "coco"'),
        ({"task__options__splits": ["random"]}, False, 'task.options.splits is ["random"], the preset\'s ["random", '),
        ({"prompt__suffix": ""}, False, 'prompt.suffix is "", the preset\'s " Please answer'),
        ({"generation": {"mode": "greedy"}}, False, 'generation.mode is "greedy", the preset\'s "sample"'),
        ({"limit": 20}, False, "run.limit is 20, the preset's null"),
    ],
)
def test_what_differs_is_said(changes, obstacle, said, as_reported):
    held = hold(as_reported(**changes), preset="paper_vcd_pope")
    found, other = (held.obstacles, held.settings) if obstacle else (held.settings, held.obstacles)
    assert any(said in line for line in found)
    assert not other or not any(said in line for line in other)
    assert said.split(",")[0] in as_text(held)


def test_seeds_are_one_run(as_reported, capsys):
    """Means and standard deviations by hand; another decoder is a run of its own."""
    first = as_reported(name="a", seed=0)
    second = as_reported(name="b", seed=1, said=("Yes", "No", "Yes", "No"))
    third = as_reported(name="c", seed=2, said=("No", "No", "No", "No"))
    other = as_reported(name="d", decoder="sample")
    held = hold(first, second, third, preset="paper_vcd_pope")
    accuracy, recall = (next(line for line in held.lines if line.metric == name) for name in ("accuracy", "recall"))
    assert (accuracy.measured, accuracy.sd) == (75.0, 25.0)
    assert (recall.measured, recall.sd) == (pytest.approx(200 / 3), pytest.approx(100 / math.sqrt(3), abs=1e-4))
    assert 0 < accuracy.low < 75 < accuracy.high <= 100
    assert (accuracy.n, accuracy.difference[0]) == (4, -12.73)
    code = cli.main(["compare", *map(str, (first, other, second, third)), "--reported", "paper_vcd_pope"])
    shown = capsys.readouterr().out
    assert code == 0
    assert f"{first}\n{second}\n{third} against paper_vcd_pope\n" in shown
    assert "interval is of the mean of 3 runs" in shown
    assert re.search(r"random +accuracy +75\.00 \[[\d.]+, 100\.00\] +25\.00  87\.73 ", shown)
    assert shown.count("against paper_vcd_pope") == 2
    samples = second / "samples" / "pope.jsonl"
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(NotComparable, match="not asked the same samples"):
        hold(first, second, preset="paper_vcd_pope")


def test_another_parameter_and_another_dialect_are_said(as_reported):
    folder = as_reported()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["decoder"]["params"]["alpha"] = 0.5
    (folder / "manifest.json").write_text(json.dumps(manifest))
    held = hold(folder, preset="paper_vcd_pope", parser="strict")
    assert "decoder.params.alpha is 0.5, the preset's 1.0" in held.settings
    assert "answers are read by strict, the paper's by vcd" in held.settings
    assert held.parser == "strict"


def test_what_cannot_be_held_against_is_refused(as_reported):
    folder = as_reported(decoder="avc")
    with pytest.raises(NotComparable, match=r"no number of decoder=avc\. It has numbers of sample, vcd"):
        hold(folder, preset="paper_vcd_pope")
    with pytest.raises(UsageError, match="Did you mean 'paper_vcd_pope'"):
        hold(folder, preset="paper_vcd_popes")
    with pytest.raises(UsageError, match="holds no numbers of a paper"):
        hold(folder, preset="tune_vcd")
    with pytest.raises(UsageError, match="cannot be read"):
        hold(folder)
    without = as_text(hold(folder, preset="paper_iava_pope"))
    assert "No number to compare with: no table" in without
    assert "measured" not in without
    unnamed = hold(as_reported(decoder="hicd"), preset="paper_hicd_truthful_qa")
    assert "the source does not name its model" in unnamed.obstacles
    assert 'task.name is "pope", the preset\'s "truthful_qa"' in unnamed.obstacles
    assert [(line.measured, line.difference) for line in unnamed.lines] == [(None, (None, None, None))]
    assert "multiple_choice  MC1      -                49.75     -" in as_text(unnamed)


def test_a_preset_of_ones_own_is_kept_in_the_run_folder(as_reported):
    """Its numbers are there; its settings are not, so that only the model is compared."""
    folder = as_reported()
    rows = [{"decoder": "vcd", "table": "random", "accuracy": 0.7, "auc": 0.9}]
    own = {"preset": "paper_mine", "paper": "Mine", "source": "a note", "model": "other", "rows": rows}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml({"reported": own}))
    held = hold(folder)
    assert held.obstacles == ("the model is llava-1.5-7b, the paper's other",)
    assert held.settings == ("paper_mine is no preset here, so that only the model was compared",)
    assert held.parser == "pope_official"
    found = [(line.metric, line.measured, line.difference[0]) for line in held.lines]
    assert found == [("accuracy", 0.75, 0.05), ("auc", None, None)]
    (folder / "config.yaml").write_text("reported: {rows: [")
    with pytest.raises(UsageError, match="cannot be read"):
        hold(folder)


GOOD = {"preset": "paper_x", "paper": "X", "source": "text", "rows": [{"decoder": "vcd", "table": "all", "f1": 1}]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"papper": "X"}, "Did you mean 'reported.paper'"),
        ({"paper": ""}, "reported.paper must be text"),
        ({"source": None}, "reported.source must be text, got None"),
        ({"scale": 0}, "reported.scale must be a number above 0"),
        ({"rows": []}, "needs either rows or missing"),
        ({"missing": "none was read"}, "needs either rows or missing"),
        ({"rows": "many"}, "reported.rows must be a list"),
        ({"rows": [{"decoder": "vcd", "f1": 1}]}, "row 1: table must be text"),
        ({"rows": [{"decoder": "vcd", "table": "all"}]}, "row 1 holds no number"),
        ({"rows": [{"decoder": "vcd", "table": "all", "f1": "high"}]}, "f1 must be a number, got 'high'"),
        ({"rows": [{"decoder": "vcd", "table": "all", "f1": True}]}, "f1 must be a number, got True"),
        ({"rows": [{"decoder": "vcd", "table": "all", "f1": 1, "n": 0.5}]}, "n must be a whole number"),
        ({"differs": [""]}, "reported.differs, entry 1 must be text"),
    ],
)
def test_a_bad_section_is_explained(change, said):
    assert reported(GOOD) is not None
    with pytest.raises(ConfigError, match=said):
        reported(GOOD | change)


def test_the_page_has_the_table(tmp_path, capsys):
    page = conf_folder().parent / "docs" / "papers.md"
    assert f"{papers.BEGIN}\n\n{papers.markdown()}\n{papers.END}" in page.read_text(encoding="utf-8")
    copy = tmp_path / "page.md"
    copy.write_text(f"before\n{papers.BEGIN}\nold\n{papers.END}\nafter\n")
    assert cli.main(["presets", "--into", str(copy)]) == 0
    assert copy.read_text() == f"before\n{papers.BEGIN}\n\n{papers.markdown()}\n{papers.END}\nafter\n"
    copy.write_text("nothing")
    assert cli.main(["presets", "--into", str(copy)]) == 2
    assert cli.main(["presets"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}  (" in shown for name in PRESETS)
