"""The outcomes that come with the package, and the commands that show them."""

import json
from pathlib import Path

import pytest
from cells import STRATEGIES
from every_cell import FAMILIES, MODES, everything, refused
from sightline.decoders import names
from sightline.eval import cli, matrix
from sightline.eval.errors import DataError, UsageError
from sightline.models import errors

STALE = "run `make matrix`"


@pytest.fixture(scope="module")
def held():
    return matrix.load()


def test_it_names_every_decoder_family_and_mode(held):
    assert {part for name in held.decoders for part in name.split("+")} == set(names()), STALE
    assert list(held.decoders) == list(STRATEGIES), STALE
    assert list(held.families) == list(FAMILIES), STALE
    assert {key: (mode["title"], mode["shows"]) for key, mode in held.modes.items()} == {
        key: (mode.title, mode.shows) for key, mode in MODES.items()
    }, STALE


def test_no_cell_is_left_out_and_none_failed(held):
    counts = held.counts()
    assert sum(counts.values()) == len(everything())
    assert "failed" not in counts
    assert counts["equal"] > counts["refused"] > 0
    for strategy, family, mode in everything():
        kind, detail = held.outcome(strategy, family, mode)
        assert kind in matrix.KINDS
        assert detail
        error = refused(strategy, family)
        if error is not None:
            assert (kind, detail) == ("refused", error.__name__)
            assert held.idle(strategy, family) == (error is errors.MissingImage)


def test_the_page_is_what_the_file_says(held):
    page = (Path(__file__).parents[2] / "docs" / "matrix.md").read_text(encoding="utf-8")
    assert page == matrix.markdown(held), STALE
    assert held.date in page


def test_the_command_shows_the_file(held, capsys, tmp_path):
    assert cli.main(["matrix"]) == 0
    text = capsys.readouterr().out
    assert all(mode["title"] in text for mode in held.modes.values())
    assert all(family in text for family in held.families)
    assert cli.main(["matrix", "--decoder", "cgvlm", "--mode", "no_cache", "beams", "--family", "llava", "llama"]) == 0
    rows = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["beams"].split()[1:] == ["equal", "refused", "[1]"]
    assert rows["no cache"].split()[2:] == ["refused", "[2]", "refused", "[1]"]
    assert cli.main(["matrix", "--into", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == matrix.markdown(held)


def test_names_that_do_not_exist_are_refused(capsys):
    for argument, near in (("--decoder", "vcdd"), ("--family", "lava"), ("--mode", "beam")):
        assert cli.main(["matrix", argument, near]) == 2
        assert "Did you mean" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no mode"):
        matrix.picked({"beams": 1}, ["xx"], "mode")


def test_a_cell_that_differs_has_a_note():
    outcomes = [("equal", "greedy"), ("refused", "MissingImage"), ("refused", "UnsupportedMode"), ("failed", "no")]
    made = matrix.Matrix(
        "2026-01-01", "make matrix", 1, {}, ["a", "b"], {"x": "X", "y": "Y"},
        {"m": {"title": "M", "shows": "s"}, "n": {"title": "N", "shows": "s"}}, outcomes,
        {"m": {"x": [0, 2], "y": [0, 1]}, "n": {"x": [0, 0], "y": [3, 1]}},
    )  # fmt: skip
    table = matrix.tabled(made, ["a", "b"], ["x", "y"], ["m", "n"])
    assert table.rows == [("M", "equal [1]", "equal"), ("N", "equal", "failed [2]")]
    assert table.notes == ["refused (UnsupportedMode): b", "failed (no)"]
    assert made.counts() == {"equal": 4, "refused": 3, "failed": 1}
    assert made.idle("b", "y")
    assert not made.idle("b", "x")


def test_a_file_of_another_version_is_refused(tmp_path):
    file = tmp_path / "matrix.json"
    for text in ("{", json.dumps({"schema": 0})):
        file.write_text(text)
        with pytest.raises(DataError, match="make matrix"):
            matrix.load(file)
