"""Runs of text tasks: no image, answers generated or given candidates scored, and all that runs promise."""

import json
import warnings

import pytest
import torch
from sightline.decoders import build, score
from sightline.eval.answering import Answerer, Words
from sightline.eval.choosing import continuation
from sightline.eval.config import compose_settings
from sightline.eval.errors import UnfitDecoder
from sightline.eval.plan import text_renderer
from sightline.eval.records import parse_line, read_samples
from sightline.eval.runner import Interrupted, run
from sightline.eval.score import score_run
from sightline.eval.training.tiny_llama import build_model
from sightline.eval.training.tiny_llama_words import build_tokenizer
from sightline.models import load
from sightline.models.errors import MissingContext, UnsupportedModel

CHOICE = ("memo_trap_facts", "truthful_qa_facts")
TASKS = ("nq_swap_facts", *CHOICE)
DECORE = ("decoder=decore", "decoder.num_heads=3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained tiny-llama with weights large enough that prompts matter, and a list of its heads."""
    path = tmp_path_factory.mktemp("models") / "untrained"
    model = build_model(build_tokenizer(), seed=1).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    model.save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return load(str(folder), dtype="float64", device="cpu")


@pytest.fixture(scope="module")
def heads(loaded, tmp_path_factory):
    ranked = tuple((layer, head, 1.0) for layer in range(4) for head in range(8))
    from_file = tmp_path_factory.mktemp("heads") / "heads.json"
    kept = {"schema": 1, "what": "retrieval", "model": "untrained", "layers": 4, "heads": 8, "settings": {}}
    more = {"fingerprint": None, "version": "0", "checkpoints": [], "shape": {}, "ranked": ranked}
    from_file.write_text(json.dumps(kept | more))
    return f"decoder.heads={from_file}"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def launch(folder, loaded, tmp_path):
    def go(task, *more, dir="run"):
        fixed = ["model=local", f"model.path={folder}", f"task={task}", "task.split=validation", "run.limit=3"]
        fixed += ["run.cost_requests=0", f"run.dir={tmp_path / dir}"]
        fixed += ["task.contexts=[substituted]"] if task == "nq_swap_facts" else []
        settings, tree = compose_settings([*fixed, *more])
        return run(settings, tree, loaded=loaded)

    return go


def final(outcome):
    return next((outcome.folder / "samples").glob("*.jsonl"))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("decoder", [("decoder=greedy",), DECORE], ids=["greedy", "decore"])
def test_bytes_do_not_depend_on_the_batch(launch, heads, task, decoder):
    more = (*decoder, heads) if len(decoder) > 1 else decoder
    one = launch(task, *more, "run.batch_size=1", dir="one")
    many = launch(task, *more, "run.batch_size=16", dir="many")
    assert one.n_error == 0
    assert final(one).read_bytes() == final(many).read_bytes()
    assert len({record.image_id for record in read_samples(final(one))}) == 3


@pytest.mark.parametrize("task", TASKS)
def test_kill_and_resume_give_the_same_bytes(launch, monkeypatch, task):
    whole = launch(task, "run.batch_size=2", dir="whole")
    original, calls = Answerer.ask, []

    def ask(self, *asked):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *asked)

    monkeypatch.setattr(Answerer, "ask", ask)
    with pytest.raises(Interrupted):
        launch(task, "run.batch_size=2", dir="torn")
    again = launch(task, "run.batch_size=2", dir="torn")
    assert again.answered_before > 0
    assert final(again).read_bytes() == final(whole).read_bytes()


@pytest.mark.parametrize("task", CHOICE)
def test_candidates_have_the_scores_of_plain_forwards(launch, loaded, task):
    for record in read_samples(final(launch(task)))[:4]:
        before = loaded.processor(record.prompt)["input_ids"]
        for candidate, logprob in zip(record.candidates, record.logprobs, strict=True):
            ids = loaded.processor(candidate, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = loaded.model(torch.tensor([before + ids])).logits[0, len(before) - 1 : -1]
            wanted = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum().item()
            assert logprob == pytest.approx(wanted, abs=1e-6)
        assert record.output == record.candidates[record.logprobs.index(max(record.logprobs))]
        assert (record.finish, record.margin, record.seed) == ("choice", None, None)


def test_candidates_under_a_decoder_are_those_of_score(launch, loaded, heads):
    plain = read_samples(final(launch("memo_trap_facts", dir="plain")))
    found = read_samples(final(launch("memo_trap_facts", *DECORE, heads, dir="decore")))
    strategy = compose_strategy(heads)
    for record in found[:3]:
        inputs = loaded.processor([record.prompt], return_tensors="pt")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        ids = [continuation(loaded.processor, record.prompt, candidate) for candidate in record.candidates]
        wanted = score(loaded.model, strategy, inputs, ids)[0]
        assert record.logprobs == pytest.approx(wanted.tolist(), abs=1e-6)
    assert [record.logprobs for record in plain] != [record.logprobs for record in found]
    assert not {record.key for record in plain} & {record.key for record in found}


def compose_strategy(heads):
    settings, _ = compose_settings(["task=memo_trap_facts", "model=local", "model.path=x", *DECORE, heads])
    return build(settings.decoder.name, dict(settings.decoder.params))


def test_scored_tables(launch):
    all_ways = {"nq_swap_facts": ["task.contexts=[substituted,original,closed]", "run.limit=1"]}
    tables = {task: score_run(launch(task, *all_ways.get(task, []), dir=task).folder)["tables"] for task in TASKS}
    assert list(tables["nq_swap_facts"]) == ["substituted", "original", "closed"]
    assert list(tables["memo_trap_facts"]) == ["proverb_ending", "micro", "macro"]
    assert set(tables["truthful_qa_facts"]["multiple_choice"]) == {"MC1", "MC2", "MC3"}
    for table in tables["memo_trap_facts"].values():
        assert table["accuracy"] == tables["memo_trap_facts"]["micro"]["accuracy"]
    figure = tables["truthful_qa_facts"]["multiple_choice"]["MC2"]
    assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    assert figure["n"] == 3


def test_costs_count_branches(launch, heads):
    for decoder, rows in ((("decoder=greedy",), 1.0), ((*DECORE, heads), 2.0)):
        outcome = launch("memo_trap_facts", *decoder, dir=f"cost-{rows}")
        cost = json.loads((outcome.folder / "timings" / "summary.json").read_text())
        assert cost["rows_per_token"] == rows
        assert cost["requests"] == outcome.n_samples


def test_strategies_are_told_what_is_context(launch):
    """With and without a passage in one batch; where a task knows no context, what needs one refuses."""
    ways = "task.contexts=[substituted,closed]"
    plain = read_samples(final(launch("nq_swap_facts", ways, "run.limit=1", dir="plain")))
    contrast = read_samples(final(launch("nq_swap_facts", "decoder=cad", ways, "run.limit=1", dir="cad")))
    pairs = [(a.split, a.output == b.output) for a, b in zip(plain, contrast, strict=True)]
    assert all(same for split, same in pairs if split == "closed")
    assert not all(same for split, same in pairs if split == "substituted")
    for task, same in (("memo_trap_facts", False), ("truthful_qa_facts", True)):
        runs = [launch(task, f"decoder={key}", dir=f"{task}-{key}") for key in ("greedy", "cad")]
        one, other = ([record.logprobs for record in read_samples(final(run))] for run in runs)
        assert (one == other) == same


def test_a_task_that_knows_no_context_is_refused(launch, loaded):
    answerer = Answerer(loaded, build("cad"), compose_settings([])[0].generation, Words())
    with pytest.raises(MissingContext):
        answerer.ask(["Question: What?\nAnswer:"], [None], [None])


def test_sampled_answers_depend_on_the_prompt_alone(launch):
    sampled = ("decoder=sample", "generation=sample", "task.contexts=[closed]")
    one = launch("nq_swap_facts", *sampled, "run.batch_size=1", dir="one")
    many = launch("nq_swap_facts", *sampled, dir="many")
    assert final(one).read_bytes() == final(many).read_bytes()
    records = read_samples(final(one))
    assert len({record.seed for record in records}) == len({record.prompt for record in records}) > 1


@pytest.mark.parametrize("task", CHOICE)
@pytest.mark.parametrize("asked", [("decoder=sample",), ("generation=sample",), ("generation=beam",)], ids=str)
def test_what_draws_or_searches_has_no_candidates_to_score(launch, task, asked):
    with pytest.raises(UnfitDecoder, match="generates none"):
        launch(task, *asked)


def test_a_text_model_is_not_asked_about_images(folder, loaded, tmp_path):
    asked = ["model=local", f"model.path={folder}", f"run.dir={tmp_path / 'run'}", "task.images=4"]
    settings, tree = compose_settings(asked)
    with pytest.raises(UnsupportedModel, match="reads texts only"):
        run(settings, tree, loaded=loaded)


def test_fields_of_texts_are_left_out_of_other_lines(launch):
    first = final(launch("nq_swap_facts")).read_text().splitlines()[0]
    held = json.loads(first)
    assert "candidates" not in held
    assert set(held["gold"]) == {"answers", "others"}
    assert parse_line(first).line() == first + "\n"
    assert parse_line(json.dumps({**held, "gold": None})).gold is None


def test_prompts_of_chat_models_are_turns():
    class Chat:
        chat_template = "x"

        def apply_chat_template(self, turns, **kwargs):
            return f"<user>{turns[0]['content']}<assistant>"

    assert text_renderer(Chat(), "!")("What?") == "<user>What?!<assistant>"
    assert text_renderer(object(), "!")("What?") == "What?!"


def test_a_candidate_that_joins_the_prompt_is_tokenised_by_itself():
    words = {"a": [1], " b": [2], "a b": [3]}

    def joining(text, add_special_tokens):
        return {"input_ids": [0] * add_special_tokens + words[text]}

    assert continuation(joining, "a", " b") == [2]
