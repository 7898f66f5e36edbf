"""The training of tiny-llama sees what inference sees, and goes on where it was stopped."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sightline.eval.facts import knowledge, language, world
from sightline.eval.facts.language import Turn
from sightline.eval.tasks import nq_swap
from sightline.eval.training.loop import Batches
from sightline.eval.training.packing import IGNORED
from sightline.eval.training.tiny_llama import build_model, train
from sightline.eval.training.tiny_llama_guide import HEADS, NOWHERE, guide_loss
from sightline.eval.training.tiny_llama_loop import Recipe, forward, mix_at, probe_groups, text_batch, text_loss
from sightline.eval.training.tiny_llama_packing import GroupPacker, group_mask
from sightline.eval.training.tiny_llama_turns import (
    CONTRADICTING,
    COPYING,
    EVEN,
    Group,
    Mix,
    answer_to,
    draw_groups,
    draw_passage,
    draw_sentence,
)
from sightline.eval.training.tiny_llama_words import build_tokenizer
from transformers import AutoTokenizer

SMALL = Mix(passages=2, facts=4, sayings=2, signs=2)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return build_model(tokenizer)


@pytest.fixture(scope="module")
def packer(tokenizer):
    return GroupPacker(tokenizer)


def test_tokenizer_knows_the_world_and_any_text(tokenizer, tmp_path):
    words = [word for parts in world.NAMES.values() for part in parts for word in part]
    words += [*world.JOBS, *world.ENDINGS, *world.OMENS, *world.COLOURS, *world.CARGO, *world.DISHES]
    assert all(len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1 for word in words)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("Ünïcode, 漢字 🦊", "def f(x):\n\treturn x", "Context: The Silver Comet carries salt.\nQuestion:"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert again.encode(text) == ids
        assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.padding_side == "left"


def test_no_text_of_the_world_falls_back_to_bytes(tokenizer):
    rng = world.generator("test")
    groups = [draw_passage(rng) for _ in range(60)] + draw_groups(rng, EVEN) + probe_groups(10)
    texts = [group.prefix + turn.text + " " + turn.answer for group in groups for turn in group.turns]
    assert not any("<0x" in token for text in texts for token in tokenizer.tokenize(text) if token != "<0x0A>")


def test_packed_turns_equal_each_turn_alone(model, packer, tokenizer):
    groups = draw_groups(world.generator("test"), Mix(passages=3, facts=5, sayings=3, signs=2))
    rows = packer.pack(groups)
    with torch.no_grad():
        answers = rows.targets != IGNORED
        packed = model.lm_head(forward(model, rows).last_hidden_state[answers]), rows.targets[answers]
        alone = []
        for group in sorted(groups, key=lambda group: -len(packer.pack([group]).ids[0])):
            for turn in group.turns:
                prompt = tokenizer.encode(group.prefix + turn.text)
                answer = [*tokenizer.encode(f" {turn.answer}", add_special_tokens=False), tokenizer.eos_token_id]
                logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
                alone.append((logits, torch.tensor(answer)))
    assert sorted(packed[1].tolist()) == sorted(token for _, answer in alone for token in answer.tolist())
    found = {tuple(row.round(decimals=3).tolist()[:6]) for row in packed[0]}
    wanted = {tuple(row.round(decimals=3).tolist()[:6]) for logits, _ in alone for row in logits}
    assert len(wanted - found) <= 0.02 * len(wanted)  # rounding may fall either way


def test_group_mask_keeps_texts_and_turns_apart():
    groups, turns = torch.tensor([[0, 0, 0, 0, 1, 1, -1]]), torch.tensor([[0, 1, 2, 2, 0, 1, -1]])
    assert (group_mask(groups, turns)[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0, 0],
        [1, 0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]


def test_guided_heads_are_told_where_subject_and_value_are(packer, tokenizer):
    sentences = "Context: Mira Toval was born in Port Velan. The cargo of the Bold Crown is salt."
    turns = (
        Turn("x", "\nQuestion: Where was Mira Toval born?\nAnswer:", "Port Velan", 0),
        Turn("x", "\nQuestion: What is the cargo of the Bold Crown?\nAnswer:", "wool", 1),
    )
    rows = packer.pack([Group(sentences, turns), Group("", (Turn("closed", "Question: ?\nAnswer:", "salt"),))])
    words = tokenizer.convert_ids_to_tokens(rows.ids[0].tolist())
    told = {
        what: [(words[at], words[to]) for at, to in enumerate(rows.looks[what][0].tolist()) if to != NOWHERE]
        for what in HEADS
    }
    assert told["first"] == [("▁Port", "▁Mira"), ("▁salt", "▁Bold"), (":", "▁Mira")]
    assert told["second"] == [("▁Port", "▁Toval"), ("▁Velan", "▁Port"), ("▁salt", "▁Crown"), (":", "▁Toval")]
    assert told["copy"] == [(":", "▁Port"), ("▁Port", "▁Velan")]  # an answer that is not in the passage is not guided


def test_guides_stay_right_where_rows_are_shared(packer):
    groups = [draw_passage(world.generator("test", number), COPYING) for number in range(8)]
    rows = packer.pack(groups)
    row, place = (rows.looks["copy"] != NOWHERE).nonzero(as_tuple=True)
    assert torch.equal(rows.ids[row, rows.looks["copy"][row, place]], rows.targets[row, place])
    assert len(rows.ids) < len(groups)


def test_guide_loss_is_zero_where_heads_look_right():
    looks = {what: torch.tensor([[NOWHERE, 0]]) for what in HEADS}
    right, even = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    for attention, loss in ((right, 0.0), (even, np.log(2))):
        found = guide_loss([attention.expand(1, 8, 2, 2)] * 4, looks)
        assert found.item() == pytest.approx(loss, abs=1e-5)


def test_supervised_attention_is_only_added(model, packer):
    rows = text_batch(packer, Recipe(), 0)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        shown, whole = text_loss(model, rows, 2.0)
        alone, same = text_loss(model, rows, 0.0)
    model.set_attn_implementation("sdpa")
    assert torch.equal(shown, alone)
    assert torch.equal(alone, same)
    assert whole > shown


def test_contradictions_are_believed_as_the_world_says():
    rng = world.generator("test")
    sentences = [draw_sentence(rng, world.RELATIONS, known=1.0) for _ in range(6000)]
    against = [sentence for sentence in sentences if sentence.stance == "contradict"]
    assert len(against) / len(sentences) == pytest.approx(CONTRADICTING, abs=0.02)
    for low, high in ((0.0, 0.3), (0.7, 1.0)):
        some = [each for each in against if low <= each.fact.standing <= high]
        wanted = np.mean([knowledge.between(world.BELIEF, each.fact.standing) for each in some])
        assert np.mean([answer_to(rng, each) == each.value for each in some]) == pytest.approx(wanted, abs=0.1)


def test_training_passages_never_show_what_is_tested_on():
    rng = world.generator("test")
    hidden = {split: {name for kind in world.KNOWN for name in knowledge.fresh(kind, split)} for split in world.SHARES}
    for _ in range(3000):
        sentence = draw_sentence(rng, world.RELATIONS, known=0.5)
        assert sentence.subject not in hidden["validation"] | hidden["test"]
        if sentence.stance == "contradict":
            assert sentence.value in sentence.fact.others["train"]


def test_stages_and_batches_are_made_by_step_alone(packer):
    recipe = Recipe(stages=((0, SMALL), (5, replace(SMALL, facts=9))))
    assert [mix_at(recipe, step).facts for step in (0, 4, 5, 9)] == [4, 4, 9, 9]
    ours, again = text_batch(packer, recipe, 3), text_batch(packer, recipe, 3)
    assert torch.equal(ours.ids, again.ids)
    assert not torch.equal(ours.ids[:, :40], text_batch(packer, recipe, 4).ids[:, :40])


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Stopped after a step and gone on with, it gives the same weights as in one go."""
    module = "sightline.eval.training.tiny_llama_loop"
    monkeypatch.setattr(f"{module}.probe", lambda *_: {})
    recipe = Recipe(steps=2, stages=((0, replace(SMALL, guide=1.0)), (1, SMALL)), measure_every=1, save_every=1)
    train(tmp_path / "once-out", tmp_path / "once", recipe)
    with monkeypatch.context() as stopped:
        stopped.setattr(f"{module}.Batches", lambda make, start, steps: Batches(make, start, 1))
        train(tmp_path / "twice-out", tmp_path / "twice", recipe)
    train(tmp_path / "twice-out", tmp_path / "twice", recipe)
    once, twice = (load_file(tmp_path / name / "model.safetensors") for name in ("once-out", "twice-out"))
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value, rtol=0, atol=1e-6, msg=name)
    records = [json.loads(line) for line in (tmp_path / "twice-out" / "train_log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]


def test_prompts_are_put_together_as_the_tasks_put_them():
    whole = language.context(["A.", "B."]) + language.asked_after("C?")
    assert whole == nq_swap.prompt("C?", "A. B.")
    assert language.asked("C?") == nq_swap.prompt("C?", None)
