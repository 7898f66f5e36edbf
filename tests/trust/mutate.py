"""How many small faults in the formulas the tests find: `python tests/trust/mutate.py [--json FILE] [--only NAME]`.

Each mutant is a formula of `TARGETS` with one thing changed: an operator, a comparison, a number, a call left out, a
branch turned round. Its tests run in a fork of this process, in which the function has the mutant's code. Libraries
for this (mutmut, cosmic-ray) copy or rewrite the package and import all of it, with torch, anew for each mutant; a fork
takes no time, and replacing a function's code reaches every module that holds the function.

Mutants that no input can tell from the original are listed in `equivalent_mutants.json`, each with its reason.
"""

import argparse
import ast
import contextlib
import copy
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
SECONDS = 300
"""What the tests of a mutant may take; a mutant that takes longer is killed, and counts so."""
NOT_RUN = 70
"""Exit code of a fork in which no test could be run: neither killed nor survived."""
PROPERTIES = "tests/trust/test_properties.py"
TARGETS = {
    "contrast": "log_probs widen plausible cut extrapolate",
    "vcd": "VCD.combine VCD.left", "cad": "CAD.combine CAD.left", "avc": "AVC.combine AVC.left",
    "iava": "IAVA.combine IAVA.left",
    "decore": "DeCoRe.combine DeCoRe.strength DeCoRe.left contrast entropy divergence",
    "head_controls": "MaskedOnly.combine", "controls": "CutOnly.keep Shift.combine shift",
    "hicd": "HICD.combine HICD.left contrast", "causalmm": "CausalMM.combine CausalMM.left contrast",
    "code": "CODE.combine CODE.keep CODE.left CODE.apart divergence likely",
    "dola": "DoLa.combine DoLa.keep furthest _kl",
    "dagcd": "DAGCD.combine DAGCD.sensed flags utilisation uncertainty ending raised",
    "context_tokens": "attention_ratio in_top",
    "cgvlm": "CGVLM.gate CGVLM.conflict interaction dividends spread",
    "together": "Together.combine Together.keep Together.gate Together._each",
    "approximate": "Approximate.sure Approximate.gate Approximate.combine Approximate.left Approximate.keep "
    "Approximate.decided",
    "strategy": "Strategy.keep Strategy.decided",
}  # fmt: skip
"""Module of `decoders/` -> the functions in it that make scores."""
TESTS = {
    "contrast": "tests/decoders/test_vcd.py", "head_controls": "tests/decoders/test_decore.py",
    "controls": "tests/decoders/test_vcd.py tests/decoders/test_attachment.py",
    "context_tokens": "tests/decoders/test_dagcd.py", "cad": "tests/decoders/test_context_baselines.py",
    "dola": "tests/decoders/test_context_baselines.py",
    "cgvlm": "tests/decoders/test_cgvlm.py tests/decoders/test_gate.py",
    "strategy": "tests/decoders/test_deferring.py",
}  # fmt: skip
"""Tests of a module beside the properties, where they are not those of its name."""
LAWS = {
    "contrast": "widen or cut or extrapolation or log_prob or vcd", "head_controls": "masked_only or random_heads",
    "controls": "cut_only or shift", "context_tokens": "dagcd", "together": "avc or chain or vcd",
    "approximate": "approximate", "strategy": "settled",
}  # fmt: skip
"""Which properties see a module, where it is not its name that chooses them."""
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
}  # fmt: skip
COMPARISONS = {
    ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE), ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
OPPOSITES = {"amax": "amin", "argmax": "argmin", "max": "min", "min": "max", "any": "all", "all": "any", "mean": "sum"}
DROPPED = ("masked_fill", "clamp", "log_softmax", "softmax", "exp", "log", "log1p", "abs", "pow", "div", "sigmoid")
"""Methods that may be left out: their argument stands for their result."""


class Mutant(NamedTuple):
    """A function with one change.

    Attributes:
        module: of `decoders/`.
        function: by its qualified name.
        name: what was changed, with a number where the same change is possible in several places.
        code: of the function.
    """

    module: str
    function: str
    name: str
    code: CodeType

    @property
    def key(self) -> str:
        """The name that the list of equivalent mutants has it under."""
        return f"{self.module}.{self.function}: {self.name}"


def mutants(module: str, functions: Sequence[str]) -> Iterator[Mutant]:
    """Every mutant of some functions of a module."""
    source = (ROOT / "decoders" / f"{module}.py").read_text(encoding="utf-8")
    for name in functions:
        seen: dict[str, int] = {}
        original = _found(ast.parse(source), name)
        for place in range(sum(1 for _ in _nodes(original))):
            for number in range(len(list(_changes(list(_nodes(original))[place])))):
                tree = ast.parse(source)
                node = list(_nodes(_found(tree, name)))[place]
                before = ast.unparse(node)
                _apply(tree, node, list(_changes(node))[number])
                after = ast.unparse(list(_changes(list(_nodes(original))[place]))[number])
                says = f"{before} -> {after}"
                seen[says] = seen.get(says, 0) + 1
                label = says if seen[says] == 1 else f"{says} ({seen[says]})"
                whole = compile(ast.fix_missing_locations(tree), f"{module}.py", "exec", dont_inherit=True)
                yield Mutant(module, name, label, _code(whole, name))


def _found(tree: ast.Module, name: str) -> ast.FunctionDef:
    body: list[Any] = tree.body
    for part in name.split("."):
        node = next(each for each in body if getattr(each, "name", None) == part)
        body = node.body
    return node


def _nodes(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """Expressions of a body, without its docstring."""
    for statement in function.body:
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            yield from (node for node in ast.walk(statement) if isinstance(node, ast.expr))


def _changes(node: ast.expr) -> Iterator[ast.expr]:
    """What may stand in the place of an expression."""
    new: Any = copy.deepcopy(node)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        new.op = OPERATORS[type(node.op)]()
        yield new
    elif isinstance(node, ast.Compare):
        for other in COMPARISONS.get(type(node.ops[0]), ()):
            turned = copy.deepcopy(node)
            turned.ops[0] = other()
            yield turned
    elif isinstance(node, ast.UnaryOp) and ast.unparse(node) != "-1":  # the last of two dimensions is the second
        yield new.operand
    elif isinstance(node, ast.BoolOp):
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield new
    elif isinstance(node, ast.IfExp):
        new.body, new.orelse = new.orelse, new.body
        yield new
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        yield ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, ast.Attribute) and node.attr == "inf":
        yield ast.Constant(0.0)
    elif isinstance(node, ast.Call):
        yield from _calls(node)


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    if not isinstance(node.func, ast.Attribute):
        return
    new: Any = copy.deepcopy(node)
    if node.func.attr in DROPPED:
        yield new.func.value
    if node.func.attr in OPPOSITES:
        turned: Any = copy.deepcopy(node)
        turned.func.attr = OPPOSITES[node.func.attr]
        yield turned
    if node.func.attr == "where":
        turned = copy.deepcopy(node)
        if len(turned.args) == 3:
            turned.args[1], turned.args[2] = turned.args[2], turned.args[1]
        else:  # the method: one.where(condition, other)
            turned.func.value, turned.args[1] = turned.args[1], turned.func.value
        yield turned
    if node.func.attr == "clamp":
        turned = copy.deepcopy(node)
        for keyword in turned.keywords:
            keyword.arg = {"min": "max", "max": "min"}[keyword.arg]
        yield turned


def _apply(tree: ast.AST, old: ast.expr, new: ast.expr) -> None:
    class Put(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return new if node is old else super().generic_visit(node)

    Put().visit(tree)


def _code(whole: CodeType, name: str) -> CodeType:
    for const in whole.co_consts:
        if isinstance(const, CodeType):
            if const.co_qualname == name:
                return const
            with contextlib.suppress(LookupError):
                return _code(const, name)
    raise LookupError(name)


def function_of(mutant: Mutant) -> FunctionType:
    """The function that a mutant is of."""
    found: Any = importlib.import_module(f"sightline.decoders.{mutant.module}")
    for part in mutant.function.split("."):
        found = getattr(found, part)
    return found


def survives(mutant: Mutant | None, module: str) -> bool:
    """Whether a module's tests pass under a mutant (or, without one, as things are), in a fork of this process."""
    return _passed(os.waitpid(_started(mutant, module), 0)[1], mutant)


def each_survives(every: Sequence[Mutant], module: str, jobs: int) -> Iterator[tuple[Mutant, bool]]:
    """The same of many mutants, so many at a time, as they end."""
    left, running = list(every)[::-1], {}
    while left or running:
        while left and len(running) < jobs:
            mutant = left.pop()
            running[_started(mutant, module)] = mutant
        child, status = os.wait()
        mutant = running.pop(child)
        yield mutant, _passed(status, mutant)


def _started(mutant: Mutant | None, module: str) -> int:
    """The process id of a fork that runs the tests; it ends with 0 where they pass."""
    child = os.fork()
    if child == 0:
        code = NOT_RUN
        try:  # nothing may leave the fork but by its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            signal.alarm(SECONDS)
            if mutant is not None:
                function_of(mutant).__code__ = mutant.code
            code = _run(module)
        finally:
            os._exit(code)
    return child


def _passed(status: int, mutant: Mutant | None) -> bool:
    if os.waitstatus_to_exitcode(status) == NOT_RUN:
        raise RuntimeError(f"The tests of {mutant.key if mutant else 'no mutant'} could not be run.")
    return status == 0


def _run(module: str) -> int:
    """The properties of a module's laws, then tests of its own; 1 where one fails."""
    import pytest  # noqa: PLC0415 - of the child alone

    own = TESTS.get(module, f"tests/decoders/test_{module}.py").split()
    laws = LAWS.get(module, module)
    quiet = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*quiet, PROPERTIES, "-k", laws]) != 0 or pytest.main([*quiet, *own]) != 0)


def measured(modules: Sequence[str], jobs: int = 1) -> dict[str, Any]:
    """Run every mutant of these modules; prints each that survives, and how far it has come."""
    equivalent: dict[str, str] = json.loads(EQUIVALENT.read_text(encoding="utf-8"))
    every = {module: list(mutants(module, TARGETS[module].split())) for module in modules}
    told = {mutant.key for each in every.values() for mutant in each}
    gone = [key for key in equivalent if key.split(".")[0] in modules and key not in told]
    if gone:
        raise SystemExit(f"{EQUIVALENT.name} lists mutants that no longer are: {'; '.join(gone)}")
    found: dict[str, Any] = {"mutants": 0, "killed": 0, "equivalent": 0, "survivors": [], "modules": {}}
    for module in modules:
        start = time.perf_counter()
        if not survives(None, module):
            raise SystemExit(f"The tests of {module} fail without a mutant.")
        tried = [mutant for mutant in every[module] if mutant.key not in equivalent]
        lived = [mutant.key for mutant, alive in each_survives(tried, module, jobs) if alive]
        found["equivalent"] += len(every[module]) - len(tried)
        found["mutants"] += len(every[module])
        found["killed"] += len(tried) - len(lived)
        found["survivors"] += sorted(lived)
        found["modules"][module] = [len(tried) - len(lived), len(tried)]
        sys.stdout.write("".join(f"survived  {key}\n" for key in sorted(lived)))
        seconds = time.perf_counter() - start
        sys.stdout.write(f"{module}: {len(tried) - len(lived)} of {len(tried)} mutants killed, {seconds:.0f} s\n")
        sys.stdout.flush()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 where less than nine in ten are killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="MODULE")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time; default: %(default)s")
    given = parser.parse_args(arguments)
    os.chdir(ROOT)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "SIGHTLINE_PROPERTIES": "mutants"}
    for name in ("torch", "transformers", "hypothesis", "pytest", "beartype", "sightline"):
        importlib.import_module(name)
    start = time.perf_counter()
    found = measured(given.only, given.jobs) | {"seconds": 0.0}
    found["seconds"] = round(time.perf_counter() - start, 1)
    counted = found["mutants"] - found["equivalent"]
    found["score"] = found["killed"] / counted
    sys.stdout.write(
        f"{found['killed']} of {counted} mutants killed: {found['score']:.1%} "
        f"({found['equivalent']} equivalent ones left out); {found['seconds']:.0f} s\n"
    )
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(found["score"] < 0.9)


if __name__ == "__main__":
    sys.exit(main())
