"""The command line: what it prints, what it returns, how fast it starts."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sightline.eval import answering, cli, commands, listing, preparing

HEAVY = ("torch", "transformers", "hydra", "numpy", "PIL", "sightline.models", "sightline.decoders")


@pytest.fixture
def command(overrides, loaded, monkeypatch, capsys, tmp_path):
    """Runs the command line on the random model: `command("run", ...)` -> code, output, error output."""
    monkeypatch.setattr(preparing, "load_model", lambda settings: loaded)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIGHTLINE_DEBUG", raising=False)
    commands._HELD.clear()

    def call(name, *arguments):
        given = overrides(*arguments) if name == "run" else list(arguments)
        code = cli.main([name, *given])
        return code, *capsys.readouterr()

    yield call
    commands._HELD.clear()


def test_help_and_version(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)
    assert cli.main([]) == 2
    capsys.readouterr()
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"sightline \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_unknown_command(capsys):
    assert cli.main(["rum"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "Did you mean 'run'?" in err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    assert cli.main([name, "--help"]) == 0
    assert f"usage: sightline {name}" in capsys.readouterr().out
    assert cli.main([name, "--nonsense"]) == 2


def test_starting_imports_nothing_heavy():
    code = (
        "import sys, types; root = types.ModuleType('sightline'); root.__path__ = [sys.argv[1]];"
        "sys.modules['sightline'] = root; from sightline.eval.cli import main; main(['--help']); main(['rum']);"
        "print(sorted(set(sys.modules) & set(sys.argv[2:])), file=sys.stderr)"
    )
    root = Path(cli.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code, str(root), *HEAVY], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_run_score_and_show(command):
    code, out, err = command("run", "decoder=vcd", "run.dir=out")
    assert (code, err) == (0, "")
    assert "54 of 54 samples answered" in out
    assert "accuracy" in out
    assert Path("out/metrics.json").is_file()
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["command"][:2] == ["sightline", "run"]
    code, out, _ = command("score", "out", "--parser", "strict")
    assert code == 0
    assert json.loads(Path("out/metrics.json").read_text())["parser"] == "strict"
    assert command("score", "run.dir=out")[0] == 0


def test_run_names_its_folder_itself(command):
    assert command("run", "decoder=vcd", "decoder.alpha=0.5")[0] == 0
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(r"pope-random-llava-vcd-alpha=0\.5-greedy-[0-9a-f]{8}", folder.name)
    code, *_ = command("run", "decoder=vcd", "decoder.alpha=0.5")
    assert (code, len(list(Path("runs").iterdir()))) == (0, 1)


def test_sweep_and_its_folders(command):
    code, out, _ = command("run", "-m", "decoder=vcd", "decoder.alpha=0.5,1", "run.limit=2", "run.dir=sweep")
    assert code == 0
    names = sorted(path.name for path in Path("sweep").iterdir() if path.is_dir())
    assert len(names) == 2
    assert "vcd-alpha=0.5-greedy" in names[0]
    assert out.count("18 of 18 samples answered") == 2
    code, _, err = command("tune", "sweep")
    assert code == 2
    assert "validation" in err


def test_failed_samples_give_code_1(command, pope):
    (pope / "images" / "image_00.png").unlink()
    code, out, err = command("run", "run.dir=out")
    assert code == 1
    assert "45 of 54 samples answered" in out
    assert err.count("\n") == 1
    assert "9 of 54 samples have no answer; first: ImageError: image 'image_00.png'" in err
    assert command("run", "-m", "decoder=vcd", "run.dir=sweep")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["decoder=vdc"], "Did you mean 'vcd'?"),
        (["decoder=vcd", "decoder.alpha=-1"], "alpha must be >= 0"),
        (["task.data=nowhere"], "task.data=FOLDER"),
        (["-m", "decoder=greedy,vdc"], "Did you mean 'vcd'?"),
        (["-m", "decoder=vcd", "decoder.alpha=1,-1"], "alpha must be >= 0"),
    ],
)
def test_refusals_give_code_2(command, arguments, said):
    code, _, err = command("run", "run.dir=out", *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_empty_data_give_code_2(command, pope):
    (pope / "coco_pope_random.json").write_text("")
    code, _, err = command("run", "run.dir=out")
    assert (code, err.count("\n")) == (2, 1)
    assert "holds no questions" in err


def test_faults_of_ours_give_code_3(command, monkeypatch):
    def fault(*args, **kwargs):
        raise RuntimeError("never expected")

    monkeypatch.setattr(preparing, "make_plan", fault)
    code, _, err = command("run", "run.dir=out")
    assert code == 3
    assert err == "sightline: RuntimeError: never expected (a fault of ours; SIGHTLINE_DEBUG=1 shows where)\n"
    monkeypatch.setenv("SIGHTLINE_DEBUG", "1")
    assert "Traceback" in command("run", "run.dir=out")[2]


def test_interruption_says_how_to_go_on(command, monkeypatch):
    original, calls = answering.Answerer.ask, []

    def ask(self, *args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(answering.Answerer, "ask", ask)
    code, _, err = command("run", "run.dir=out")
    assert code == 130
    assert re.search(r"Stopped with \d+ of 54 samples answered\. Go on with:\n  sightline run .*run\.dir=out", err)
    assert command("score", "out")[0] == 2
    assert command("score", "out", "--allow-partial")[0] == 0
    assert command("run", "run.dir=out")[0] == 0


def test_settings_can_be_shown(command):
    code, out, _ = command("run", "decoder=vcd", "decoder.alpha=0.5", "--cfg")
    assert code == 0
    assert "alpha: 0.5" in out
    assert not Path("runs").exists()


def test_lists(command):
    code, out, _ = command("decoders")
    assert code == 0
    for word in ("vcd", "control", "image", "alpha=1.0", "noise_step=500", "greedy"):
        assert word in out
    assert "tiny-llava" in command("models")[1]
    assert "llava-hf/llava-1.5-7b-hf" in command("models")[1]
    assert "pope_scenes" in command("tasks")[1]


@pytest.mark.parametrize("what", ["decoders", "models", "tasks"])
def test_lists_fit_a_terminal(command, what):
    assert max(map(len, command(what)[1].splitlines())) <= 110


def test_capabilities_as_a_table_of_markdown(command, tmp_path):
    code, table, _ = command("decoders", "--markdown")
    assert code == 0
    vcd, greedy = (
        next(line for line in table.splitlines() if line.startswith(f"| `{key}` |")) for key in ("vcd", "greedy")
    )
    assert vcd.startswith("| `vcd` | VCD | strategy | image | 1 | - | ")
    assert greedy.startswith("| `greedy` | Greedy | control | - | - | - | ")
    assert vcd.endswith(" | - |"), "text models have no image to contrast"
    assert not greedy.endswith(" | - |")
    assert len({line.count("|") for line in table.splitlines()}) == 1
    file = tmp_path / "page.md"
    file.write_text(f"# Before\n{listing.BEGIN}\nold\n{listing.END}\nAfter\n")
    assert command("decoders", "--into", str(file))[0] == 0
    assert file.read_text() == f"# Before\n{listing.BEGIN}\n{table}{listing.END}\nAfter\n"
    file.write_text("# No place\n")
    assert "has no place for the table. Mark it with" in command("decoders", "--into", str(file))[2]
    assert "cannot be read" in command("decoders", "--into", str(tmp_path / "none.md"))[2]


def test_folders_that_are_none(command):
    code, _, err = command("score", "nowhere")
    assert code == 2
    assert err == (
        "sightline: 'nowhere' is not a folder. Give a run folder, as `sightline run` names it; "
        "a pattern that ends in */ leaves files out.\n"
    )
