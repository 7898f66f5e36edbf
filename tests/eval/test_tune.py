"""Choosing a setting: on validation data, and there alone."""

import json

import pytest
from sightline.eval.config import compose_settings
from sightline.eval.errors import ConfigError, IncompleteRun, ScoreError, UsageError
from sightline.eval.tune import candidates, choose, write


@pytest.fixture
def sweep(tmp_path):
    """Makes runs without a model: `sweep(alpha=0.5, value=0.8)`."""

    def make(key="vcd", split: str | None = "validation", value: float | None = 0.5, limit=None, **params):
        folder = tmp_path / "sweep" / f"{key}-{len(list(tmp_path.rglob('manifest.json')))}"
        folder.mkdir(parents=True)
        options = {} if split is None else {"split": split}
        manifest = {
            "decoder": {"key": key, "params": params}, "model": {"name": "m"}, "limit": limit, "prompt": {},
            "task": {"name": "pope_scenes", "options": options}, "generation": {"mode": "greedy"},
        }  # fmt: skip
        tables = {"mean": {"accuracy": {"value": value}, "f1": {"value": 1 - (value or 0)}}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "metrics.json").write_text(json.dumps({"partial": False, "tables": tables}))
        return folder.parent

    return make


def test_the_best_of_each_decoder(sweep, tmp_path):
    for alpha, value in ((0.5, 0.7), (1.0, 0.8), (2.0, 0.6)):
        folder = sweep(alpha=alpha, noise_step=500, value=value)
    sweep("shift", delta=-0.5, value=0.75)
    best = choose(candidates(folder))
    assert best["vcd"].params == {"alpha": 1.0, "noise_step": 500}
    assert choose(candidates(folder, "f1"))["vcd"].params["alpha"] == 2.0
    assert choose(candidates(folder), lowest=True)["vcd"].params["alpha"] == 2.0
    path = write(best["vcd"], tmp_path / "out")
    settings, _ = compose_settings([f"decoder={path.stem}"], str(tmp_path / "out"))
    assert (settings.decoder.name, settings.decoder.params) == ("vcd", {"alpha": 1.0, "noise_step": 500})
    assert path.read_text().startswith("# Chosen by `sightline tune`: accuracy (mean) = 0.8000")


def test_ties_do_not_depend_on_order(sweep):
    sweep(alpha=1.0, value=0.8)
    folder = sweep(alpha=0.5, value=0.8)
    found = candidates(folder)
    assert choose(found)["vcd"].params == choose(found[::-1])["vcd"].params == {"alpha": 0.5}


@pytest.mark.parametrize("split", ["test", None])
def test_other_data_are_refused(sweep, split):
    sweep(alpha=1.0)
    with pytest.raises(ScoreError, match="validation data only"):
        candidates(sweep(alpha=0.5, split=split))


def test_runs_must_differ_in_parameters_alone(sweep):
    sweep(alpha=1.0)
    with pytest.raises(ScoreError, match="differ in limit"):
        choose(candidates(sweep(alpha=0.5, limit=3)))


def test_what_cannot_be_compared(sweep, tmp_path):
    with pytest.raises(UsageError, match="There is no run"):
        candidates(tmp_path)
    folder = sweep(alpha=1.0)
    with pytest.raises(ConfigError, match=r"'acuracy'.*'accuracy'"):
        candidates(folder, "acuracy")
    with pytest.raises(ConfigError, match="no table"):
        candidates(folder, table="all")
    sweep(alpha=2.0, value=None)
    with pytest.raises(ScoreError, match="no value of accuracy"):
        candidates(folder)
    (metrics,) = folder.glob("*-0/metrics.json")
    metrics.write_text(json.dumps({"partial": True, "tables": {}}))
    with pytest.raises(IncompleteRun, match="has not finished"):
        candidates(folder)
    metrics.unlink()
    with pytest.raises(IncompleteRun, match="sightline score"):
        candidates(folder)
