"""Builds wheel and source archive into dist/, checks both, and prints their sha256.

python tests/release.py
"""

import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


def output(*command: str) -> str:
    """What a command prints; its failure is ours."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def version() -> str:
    """The version in pyproject.toml, which CITATION.cff and CHANGELOG.md must have, too."""
    found = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    if found is None:
        raise SystemExit("pyproject.toml has no version.")
    for name, line in (("CITATION.cff", f"version: {found[1]}"), ("CHANGELOG.md", f"## {found[1]}")):
        if line not in (ROOT / name).read_text():
            raise SystemExit(f"{name} has no line {line!r}; see docs/release.md, step 2.")
    return found[1]


def main() -> None:
    """Refuse what must not be released, build, check."""
    name = version()
    if output("git", "status", "--porcelain"):
        raise SystemExit("There are changes that are not committed. Commit or stash them first.")
    if f"v{name}" in output("git", "tag").splitlines():
        raise SystemExit(f"v{name} is tagged already. Raise the version in pyproject.toml and CITATION.cff.")
    if DIST.exists() and any(DIST.iterdir()):
        raise SystemExit("dist/ is not empty. Remove what is in it (make clean).")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT)], check=True)
    files = sorted(DIST.iterdir())
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, files)], check=True)
    (archive,) = (file for file in files if file.name.endswith(".tar.gz"))
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
        (source,) = Path(folder).iterdir()
        again = Path(folder) / "again"
        subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(again), str(source)], check=True)
    for file in files:
        sys.stdout.write(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
