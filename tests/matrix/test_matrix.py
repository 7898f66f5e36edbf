"""Strategy x family x mode of `generate()`: a test for each cell.

By default so many cells that every pair of the three is there; all of them with `--matrix=all`, or by `make matrix`,
which writes what each cell ended in to eval/matrix.json. `cells.py` says how a cell may end.
"""

import cells
import pytest
from every_cell import MODES, chosen, everything, idle, run_cell
from families import FAMILIES
from selection import pairs_of, pairwise
from sightline.decoders import names


def pytest_generate_tests(metafunc):
    if "cell" in metafunc.fixturenames:
        found = everything() if metafunc.config.getoption("matrix") == "all" else chosen()
        metafunc.parametrize("cell", found, ids=[f"{family}-{strategy}-{mode}" for strategy, family, mode in found])


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return cells.Bench(tmp_path_factory.mktemp("lists"))


def test_cell(bench, cell):
    outcome = run_cell(bench, *cell)
    assert outcome.kind in ("equal", "refused", "n/a", "needs")
    assert outcome.detail


def test_every_strategy_is_here():
    assert {part for name in cells.STRATEGIES for part in name.split("+")} == set(names())


def test_the_selection_covers_every_pair_and_is_the_same_each_time():
    found = chosen()
    covered = {pair for cell in found for pair in pairs_of(cell, idle(cell[0], cell[1]))}
    assert covered == {pair for cell in everything() for pair in pairs_of(cell, idle(cell[0], cell[1]))}
    for strategy in cells.STRATEGIES:
        assert {("strategy mode", strategy, mode) for mode in MODES} <= covered
        assert {("strategy family", strategy, family) for family in FAMILIES} <= covered
    assert {("family mode", family, mode) for family in FAMILIES for mode in MODES} <= covered
    assert found == chosen()
    assert len(set(found)) == len(found) < 1.2 * len(cells.STRATEGIES) * len(MODES)


def test_a_pair_alone_is_covered_by_the_cell_that_says_something():
    picky = pairwise(["a", "b"], ["x", "y"], ["m", "n"], lambda strategy, family: (strategy, family) == ("a", "x"))
    assert {("a", "y", "m"), ("a", "y", "n")} <= set(picky)
    assert any(cell[:2] == ("a", "x") for cell in picky)
