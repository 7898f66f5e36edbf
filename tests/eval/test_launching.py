"""Sweeps whose jobs run elsewhere: through submitit on this machine, and as an array of Slurm jobs."""

import os
import sys

import pytest
from hydra.core.config_store import ConfigStore
from sightline.eval.cli import main
from sightline.eval.config import from_config, multirun
from sightline.eval.errors import ConfigError, JobFailed, MissingPackage

SLURM = "hydra/launcher=slurm"
SBATCH = """#!/bin/bash
cp "$1" "$SPOOL/sbatch.sh"
export SLURM_JOB_ID=77 SLURM_ARRAY_JOB_ID=77 SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
export SLURM_JOB_NUM_NODES=1 SLURM_JOB_NODELIST=here
for task in 0 1; do
  {
    [ -e "$SPOOL/broken" ] || SLURM_ARRAY_TASK_ID=$task bash "$1"
    touch "$SPOOL/ended-$task"
  } > "$SPOOL/log-$task" 2>&1 &
done
echo "Submitted batch job 77"
"""
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do [[ "$1" == --unbuffered ]] && shift || shift 2; done
exec "$@"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
for task in 0 1; do [ -e "$SPOOL/ended-$task" ] && echo "77_$task|FAILED|here" || echo "77_$task|RUNNING|here"; done
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A machine with Slurm: its commands take what submitit hands them, and run it here. Gives their folder."""
    spool = tmp_path / "slurm"
    spool.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (spool / name).write_text(text)
        (spool / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{spool}:{os.environ['PATH']}")
    monkeypatch.setenv("SPOOL", str(spool))
    monkeypatch.chdir(tmp_path)
    return spool


def test_jobs_of_submitit_write_the_bytes_of_one_process(overrides, tmp_path, capsys):
    asked = overrides("decoder=greedy,vcd", "run.limit=2", "run.threads=1")
    here, sent = tmp_path / "here", tmp_path / "sent"
    assert main(["run", "-m", *asked, f"run.dir={here}"]) == 0
    said = capsys.readouterr().out
    assert main(["run", "-m", "hydra/launcher=submitit_local", *asked, f"run.dir={sent}"]) == 0
    assert capsys.readouterr().out == said.replace(str(here), str(sent)), "the scores are shown here as well"
    folders = sorted(path.name for path in here.iterdir() if path.is_dir())
    assert len(folders) == 2
    for name in folders:
        for file in ("samples/pope.jsonl", "metrics.json"):
            assert (sent / name / file).read_bytes() == (here / name / file).read_bytes()
    assert len(list((sent / ".submitit").glob("*/*_result.pkl"))) == 2


def test_an_array_of_slurm_jobs(slurm, tmp_path):
    asked = ["decoder=greedy,vcd", "run.dir=sweep", "hydra.launcher.partition=long", "hydra.launcher.mem_gb=9"]
    done = multirun([SLURM, *asked], from_config)
    assert [settings.decoder.name for _, (settings, _) in done] == ["greedy", "vcd"]
    assert {settings.run.dir for _, (settings, _) in done} == {"sweep"}
    script = (slurm / "sbatch.sh").read_text()
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    flags = dict(line.partition("=")[::2] for line in lines)
    told = {
        "job-name": "sightline",
        "partition": "long",
        "gres": "gpu:1",
        "cpus-per-task": "4",
        "mem": "9GB",
        "time": "240",
        "array": "0-1%2",
        "requeue": "",
        "signal": "USR2@120",
    }
    assert {name: flags.get(name) for name in told} == told
    assert "account" not in flags
    assert f"--output={tmp_path}/sweep/.submitit/%A_%a" in script.replace("'", "")
    assert sys.executable in script


def test_a_job_that_dies_without_a_word(slurm, monkeypatch):
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0.1)  # of files that come late over a network
    (slurm / "broken").touch()
    with pytest.raises(JobFailed, match=r"has no result: .*Logs are in sweep/\.submitit\..*same command goes on"):
        multirun([SLURM, "decoder=greedy,vcd", "run.dir=sweep"], from_config)


def test_a_job_that_slurm_refuses(slurm):
    (slurm / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition specified: lnog' >&2\nexit 1\n")
    with pytest.raises(JobFailed, match="invalid partition specified: lnog"):
        multirun([SLURM, "decoder=greedy,vcd", "hydra.launcher.partition=lnog", "run.dir=sweep"], from_config)


def test_errors_of_a_job_are_its_own(slurm):
    with pytest.raises(ConfigError, match=r"run\.limit must be 1 or more"):
        multirun([SLURM, "run.limit=0,1", "run.dir=sweep"], from_config)


def test_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no `srun` on this machine\. Start the sweep on a login node"):
        multirun([SLURM, "decoder=greedy,vcd"], from_config)


@pytest.mark.parametrize("name", ["slurm", "submitit_slurm", "submitit_local"])
def test_without_the_extra_the_error_says_what_to_install(name, monkeypatch, capsys):
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    for choice in [choice for choice in launchers if choice.startswith("submitit")]:
        monkeypatch.delitem(launchers, choice)
    with pytest.raises(MissingPackage, match=r'pip install "sightline\[slurm\]"'):
        multirun([f"hydra/launcher={name}", "decoder=greedy,vcd"], from_config)
    assert main(["run", "-m", f"hydra/launcher={name}", "decoder=greedy,vcd"]) == 2
    assert "sightline[slurm]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["-m", "hydra/launcher=slrum"], "There is no launcher 'slrum'. Choose hydra/launcher=basic | slurm"),
        ([SLURM], "Add -m: a sweep of one will do."),
        (["hydra.launcher.mem_gb=3"], "Add -m"),
        (["-m", SLURM, "hydra.launcher.memgb=3"], "The launcher has no field 'memgb'."),
    ],
)
def test_mistakes_are_explained(asked, said, capsys):
    assert main(["run", *asked, "decoder=greedy"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


FOREIGN = {
    "launcher": "_target_: os.system\ncommand: echo\n",
    "hydra_logging": "version: 1\nhandlers: {a: {'()': os.getcwd}}\nroot: {handlers: [a]}\n",
    "job_logging": "version: 1\nhandlers: {a: {class: os.getcwd}}\nroot: {handlers: [a]}\n",
}


@pytest.mark.parametrize("group", FOREIGN)
def test_code_of_others_is_never_called(group, tmp_path):
    place = tmp_path / "hydra" / group
    place.mkdir(parents=True)
    (place / "mine.yaml").write_text(FOREIGN[group])
    with pytest.raises(ConfigError, match=r"names the code 'os\.\w+', which a configuration may not"):
        multirun([f"hydra/{group}=mine"], from_config, str(tmp_path))
