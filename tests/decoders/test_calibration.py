"""Calibration: golden vectors, files and their refusals, and heads that are found because they were planted."""

import json
import math
from dataclasses import replace

import pytest
import sightline
import torch
from copier import HEAD, NEEDLE, WORDS, Words, copier, story
from sightline.decoders import calibration
from sightline.decoders.calibration import Detection, HeadRanking, detector_rows, lists, needles, retrieval
from sightline.models import adapter_for, errors
from sightline.models.attention import LayerState
from transformers import LlamaConfig, LlavaForConditionalGeneration

# Scores


def test_head_scores_equal_the_reference(golden):
    vectors = golden("decore_retrieval_score")
    ids, span = torch.tensor(vectors["prompt_ids"]), tuple(vectors["needle_span"])
    trials = []
    for sample in vectors["samples"]:
        total = torch.zeros(2, 3)
        for step in sample["steps"]:
            looked = torch.tensor(step["attention"]).argmax(-1)
            assert looked.tolist() == step["argmax_position"]
            total += retrieval.copied(looked, ids, span, step["predicted_token"]) / (span[1] - span[0])
        torch.testing.assert_close(total, torch.tensor(sample["score_per_head"], dtype=torch.float32))
        trials.append(total)
    for name, scores in vectors["head_counter"].items():
        layer, head = map(int, name.split("-"))
        assert [float(trial[layer, head]) for trial in trials] == pytest.approx(scores, abs=1e-6)
    ranked = calibration.rank(torch.stack(trials).mean(0))
    assert [[layer, head] for layer, head, _ in ranked] == vectors["ranked_heads"]
    for layer, head, score in ranked:
        assert score == pytest.approx(vectors["mean_score"][f"{layer}-{head}"], abs=1e-6)
    top = HeadRanking("retrieval", "golden", 2, 3, ranked).top(2)
    assert [list(pair) for pair in top] == vectors["top2"]


def test_needle_places_equal_the_reference(golden):
    cases = golden("decore_retrieval_score")["insertion_cases"]
    assert len(cases) == 10
    for case in cases:
        at = retrieval.insertion_index(case["context_ids"], case["depth_percent"], {29889, 869})
        assert at == case["needle_at"]
        assert [*case["context_ids"][:at], *case["needle_ids"], *case["context_ids"][at:]] == case["result_ids"]


def test_columns_of_a_window_are_counted_from_the_end():
    readings = [torch.tensor([[[0.1, 0.9, 0.0]]]), torch.tensor([[[0.0, 0.0, 0.1, 0.9, 0.0]]])]
    states = [LayerState(reading=reading) for reading in readings]
    assert retrieval.most_attended(states, 5).tolist() == [[3], [3]]


def test_ties_keep_the_order_of_layers():
    ranked = calibration.rank(torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.0, 0.7]]))
    assert [entry[:2] for entry in ranked] == [(1, 2), (0, 1), (1, 0), (0, 0), (0, 2), (1, 1)]


def test_recall_counts_words():
    assert retrieval.recall("feed the grey geese", "They FEED the geese.") == 0.75
    assert retrieval.recall("the cat the dog", "the") == 0.25
    assert retrieval.recall("the cat", "") == 0


def test_prose_does_not_repeat_itself_and_hides_no_answer():
    told = needles.prose(9600)
    sentences = told.split(". ")
    assert len(sentences) == len(set(sentences)) == 9600
    assert needles.prose(10) == needles.prose(20)[: len(needles.prose(10))]
    assert len(needles.NEEDLES) >= 6
    assert not any(needle.answer in told for needle in needles.NEEDLES)


# A head that copies, made by hand


@pytest.fixture(scope="module", name="copier")
def copying_model():
    return copier()


SETTINGS = Detection(lengths=(60, 90), depths=(0, 50, 100), max_new_tokens=8)


@pytest.mark.parametrize("mode", ["generated", "forced"])
def test_detection_finds_the_planted_head(copier, mode):
    settings = Detection(SETTINGS.lengths, SETTINGS.depths, 8, mode)
    seen = []

    def track(trials):
        for trial in trials:
            seen.append(trial)
            yield trial

    found = calibration.detect(
        adapter_for(copier), Words(), settings, name="copier", needles=(NEEDLE,), story=story, track=track
    )
    assert found.ranked[0] == (*HEAD, 1.0)
    assert found.ranked[1][2] < 0.3
    assert len(found.ranked) == 8
    assert found.settings["trials"] == found.settings["trials_kept"] == len(seen) == 6
    assert found.settings["mode"] == mode
    again = calibration.detect(adapter_for(copier), Words(), settings, name="copier", needles=(NEEDLE,), story=story)
    assert again == found


def test_trials_are_exact(copier):
    for depth in (0, 30, 100):
        trial = retrieval.build_trial(Words(), NEEDLE, 80, depth, 8, story)
        assert len(trial.ids) == 72
        assert Words().decode(trial.ids[slice(*trial.span)]) == NEEDLE.answer
        assert trial.ids[0] == 1
        before = trial.ids[trial.span[0] - 2]
        assert before == 1 if depth == 0 else WORDS[before] == "." or depth == 100
        assert WORDS[trial.ids[-1]] == "answer:"


def test_disabling_the_found_head_stops_the_copy(copier, tmp_path):
    found = calibration.detect(adapter_for(copier), Words(), SETTINGS, needles=(NEEDLE,), story=story)
    path = found.save(tmp_path / "heads.json")
    trial = retrieval.build_trial(Words(), NEEDLE, 60, 50, 8, story)
    batch = {"input_ids": torch.tensor([trial.ids]), "attention_mask": torch.ones(1, len(trial.ids), dtype=torch.long)}
    settings = {"max_new_tokens": 4, "do_sample": False}
    said = Words().decode(copier.generate(**batch, **settings)[0, len(trial.ids) :].tolist())
    assert said == NEEDLE.answer
    masked = sightline.MaskedOnly(num_heads=1, heads=str(path))
    silent = sightline.generate(copier, masked, batch, **settings)[0, len(trial.ids) :].tolist()
    assert retrieval.recall(NEEDLE.answer, Words().decode(silent)) == 0


def test_models_that_do_not_answer_are_told_of_the_other_mode(llama):
    settings = Detection(lengths=(60,), depths=(50,), max_new_tokens=4)
    with pytest.raises(calibration.CalibrationFailed, match="none of 1 trials"):
        calibration.detect(adapter_for(llama), Words(), settings, needles=(NEEDLE,), story=story)
    forced = Detection((60,), (50,), 4, "forced")
    assert len(calibration.detect(adapter_for(llama), Words(), forced, needles=(NEEDLE,), story=story).ranked) == 12


def test_lengths_must_fit(llama):
    with pytest.raises(errors.InvalidParameter, match=r"at most 256, what this model reads, got 1000. Use lengths"):
        calibration.detect(adapter_for(llama), Words(), Detection(lengths=(60, 1000)), needles=(NEEDLE,), story=story)
    with pytest.raises(errors.InvalidParameter, match="no room for a needle") as caught:
        calibration.detect(adapter_for(llama), Words(), Detection(lengths=(20,), max_new_tokens=8), needles=(NEEDLE,))
    shortest = int(str(caught.value).split("lengths of ")[1].split()[0])
    assert len(retrieval.build_trial(Words(), NEEDLE, shortest, 0, 8).ids) == shortest - 8
    for bad in ({"lengths": ()}, {"depths": (101,)}, {"max_new_tokens": 0}, {"mode": "fast"}):
        with pytest.raises(errors.InvalidParameter, match=next(iter(bad))):
            Detection(**bad)


def test_a_model_is_asked_no_further_than_its_end_token(copier):
    """The planted head goes through the whole answer and then ends, well before the limit."""
    settings = Detection((60,), (50,), 30)
    made, calls = retrieval.build_trial(Words(), NEEDLE, 60, 50, 30, story=story), []
    behind = made.span[1]
    trial = replace(made, ids=(*made.ids[:behind], Words.eos_token_id, *made.ids[behind:]))
    handle = copier.register_forward_hook(lambda *_: calls.append(1))
    try:
        scores = retrieval.run_trial(adapter_for(copier), Words(), trial, settings)
        said = detector_rows.reply(adapter_for(copier), Words(), trial.ids, 30)
    finally:
        handle.remove()
    assert scores is not None
    assert Words().decode(said) == NEEDLE.answer
    assert len(calls) == 2 * (len(said) + 1)


# Image heads


def test_image_heads_are_ranked_by_attention_on_the_image(llava, inputs):
    """Against eager attention, one prompt at a time."""
    batches = [inputs((5, 8), seed=1), inputs((6,), seed=2)]
    found = calibration.rank_image_heads(adapter_for(llava), batches, name="random", settings={"scenes": 3})
    assert found.settings == {"scenes": 3, "prompts": 3}
    total = torch.zeros(3, 4, dtype=torch.float64)
    llava.set_attn_implementation("eager")
    try:
        for batch in batches:
            for row in range(len(batch["input_ids"])):
                length = int(batch["attention_mask"][row].sum())
                ids = batch["input_ids"][row : row + 1, -length:]
                with torch.no_grad():
                    maps = llava(
                        input_ids=ids, pixel_values=batch["pixel_values"][[row]], output_attentions=True
                    ).attentions  # fmt: skip
                total += torch.stack(maps)[:, 0, :, -1][..., ids[0] == 5].sum(-1) / 3
    finally:
        llava.set_attn_implementation("sdpa")
    for layer, head, score in found.ranked:
        assert score == pytest.approx(float(total[layer, head]), abs=1e-5)
    scores = [score for _, _, score in found.ranked]
    assert scores == sorted(scores, reverse=True)
    assert found == calibration.rank_image_heads(adapter_for(llava), batches, name="random", settings={"scenes": 3})


def test_image_heads_need_images(llava, llama, inputs):
    with pytest.raises(errors.MissingImage, match="takes none"):
        calibration.rank_image_heads(adapter_for(llama), [inputs()])
    with pytest.raises(calibration.CalibrationFailed, match="no image prompt"):
        calibration.rank_image_heads(adapter_for(llava), [])


# Files


@pytest.fixture
def measured(llava, inputs):
    return calibration.rank_image_heads(adapter_for(llava), [inputs((5, 8))], name="random")


def test_round_trip(measured, tmp_path, llava):
    path = measured.save(tmp_path / "deep" / "heads.json")
    assert calibration.load(path) == measured
    assert path.read_bytes() == calibration.load(path).save(tmp_path / "again.json").read_bytes()
    assert [item.name for item in path.parent.iterdir()] == ["heads.json"]
    held = json.loads(path.read_text())
    assert held["schema"] == 1
    assert held["version"] == sightline.__version__
    assert len(held["fingerprint"]) == 64
    assert calibration.find(str(path), adapter_for(llava)) == measured


def test_fingerprints_are_of_the_model_and_not_of_its_copy(llava, llama, tmp_path):
    own = calibration.fingerprint(adapter_for(llava))
    llava.save_pretrained(tmp_path)
    copy = LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert calibration.fingerprint(adapter_for(copy)) == own
    assert calibration.fingerprint(adapter_for(llama)) != own


def test_lists_of_other_models_are_refused(measured, tmp_path, llama, copier):
    path = str(measured.save(tmp_path / "heads.json"))
    with pytest.raises(calibration.CalibrationMismatch, match=r"fingerprints differ.*sightline calibrate"):
        calibration.find(path, adapter_for(llama))
    with pytest.raises(calibration.CalibrationMismatch, match="2 layers of 4"):
        calibration.find(path, adapter_for(copier))
    held = json.loads((tmp_path / "heads.json").read_text())
    (tmp_path / "heads.json").write_text(json.dumps(held | {"fingerprint": None}))
    assert calibration.find(path, adapter_for(llama)).ranked == measured.ranked


@pytest.mark.parametrize(
    ("change", "said"),
    [({"schema": 2}, "schema must be 1"), ({"what": "music"}, "what must be one of"), ({"layers": 1}, "no head"),
     ({"ranked": [[0, 0, 1.0], [0, 0, 0.5]]}, "listed twice"), ({"ranked": [[0, 0, math.nan]]}, "with score nan"),
     ({"ranked": [[0, -1, 0.5]]}, "no head 0--1"), ({"ranked": [[0, 0]]}, "not enough values"), (None, "is missing")],
)  # fmt: skip
def test_broken_files_are_refused(measured, tmp_path, change, said):
    path = measured.save(tmp_path / "heads.json")
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | change if change else {"schema": 1}))
    said = "missing" if change is None else said
    with pytest.raises(calibration.CalibrationInvalid, match=rf"heads.json' is no calibration file: .*{said}"):
        calibration.load(path)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(calibration.CalibrationMissing, match=r"no calibration file .*Make it: sightline calibrate"):
        calibration.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(calibration.CalibrationInvalid, match="no calibration file"):
        calibration.load(tmp_path / "bad.json")


# Which list is whose


def test_shipped_lists_equal_the_reference(golden):
    models = golden("decore_reference_heads")["models"]
    shipped = {calibration.load(lists.FOLDER / f"{name}.json").model: name for name in calibration.names()}
    assert set(shipped) == set(models)
    for model, held in models.items():
        ranking = calibration.load(lists.FOLDER / f"{shipped[model]}.json")
        assert [list(entry) for entry in ranking.ranked] == held["top20"]
        assert (ranking.layers, ranking.heads) == (held["layers"], held["query_heads"])
        assert min(layer for layer, _ in ranking.top(10)) == held["lowest_masked_layer"]["10"]
        assert ranking.what == "retrieval"
        assert any(model in checkpoint for checkpoint in ranking.checkpoints)


class Family:
    """An adapter of a model that is too large to build: all that lists look at."""

    def __init__(self, name="", **config):
        self.model = type("Model", (), {"config": LlamaConfig(**config, name_or_path=name)})()
        self.decoder = self.model
        self.layers, self.heads = self.model.config.num_hidden_layers, self.model.config.num_attention_heads


LLAMA_3 = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256}  # fmt: skip


@pytest.mark.parametrize("name", ["meta-llama/Meta-Llama-3-8B-Instruct", "some/models/Meta-Llama-3-8B", "my/copy"])
@pytest.mark.parametrize("source", ["auto", "retrieval", "llama-3-8b"])
def test_published_models_need_no_calibration(name, source):
    assert calibration.find(source, Family(name, **LLAMA_3)).top(1) == [(15, 30)]


def test_names_alone_do_not_make_a_model():
    with pytest.raises(calibration.CalibrationMismatch, match="from 32 layers of 32 heads, and this model has 30"):
        calibration.find("auto", Family("meta-llama/Meta-Llama-3-8B", **LLAMA_3 | {"num_hidden_layers": 30}))
    with pytest.raises(calibration.CalibrationMissing, match=r"known for 'other'.*sightline calibrate"):
        calibration.find("auto", Family("other", **LLAMA_3 | {"vocab_size": 32000}))
    with pytest.raises(calibration.CalibrationMissing, match="No list of image heads"):
        calibration.find("image", Family("meta-llama/Meta-Llama-3-8B", **LLAMA_3))
    with pytest.raises(calibration.CalibrationMissing, match="Did you mean 'llama-3-8b'"):
        calibration.find("llama-3-8", Family("other", **LLAMA_3))


def test_a_model_brings_its_own_list(llava, inputs, measured, tmp_path):
    llava.save_pretrained(tmp_path)
    measured.save(tmp_path / "image_heads.json")
    copy = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    batch = inputs((7,))
    for heads in ("auto", "image", None):
        decoder = sightline.DeCoRe(num_heads=2, heads=heads)
        with sightline.attach(copy, decoder, batch) as processor:
            edits = processor.plan.branches[0].edits
        assert {(edit.layer, head) for edit in edits for head in edit.heads} == set(measured.top(2))
    with pytest.raises(calibration.CalibrationMissing, match="No list of retrieval heads"):
        sightline.attach(copy, sightline.DeCoRe(heads="retrieval"), batch)


def test_what_is_masked_tells_one_run_from_another(llama, tmp_path):
    adapter = adapter_for(llama)
    ranked = ((1, 0, 0.9), (2, 1, 0.5), (1, 3, 0.2))
    file = str(HeadRanking("retrieval", "random", 3, 4, ranked).save(tmp_path / "heads.json"))
    assert sightline.DeCoRe(num_heads=2, heads=file).calibration(adapter) == "1-0 2-1"
    assert sightline.DeCoRe(num_heads=0, heads="no such list").calibration(adapter) is None
