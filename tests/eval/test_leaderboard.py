"""Leaderboards: lists of runs with one model, made once, and a report over them."""

import json

import pytest
from sightline.eval import runner
from sightline.eval.cli import main
from sightline.eval.config import compose_settings
from sightline.eval.errors import ConfigError
from sightline.eval.leaderboard import boards, read_board


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


@pytest.mark.parametrize("name", boards())
def test_packaged_boards_can_be_composed(name):
    found = read_board(name)
    for run in found.runs:
        compose_settings([*found.common, *run])
    asked = [" ".join(run) for run in found.runs]
    assert len(set(asked)) == len(asked)
    assert {"decoder=greedy", "decoder=sample"} <= set(asked), "the references belong on every leaderboard"


@pytest.mark.parametrize(
    ("text", "match"),
    [("common: []", "needs two lists"), ("- a", "needs two lists"), ("common: []\nruns: [greedy]", "needs two lists"),
     ("common: [\n", "no YAML")],
)  # fmt: skip
def test_a_file_that_is_no_board_is_refused(tmp_path, text, match):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_board(str(path))


def test_a_typo_names_the_nearest_board(capsys):
    assert main(["leaderboard", "dmeo"]) == 2
    assert "Did you mean 'demo'?" in capsys.readouterr().err


def test_a_wrong_override_is_found_before_the_first_run(board, tmp_path, capsys):
    assert main(["leaderboard", str(board), f"run.root={tmp_path / 'out'}", "run.limt=2"]) == 2
    assert "Did you mean 'run.limit'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
