"""What `mutate.py` is worth: every formula is one of its targets, its changes change, and its tests notice."""

import ast
import importlib
import inspect
import json
import pkgutil

import mutate
import pytest
import sightline
from sightline.decoders.strategy import Strategy

MOMENTS = ("combine", "gate", "keep", "left", "decided", "sure")
NO_FORMULA = {"Strategy.combine", "Strategy.gate", "Strategy.left", "Strategy.sure"}
"""They hand on what they are given, or None."""


def formulas():
    """`module -> names` of every method of a strategy that makes scores or cuts."""
    found = {}
    for each in pkgutil.iter_modules(sightline.decoders.__path__):
        module = importlib.import_module(f"sightline.decoders.{each.name}")
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and issubclass(kind, Strategy) and kind.__module__ == module.__name__:
                own = {f"{name}.{moment}" for moment in MOMENTS if moment in vars(kind)}
                found.setdefault(each.name, set()).update(own - NO_FORMULA)
    return {module: names for module, names in found.items() if names}


def test_every_formula_is_a_target():
    missing = {f"{module}: {name}" for module, names in formulas().items() for name in names}
    missing -= {f"{module}: {name}" for module, names in mutate.TARGETS.items() for name in names.split()}
    assert not missing
    assert len(formulas()) > 12


def test_all_of_the_shared_algebra_is_a_target():
    module = importlib.import_module("sightline.decoders.contrast")
    own = {name for name, each in vars(module).items() if callable(each) and each.__module__ == module.__name__}
    assert own == set(mutate.TARGETS["contrast"].split())


@pytest.mark.parametrize("module", mutate.TARGETS)
def test_mutants_are_other_code_of_functions_that_are_there(module):
    found = list(mutate.mutants(module, mutate.TARGETS[module].split()))
    assert found
    assert len({mutant.key for mutant in found}) == len(found)
    for mutant in found:
        now = inspect.unwrap(mutate.function_of(mutant)).__code__
        assert mutant.code.co_name == now.co_name
        assert mutant.code.co_freevars == now.co_freevars
        changed = (mutant.code.co_code, mutant.code.co_consts, mutant.code.co_names, mutant.code.co_varnames)
        assert changed != (now.co_code, now.co_consts, now.co_names, now.co_varnames), mutant.key


def test_mutants_that_count_as_equal_are_mutants():
    every = {mutant.key for module, names in mutate.TARGETS.items() for mutant in mutate.mutants(module, names.split())}
    assert set(json.loads(mutate.EQUIVALENT.read_text())) <= every


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a + b", ["a - b"]), ("a > b", ["a >= b", "a < b"]), ("not a", ["a"]), ("a and b", ["a or b"]),
        ("a if b else c", ["c if b else a"]), ("True", ["False"]), ("2", ["3"]), ("torch.inf", ["0.0"]),
        ("a.amax(b)", ["a.amin(b)"]), ("a.exp()", ["a"]), ("a.clamp(min=b)", ["a", "a.clamp(max=b)"]),
        ("torch.where(a, b, c)", ["torch.where(a, c, b)"]), ("b.where(a, c)", ["c.where(a, b)"]), ("a", []),
    ],
)  # fmt: skip
def test_changes(before, after):
    node = ast.parse(before, mode="eval").body
    assert [ast.unparse(change) for change in mutate._changes(node)] == after


def test_survivors_are_told_from_the_killed(monkeypatch, capsys):
    """Without pytest in the forks: tests that notice every mutant but one."""
    every = list(mutate.mutants("decore", ["entropy", "divergence"]))
    kept = every[1].code

    def runs(module):
        held = {mutate.function_of(mutant).__code__ for mutant in every}
        return int(any(mutant.code in held for mutant in every if mutant.code is not kept))

    monkeypatch.setattr(mutate, "_run", runs)
    monkeypatch.setattr(mutate, "TARGETS", {"decore": "entropy divergence"})
    for jobs in (1, 3):
        found = mutate.measured(["decore"], jobs)
        assert found["survivors"] == [every[1].key]
        assert (found["killed"], found["mutants"]) == (len(every) - 1, len(every))
    assert f"survived  {every[1].key}" in capsys.readouterr().out
    monkeypatch.setattr(mutate, "_run", lambda module: 1)
    with pytest.raises(SystemExit, match="fail without a mutant"):
        mutate.measured(["decore"])
    monkeypatch.setattr(mutate, "_run", lambda module: 1 / 0)
    with pytest.raises(RuntimeError, match="could not be run"):
        mutate.measured(["decore"])
