"""Known weaknesses in the exact versions that constraints.txt installs: `make audit`.

pip-audit asks PyPI's advisory service. Where that cannot be reached it finds nothing and calls that a pass; here it is
said: nothing was audited.
"""

import json
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "build" / "audit"
PATIENCE = 300
"""Seconds that an audit may take."""
OK, FOUND, NOT_REACHED = 0, 1, 0
"""Exit codes; a service that is away fails no build."""


def verdict(report: Mapping[str, Any] | None, said: str = "") -> tuple[str, int]:
    """What to say of a report of pip-audit, and the exit code.

    Args:
        report: its JSON; None where it made none.
        said: what it wrote to its error stream.
    """
    every = list((report or {}).get("dependencies") or ())
    skipped = [each["name"] for each in every if "skip_reason" in each]
    audited = [each for each in every if "vulns" in each]
    if not audited:
        why = (said.strip().splitlines() or ["it knows none of the packages"])[-1][:300]
        return (
            f"NOT AUDITED: the advisory service could not be reached ({why}). Try again with network access.",
            NOT_REACHED,
        )
    found = [f"{each['name']} {each['version']}: {_told(weakness)}" for each in audited for weakness in each["vulns"]]
    lines = [f"{len(audited)} packages audited, {len(found)} known weaknesses.", *found]
    if skipped:
        lines.append(f"Not audited, for the service does not know them: {', '.join(skipped)}.")
    return "\n".join(lines), FOUND if found else OK


def _told(weakness: Mapping[str, Any]) -> str:
    fixed = ", ".join(weakness.get("fix_versions") or ()) or "no version"
    return f"{weakness['id']}, fixed in {fixed}"


def tool() -> Path:
    """pip-audit, in an environment of its own, so that what it needs is no part of ours."""
    program = TOOL / "bin" / "pip-audit"
    if not program.is_file():
        venv.EnvBuilder(clear=True, with_pip=True).create(TOOL)
        python = str(TOOL / "bin" / "python")
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pip-audit"], check=True
        )
    return program


def main() -> int:
    """Audit and say what came of it."""
    listed = str(ROOT / "constraints.txt")
    options = ["-r", listed, "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run([str(tool()), *options], capture_output=True, text=True, check=False, timeout=PATIENCE)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        text, code = verdict(None, f"pip-audit could not be installed, or did not come back: {error}")
        sys.stdout.write(f"{text}\n")
        return code
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = None
    warnings = [line for line in done.stderr.splitlines() if not line.startswith("WARNING") and "No known" not in line]
    text, code = verdict(report, "\n".join(warnings))
    sys.stdout.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
