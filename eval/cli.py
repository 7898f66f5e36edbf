"""The `sightline` command.

Nothing heavy is imported before a command needs it, so that `--help` and mistakes answer at once. Exit codes: 0 done;
1 done, but some samples have no answer; 2 it cannot be done as asked; 3 a fault of ours; 130 stopped by the user.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version

OK, SAMPLES_FAILED, REFUSED, FAULT, STOPPED = 0, 1, 2, 3, 130

COMMANDS = {
    "run": "ask a model a task under a decoder, and score the answers",
    "score": "score run folders again, without a model",
    "compare": "hold runs against each other, sample by sample",
    "report": "a readable report of one run or a folder of runs",
    "leaderboard": "a list of runs, and the report over them",
    "gallery": "samples of runs side by side, and why words changed",
    "explain": "what a decoder did with one prompt, token by token",
    "play": "a page to try decoders side by side (needs the extra play)",
    "tune": "choose a decoder's setting from a sweep on validation data",
    "bench": "what decoders cost beside plain greedy decoding, side by side",
    "calibrate": "measure a model's heads once, for the decoders that need them",
    "build-pope": "make POPE's questions for a set of annotated images",
    "models": "list the models",
    "decoders": "list the decoders with their parameters",
    "tasks": "list the tasks",
    "presets": "list the settings of papers with the numbers they report",
    "matrix": "what each decoder does in each mode of generate(), family by family",
}

HELP = """\
usage: sightline COMMAND ...

Decoding that keeps vision-language models truthful to their evidence: run it, score it, compare it.

commands:
{commands}
  --version   show the version
  --help      show this help; `sightline COMMAND --help` shows more

A first run, with the small model and the scenes that come with the package:
  sightline run decoder=vcd run.limit=20
  sightline report runs
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments after the program's name; None = those of the process.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        commands = "".join(f"  {command:<10}  {what}\n" for command, what in COMMANDS.items())
        sys.stdout.write(HELP.format(commands=commands))
        return OK if arguments else REFUSED
    if name == "--version":
        sys.stdout.write(f"sightline {version('sightline')}\n")
        return OK
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        return _complain(f"There is no command {name!r}. {guess}Commands: {', '.join(COMMANDS)}.")
    return _call(name, arguments[1:])


def _call(name: str, arguments: list[str]) -> int:
    """Run one command; every error becomes one sentence and an exit code."""
    try:
        commands = importlib.import_module(".commands", __package__)
        code = int(getattr(commands, name.replace("-", "_"))(arguments))
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse has said what is wrong
        return stop.code if isinstance(stop.code, int) else REFUSED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt as stop:
        return _stopped(stop, ["sightline", name, *arguments])
    except Exception as error:
        if os.environ.get("SIGHTLINE_DEBUG"):
            traceback.print_exc()
        if _expected(error):
            return _complain(str(error))
        kind = type(error).__name__
        return _complain(f"{kind}: {error} (a fault of ours; SIGHTLINE_DEBUG=1 shows where)", FAULT)


def _expected(error: Exception) -> bool:
    """Whether it is one of the library's own errors, whose text is made to be read."""
    errors = sys.modules.get(f"{(__package__ or '').split('.', 1)[0]}.models.errors")
    return errors is not None and isinstance(error, errors.SightlineError)


def _stopped(stop: KeyboardInterrupt, command: list[str]) -> int:
    done, total = getattr(stop, "done", None), getattr(stop, "total", None)
    shlex = importlib.import_module("shlex")
    if done is None:
        return _complain("Stopped.", STOPPED)
    return _complain(f"Stopped with {done} of {total} samples answered. Go on with:\n  {shlex.join(command)}", STOPPED)


def _complain(text: str, code: int = REFUSED) -> int:
    sys.stderr.write(f"sightline: {text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
