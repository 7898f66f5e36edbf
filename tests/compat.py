"""Tests against the oldest and the newest transformers that pyproject.toml allows, each in an environment of its own.

    python tests/compat.py                     both, all tests
    python tests/compat.py oldest --pairwise   the oldest, and of the tests those of tests/matrix alone

An environment lies in build/compat/ and is laid over the one that runs this: what the two share is installed once, and
transformers, with what it needs in other versions, comes from the upper one.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "compat"
LOOSE = ("transformers", "tokenizers", "huggingface-hub", "hf-xet", "typer")
"""Packages whose version is transformers' own choice."""
BELOW = """
import importlib.metadata as held, json, re
print(json.dumps({re.sub("[-_.]+", "-", each.metadata["Name"]).lower(): each.version for each in held.distributions()}))
"""


def bounds() -> tuple[str, str]:
    """The oldest version and the whole range, such as `5.17` and `>=5.17,<6`, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (needed,) = (each for each in project["dependencies"] if re.match(r"transformers\b", each))
    asked = needed.removeprefix("transformers")
    return asked.split(">=")[1].split(",")[0], asked


def requirement(which: str) -> str:
    """What pip is asked for."""
    oldest, asked = bounds()
    return f"transformers=={oldest}.*" if which == "oldest" else f"transformers{asked}"


def constraints(text: str) -> str:
    """constraints.txt without the packages that transformers chooses."""
    lines = [line for line in text.splitlines() if plain(line.split("==")[0]) not in LOOSE]
    return "\n".join(lines) + "\n"


def environment(which: str) -> Path:
    """The interpreter of an environment with that transformers; made where there is none, or one of another version."""
    folder = BUILD / which
    python = folder / "bin" / "python"
    noted = folder / "asked.txt"
    wanted = f"{requirement(which)} over {sys.prefix}\n"
    if python.is_file() and noted.is_file() and noted.read_text() == wanted:
        return python
    venv.EnvBuilder(clear=True, with_pip=True).create(folder)
    below = sysconfig.get_path("purelib")
    (over,) = folder.glob("lib/python*/site-packages")
    (over / "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
    (folder / "constraints.txt").write_text(constraints((ROOT / "constraints.txt").read_text()))
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--ignore-installed"]
    held = _needs(python, install, folder, requirement(which))
    run(*install, "--no-deps", *held)
    noted.write_text(wanted)
    return python


def _needs(python: Path, install: Sequence[str], folder: Path, asked: str) -> list[str]:
    """That transformers, and what goes with it and is not below in the same version."""
    report = folder / "report.json"
    run(*install, "--dry-run", "--report", str(report), "-c", str(folder / "constraints.txt"), asked)
    told = subprocess.run([str(python), "-c", BELOW], check=True, capture_output=True, text=True).stdout
    below = json.loads(told)
    every = [each["metadata"] for each in json.loads(report.read_text())["install"]]
    return [f"{each['name']}=={each['version']}" for each in every if below.get(plain(each["name"])) != each["version"]]


def plain(name: str) -> str:
    """A package's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def run(*command: str) -> None:
    """Run a command; its failure is ours."""
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})


def passes(which: str, tests: Sequence[str], jobs: str) -> bool:
    """Whether these tests pass under that transformers; says which versions it has."""
    python = str(environment(which))
    told = "import transformers as t, torch; print('transformers', t.__version__, 'torch', torch.__version__)"
    run(python, "-c", told)
    command = [python, "-m", "pytest", "-n", jobs, *tests]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=False).returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the environments and run the tests; 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="*", choices=("oldest", "newest", []), help="default: both")
    parser.add_argument("--pairwise", action="store_true", help="tests/matrix alone, a cell for every pair")
    parser.add_argument("--jobs", default="2", help="processes of pytest; default: %(default)s")
    given = parser.parse_args(arguments)
    failed = False
    for which in given.which or ("oldest", "newest"):
        try:
            failed |= not passes(which, ["tests/matrix"] if given.pairwise else ["tests"], given.jobs)
        except subprocess.CalledProcessError as error:  # the other one is tried all the same
            sys.stdout.write(f"The environment of the {which} transformers could not be made: {error}\n")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
