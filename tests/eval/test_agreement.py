"""`sightline bench --agreement`: what counts as a change, how often, and where it is refused."""

import json
import math

import pytest
import sightline
import torch
from scipy.stats import beta
from sightline.eval.bench import agreement
from sightline.eval.bench.agreement import BATCH, SEQUENTIAL, Told
from sightline.eval.cli import main


def told(tokens, *gaps):
    """An answer whose token has a score of 1, and all others 1 less the gap of its step."""
    scores = torch.full((len(tokens), 10), 1.0)
    for step, gap in enumerate(gaps):
        scores[step] -= gap
    scores[range(len(tokens)), tokens] = 1.0
    return Told(list(tokens), scores)


def held(first, second):
    return agreement._held("bfloat16", "vcd", BATCH, first, second)


def test_tokens_count_up_to_the_first_change():
    first = [told([1, 2, 3, 4], 0, 0.25, 0, 0), told([5, 6]), told([7, 8, 9], 0, 0, 0.5)]
    second = [told([1, 9, 9, 9]), told([5, 6]), told([7, 8, 1])]
    found = held(first, second)
    assert (found.tokens, found.changed, found.prompts) == (2 + 2 + 3, 2, 3)
    assert found.widest == pytest.approx(0.5)
    assert found.rate == pytest.approx(2000 / 7)
    low, high = found.bounds()
    assert (low, high) == pytest.approx((1000 * beta.ppf(0.025, 2, 6), 1000 * beta.ppf(0.975, 3, 5)))
    assert held(first, first).changed == 0
    assert held(first, first).tokens == 9
    assert held(first, first).widest is None


def test_a_token_that_was_cut_is_named():
    found = held([told([1], math.inf)], [told([2])])
    assert found.widest == math.inf
    assert agreement.shown([found]).splitlines()[1].split()[-1] == "cut"
    assert agreement.as_json([found])[0]["widest"] == "cut"
    json.dumps(agreement.as_json([found]), allow_nan=False)


@pytest.mark.parametrize(("model", "decoder"), [("tiny-llava", "vcd"), ("tiny-llama", "dagcd")])
def test_in_float64_nothing_changes(model, decoder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    asked = [
        "bench",
        model,
        "--agreement",
        "--prompts",
        "5",
        "--batch-size",
        "3",
        "--new-tokens",
        "6",
        "--device",
        "cpu",
    ]
    assert main([*asked, "--device", "cpu", "--dtype", "float64", "--decoders", decoder, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "agreement.json").read_text())["found"]
    branched = decoder == "vcd"
    assert [row["compared"] for row in rows] == [BATCH, *([SEQUENTIAL] if branched else []), BATCH]
    assert [row["decoder"] for row in rows] == ["greedy generate()", *[decoder] * (1 + branched)]
    assert all(row["changed"] == 0 and row["prompts"] == 5 and row["tokens"] > 5 for row in rows)
    assert "batches of 3" in capsys.readouterr().out
    assert (tmp_path / "agreement.md").read_text().count("| float64 |") == len(rows)


def test_prompts_differ_in_length_and_repeat(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    loaded = sightline.load("tiny-llama", device="cpu")
    first, again = (agreement.prompts(loaded, 20) for _ in range(2))
    assert first == again
    assert len({len(prompt.text) for prompt in first}) > 3
    assert all(prompt.passage and prompt.passage in prompt.text for prompt in first)


def test_random_weights_are_refused(capsys):
    assert main(["bench", "llava-0.5b", "--agreement"]) == 2
    assert "--agreement needs a trained model" in capsys.readouterr().err
    assert main(["bench", "tiny-llava", "--agreement", "--prompts", "0"]) == 2
    assert "--prompts must be 1 or more" in capsys.readouterr().err
