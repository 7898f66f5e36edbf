"""What can be written on the command line, and what is said about mistakes."""

import dataclasses

import pytest
from omegaconf import OmegaConf
from sightline import decoders
from sightline.eval.config import GROUPS, choices, compose_settings, conf_folder, multirun
from sightline.eval.errors import ConfigError
from sightline.eval.settings import GenerationSettings
from sightline.eval.tasks import registry as tasks

ALL = [(group, name) for group in GROUPS for name in choices(group)]


def refused(*overrides):
    with pytest.raises(ConfigError) as error:
        compose_settings(overrides)
    return str(error.value)


@pytest.mark.parametrize(("group", "name"), [pair for pair in ALL if pair[1] != "local"])
def test_every_choice_composes(group, name):
    compose_settings([f"{group}={name}"])


@pytest.mark.parametrize(("group", "name"), ALL)
def test_every_field_has_a_comment(group, name):
    lines = (conf_folder() / group / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    for line in lines:
        is_field = line and not line.startswith(("#", "defaults:", "  - ")) and not line.endswith(":")
        assert not is_field or " # " in line, line


@pytest.mark.parametrize("name", decoders.names())
def test_decoder_files_hold_the_defaults_of_their_strategy(name):
    assert name in choices("decoder")
    settings, _ = compose_settings([f"decoder={name}"])
    strategy = decoders.build(settings.decoder.name, dict(settings.decoder.params))
    assert strategy == decoders.build(name)
    assert set(settings.decoder.params) == {spec.name for spec in dataclasses.fields(strategy)}


@pytest.mark.parametrize("name", tasks.names())
def test_task_files_hold_the_defaults_of_their_task(name):
    settings, _ = compose_settings([f"task={name}"])
    assert settings.task.params == tasks.get(name).options


def test_defaults():
    settings, tree = compose_settings([])
    assert (settings.model.path, settings.decoder.name, settings.task.name) == ("tiny-llava", "greedy", "pope_scenes")
    assert (settings.model.dtype, settings.prompt.suffix, settings.generation.mode) == ("float64", "", "greedy")
    assert set(tree) == {"model", "decoder", "task", "prompt", "generation", "run"}


def test_settings_may_refer_to_each_other():
    settings, tree = compose_settings(["decoder=vcd", "run.dir=out/${decoder.key}-${decoder.alpha}"])
    assert settings.run.dir == tree["run"]["dir"] == "out/vcd-1.0"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["decoder=vdc"], "There is no decoder 'vdc'. Did you mean 'vcd'?"),
        (["decodr=vcd"], "There is no group 'decodr'. Did you mean 'decoder'?"),
        (["decoder=vcd", "decoder.alpah=1"], "There is no setting 'decoder.alpah'. Did you mean 'decoder.alpha'?"),
        (["decoder.noise_step=1"], "It belongs to decoder=vcd."),
        (["generation.temperature=2"], "It belongs to generation=sample."),
        (["run.batchsize=3"], "Did you mean 'run.batch_size'?"),
        (["+run.batchsize=3"], "Did you mean 'run.batch_size'?"),
        (["+extra=3"], "There is no section 'extra'"),
        (["experiment=tune"], "There is no experiment 'tune'"),
        (["model=null"], "cannot be set to null"),
        (["nonsense"], "Cannot read the override 'nonsense'"),
        (["run.dir=a=b"], "Cannot read the override"),
        (["decoder=vcd,greedy"], "Add -m"),
        (["model=local"], "model.path is not set"),
        (["model.dtype=float23"], "'float23'. Did you mean 'float32'?"),
        (["run.batch_size=many"], "run.batch_size must be a whole number, got 'many'"),
        (["run.batch_size=0"], "run.batch_size must be 1 or more, got 0"),
        (["run.limit=1.5"], "run.limit must be a whole number or null, got 1.5"),
        (["run.limit=true"], "run.limit must be a whole number or null, got True"),
        (["run.progress=perhaps"], "run.progress must be auto, true or false"),
        (["generation=sample", "generation.temperature=0"], "generation.temperature must be above 0"),
        (["generation=sample", "generation.top_p=0"], "generation.top_p must be in (0, 1]"),
        (["generation=sample", "generation.temperature=inf"], "generation.temperature must be a number, got inf"),
        (["generation=beam", "generation.num_beams=1"], "generation.num_beams must be 2 or more"),
        (["generation.mode=sampel"], "Did you mean 'sample'?"),
        (["~decoder"], "decoder.key must be a name"),
        (["run.dir=${model.nam}"], "cannot be resolved"),
    ],
)
def test_mistakes_are_explained(overrides, said):
    message = refused(*overrides)
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "override",
    [
        "+decoder._target_=os.system",
        "+decoder={key: vcd, _target_: os.system}",
        "hydra.launcher._target_=os.system",
        "run.dir=${oc.env:HOME}",
        "run.dir='${oc.env:HOME,x}'",
        "run.dir=${oc.decode:'1'}",
        "run.dir=${${model.name}:x}",
        "run.dir=${oc.create:[1]}",
    ],
)
def test_code_and_environment_are_refused(override):
    assert "may not" in refused(override) or "Cannot read" in refused(override)


def test_files_are_held_to_the_same_rules(tmp_path):
    (tmp_path / "decoder").mkdir()
    file = tmp_path / "decoder" / "mine.yaml"
    file.write_text("key: vcd\nalpha: 0.25\n")
    settings, _ = compose_settings(["decoder=mine"], str(tmp_path))
    assert settings.decoder.params == {"alpha": 0.25}
    for bad in ("key: vcd\n_target_: os.system\n", "key: vcd\nalpha: ${oc.env:HOME}\n", "key: ${${a}.env:HOME}\n"):
        file.write_text(bad)
        with pytest.raises(ConfigError, match="may not"):
            compose_settings(["decoder=mine"], str(tmp_path))
    with pytest.raises(ConfigError, match="not a folder"):
        compose_settings([], str(tmp_path / "nowhere"))


def _echo(config):
    return OmegaConf.to_container(config.decoder)


def test_sweeps_run_every_combination(tmp_path):
    done = multirun(["decoder=vcd", "decoder.alpha=0.5,1", "decoder.noise_step=300,500", f"run.dir={tmp_path}"], _echo)
    assert [(value["alpha"], value["noise_step"]) for _, value in done] == [(0.5, 300), (0.5, 500), (1, 300), (1, 500)]
    with pytest.raises(ConfigError, match="'vdc'"):
        multirun(["decoder=greedy,vdc", f"run.dir={tmp_path}"], _echo)


def test_settled_generation():
    asked = GenerationSettings(mode="sample", temperature=0.5, max_new_tokens=None)
    assert asked.settled(None, 9).describe() == {
        "mode": "sample", "temperature": 0.5, "top_k": 0, "top_p": 1.0, "max_new_tokens": 9,
    }  # fmt: skip
    assert asked.settled("greedy", 9).describe() == {"mode": "greedy", "max_new_tokens": 9}
    assert asked.settled("sample", 9).temperature == 0.5
    greedy = GenerationSettings(max_new_tokens=3)
    assert greedy.settled("sample", 9).describe()["temperature"] == 1.0
    assert greedy.settled("sample", 9).max_new_tokens == 3
