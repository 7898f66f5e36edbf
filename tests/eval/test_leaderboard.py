"""Leaderboards: lists of runs with one model, made once, and a report over them."""

import json

import pytest
from sightline.eval import runner
from sightline.eval.boards import boards, read_board
from sightline.eval.cli import main
from sightline.eval.config import compose_settings
from sightline.eval.errors import ConfigError


@pytest.fixture
def board(tmp_path, checkpoint, pope):
    path = tmp_path / "two.yaml"
    path.write_text(
        json.dumps({
            "common": ["model=local", f"model.path={checkpoint}", "model.dtype=float64", "task=pope",
                       f"task.data={pope}", f"task.images={pope / 'images'}", "run.cost_requests=0"],
            "runs": [["decoder=greedy"], ["decoder=vcd", "generation=sample", "decoder.alpha=0.5"]],
        })
    )  # fmt: skip
    return path


def test_runs_share_one_model_and_end_in_a_report(board, tmp_path, monkeypatch, capsys):
    loads = []
    load = runner.load_model
    monkeypatch.setattr(runner, "load_model", lambda settings: loads.append(settings) or load(settings))
    out = tmp_path / "out"
    assert main(["leaderboard", str(board), f"run.root={out}", "run.limit=2"]) == 0
    assert len(loads) == 1
    assert capsys.readouterr().out.strip().endswith(str(out / "report.html"))
    kept = {path.parent.name: path.read_bytes() for path in out.glob("*/metrics.json")}
    assert len(kept) == 2
    assert "VCD" in (out / "report.html").read_text()
    assert main(["leaderboard", str(board), f"run.root={out}", "run.limit=2"]) == 0
    assert {path.parent.name: path.read_bytes() for path in out.glob("*/metrics.json")} == kept


def test_every_model_is_asked_every_task(tmp_path):
    board = tmp_path / "board.yaml"
    board.write_text("models: [a, b]\ntasks: {pope: [x=1], mme: []}\ndecoders: [{decoder: vcd}]\nmodes: [sample]\n")
    assert read_board(str(board)).runs == (
        ("task=pope", "x=1", "model=a", "decoder=vcd", "generation=sample"),
        ("task=pope", "x=1", "model=b", "decoder=vcd", "generation=sample"),
        ("task=mme", "model=a", "decoder=vcd", "generation=sample"),
        ("task=mme", "model=b", "decoder=vcd", "generation=sample"),
    )


@pytest.mark.parametrize("name", boards())
def test_packaged_boards_can_be_composed(name):
    found = read_board(name)
    for run in found.runs:
        runner.settle(compose_settings([*found.common, *run])[0])
    asked = [" ".join(run) for run in found.runs]
    assert len(set(asked)) == len(asked)
    for task in {run[0] for run in found.runs}:
        own = [run for run in found.runs if run[0] == task]
        for mode in {run[-1].removeprefix("generation=") for run in own}:
            assert f"decoder={mode}" in {run[-2] for run in own}, "the references belong beside every task"


@pytest.mark.parametrize(
    ("text", "match"),
    [("common: []", "needs tasks and decoders"), ("- a", "needs tasks and decoders"), ("common: [\n", "no YAML"),
     ("common: []\nruns: [greedy]", "runs must be a list, got 'greedy'"),
     ("runs: [[decoder=vcd]]\ncomon: []", "Did you mean 'common'"),
     ("tasks: [pope]\ndecoders: [{decoder: vcd}]", "tasks must map names to overrides"),
     ("tasks: {pope: run.limit=2}\ndecoders: [{decoder: vcd}]", "tasks.pope must be a list"),
     ("tasks: {pope: []}\ndecoders: [vcd]", "'vcd' is no decoder. Write {decoder: vcd"),
     ("tasks: {pope: []}\ndecoders: [{decoder: vcd, tasks: [pop]}]", "no task on this leaderboard 'pop'"),
     ("tasks: {pope: []}\nmodes: [gredy]\ndecoders: [{decoder: vcd}]", "Did you mean 'greedy'"),
     ("tasks: {pope: []}\ndecoders: [{decoder: vcd, modes: greedy}]", "modes must be a list")],
)  # fmt: skip
def test_a_file_that_is_no_board_is_refused(tmp_path, text, match):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_board(str(path))


def test_every_decoder_is_asked_every_task_in_every_mode(tmp_path):
    path = tmp_path / "crossed.yaml"
    path.write_text(
        "about: {about}\ncommon: [model=local]\nmodes: [greedy, sample]\n"
        "tasks: {{pope_scenes: [run.limit=3], chair_scenes: }}\nruns: [[decoder=decore, generation=beam]]\n"
        "decoders:\n- {{decoder: greedy, modes: [greedy]}}\n- {{decoder: shift, delta: -1.5, tasks: [pope_scenes]}}\n"
        "- {{decoder: vcd, alpha: 1, noise_schedule: constant_gamma}}\n".format(about="Two\n  lines.")
    )
    board = read_board(str(path))
    assert (board.name, board.common, board.about) == ("crossed", ("model=local",), "Two lines.")
    vcd = "decoder=vcd decoder.alpha=1 decoder.noise_schedule=constant_gamma"
    assert [" ".join(run) for run in board.runs] == [
        "task=pope_scenes run.limit=3 decoder=greedy generation=greedy",
        "task=pope_scenes run.limit=3 decoder=shift decoder.delta=-1.5 generation=greedy",
        "task=pope_scenes run.limit=3 decoder=shift decoder.delta=-1.5 generation=sample",
        f"task=pope_scenes run.limit=3 {vcd} generation=greedy",
        f"task=pope_scenes run.limit=3 {vcd} generation=sample",
        "task=chair_scenes decoder=greedy generation=greedy",
        f"task=chair_scenes {vcd} generation=greedy",
        f"task=chair_scenes {vcd} generation=sample",
        "decoder=decore generation=beam",
    ]


@pytest.fixture
def captions(tmp_path, checkpoint, monkeypatch):
    """A board over captions of a few scenes; the greedy run stands last, and is made first."""
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "captions.yaml"
    path.write_text(
        json.dumps({
            "about": "Chosen <b>somewhere</b> else.",
            "common": ["model=local", f"model.path={checkpoint}", "model.dtype=float64", "run.cost_requests=0"],
            "tasks": {"chair_scenes": ["task.images=6", "run.limit=3", "generation.max_new_tokens=6"]},
            "decoders": [{"decoder": "vcd", "alpha": 0.5}, {"decoder": "greedy"}],
        })
    )  # fmt: skip
    return path


def test_captions_are_cut_to_the_lengths_of_greedy(captions, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["leaderboard", str(captions), f"run.root={out}"]) == 0
    scores = {folder.name.split("-")[3]: json.loads((folder / "metrics.json").read_text()) for folder in out.glob("c*")}
    held = {metrics["decoder"]["key"]: metrics for metrics in scores.values()}
    assert set(held["greedy"]["tables"]) == {"free"}
    assert set(held["vcd"]["tables"]) == {"free", "cut"}
    assert held["vcd"]["like"]["decoder"]["key"] == "greedy"
    page = (out / "report.html").read_text()
    assert "Chosen &lt;b&gt;somewhere&lt;/b&gt; else." in page
    assert "At the same length" in page
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_text() == page


def test_a_shift_of_yes_and_no_is_refused_for_captions_before_anything_runs(captions, tmp_path, capsys, monkeypatch):
    board = json.loads(captions.read_text())
    board["decoders"].append({"decoder": "shift", "delta": -1.5})
    captions.write_text(json.dumps(board))
    monkeypatch.setattr(runner, "load_model", lambda settings: pytest.fail("a model was loaded"))
    for command in (["leaderboard", str(captions)], ["run", "task=chair_scenes", "decoder=shift"]):
        assert main([*command, f"run.root={tmp_path / 'out'}"]) == 2
        said = capsys.readouterr().err
        assert "chair_scenes does not ask for yes or no" in said
        assert "Leave it out for this task" in said
        assert not (tmp_path / "out").exists()


def test_a_typo_names_the_nearest_board(capsys):
    assert main(["leaderboard", "dmeo"]) == 2
    assert "Did you mean 'demo'?" in capsys.readouterr().err


def test_a_wrong_override_is_found_before_the_first_run(board, tmp_path, capsys):
    assert main(["leaderboard", str(board), f"run.root={tmp_path / 'out'}", "run.limt=2"]) == 2
    assert "Did you mean 'run.limit'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
