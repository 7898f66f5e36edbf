"""Training of tiny-instructblip sees what inference sees, begins where tiny-llava ends, goes on where it stopped."""

import json

import pytest
import torch
from safetensors.torch import load_file
from sightline.eval.scenes import draw_scene, world
from sightline.eval.training.instructed import TURN, InstructedPacker, instructed_hidden
from sightline.eval.training.language_model import Recipe, answer_loss, language_batch
from sightline.eval.training.loop import Batches, stack
from sightline.eval.training.packing import IGNORED
from sightline.eval.training.queries import CELLS, cell_features, fit_projection, query_batch
from sightline.eval.training.tiny_instructblip import QUERIES, Plan, borrow, build_model, build_processor, train
from sightline.eval.training.turns import draw_turns
from sightline.eval.training.vision import cell_labels, loose_scene
from sightline.models.auto import SHIPPED
from sightline.models.instructblip import InstructBlipAdapter
from transformers import LlavaForConditionalGeneration


@pytest.fixture(scope="module")
def processor():
    made = build_processor()
    InstructBlipAdapter.fit(made)
    made.tokenizer.padding_side = "left"
    return made


@pytest.fixture(scope="module")
def llava():
    return LlavaForConditionalGeneration.from_pretrained(SHIPPED / "tiny-llava").eval()


@pytest.fixture
def model(processor, llava):
    made = build_model(processor)
    borrow(made, llava)
    return made


@pytest.fixture(scope="module")
def packer(processor):
    return InstructedPacker(processor.tokenizer, QUERIES, reader=processor.qformer_tokenizer)


def prompt(processor, question):
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def test_the_prompt_is_vicuna_s_turn(processor):
    question = "Is there a star in the image?"
    assert prompt(processor, question) == TURN.format(question) == f"USER: {question} ASSISTANT:"
    words = processor.qformer_tokenizer.tokenize(TURN.format(question))
    assert words == ["user", ":", "is", "there", "a", "star", "in", "the", "image", "?", "assistant", ":"]


def test_each_turn_is_what_the_model_s_own_forward_makes_of_it(model, processor, packer):
    scenes = [draw_scene("train", index) for index in range(3)]
    rows = [draw_turns(scene, world.generator("test", i))[: 3 + i] for i, scene in enumerate(scenes)]
    packed = packer.pack(rows)
    pixels = torch.stack([processor(images=s.image(), return_tensors="pt")["pixel_values"][0] for s in scenes])
    with torch.no_grad():
        scores = model.get_output_embeddings()(instructed_hidden(model, pixels, packed))
        for row, (scene, turns) in enumerate(zip(scenes, rows, strict=True)):
            for turn, start in zip(turns, packed.starts[row], strict=True):
                inputs = processor(images=scene.image(), text=prompt(processor, turn.text), return_tensors="pt")
                answer = torch.tensor([[*packer.encode(" " + turn.answer), processor.tokenizer.eos_token_id]])
                inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
                size, alone = answer.shape[1], model(**inputs).logits[0]
                assert torch.equal(packed.targets[row, start : start + size], answer[0])
                torch.testing.assert_close(
                    scores[row, start : start + size], alone[-size - 1 : -1], rtol=1e-4, atol=3e-5
                )
    expected = [token for turns in rows for turn in turns for token in [*packer.encode(" " + turn.answer), 2]]
    assert packed.targets[packed.targets != IGNORED].tolist() == expected


def test_batches_are_made_by_step_alone(packer):
    for make in (lambda: language_batch(packer, Recipe(images=2), 3)[1], lambda: query_batch(packer, 3, 2, 0)):
        one, two = make(), make()
        one, two = (each if isinstance(each, dict) else vars(each) for each in (one, two))
        assert all(torch.equal(one[name], two[name]) for name in one if isinstance(one[name], torch.Tensor))


def test_queries_are_told_by_cells(model, packer):
    batch = query_batch(packer, 0, 2, seed=0)
    rng = world.generator("vision", 0, 0)
    scenes = [loose_scene(rng, f"vision/0/0/{row}") for row in range(2)]
    assert batch["kinds"].equal(torch.stack([cell_labels(scene)[0] for scene in scenes]))
    assert stack(scenes).shape == (2, 64, 64, 3)
    assert cell_features(model, batch).shape == (2, CELLS, QUERIES // CELLS * 128)


def test_the_language_model_is_borrowed(model, llava):
    theirs = llava.model.language_model.state_dict()
    for name, value in model.language_model.model.state_dict().items():
        assert value.equal(theirs[name])
    x = torch.randn(2, 65, 128)
    mine, other = model.vision_model.encoder.layers[1], llava.model.vision_tower.encoder.layers[1]
    with torch.no_grad():
        found = mine.self_attn(x)[0]
        expected = other.self_attn(x, attention_mask=None)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_projection_is_the_least_squares_one(model, llava, packer):
    """No small step away from it fits better, and what it reports as left is what is left."""
    left = fit_projection(model, llava, packer, batches=1, size=4)
    batch = query_batch(packer, -2, 4, 0)
    with torch.no_grad():
        states = llava.model.vision_tower(batch["pixels"], output_hidden_states=True).hidden_states[-1][:, 1:]
        patches = llava.model.multi_modal_projector(states).view(4, 8, 8, -1)
        queries = cell_features(model, batch).unflatten(2, (2, -1)).view(4, 4, 4, 2, -1)
        wanted = torch.stack([patches[:, place::2] for place in (0, 1)], 2).unflatten(3, (4, 2)).mean(4)
        wanted = wanted.permute(0, 1, 3, 2, 4)  # cell row, cell column, upper and lower half

        def miss(change=0.0):
            weight = model.language_projection.weight + change
            made = torch.nn.functional.linear(queries, weight, model.language_projection.bias)
            return float((made - wanted).square().sum())

        best = miss()
        spread = float((wanted - wanted.flatten(0, 3).mean(0)).square().sum())
        assert left == pytest.approx(best / spread, rel=1e-2)
        for seed in range(3):
            change = torch.randn(128, 128, generator=torch.Generator().manual_seed(seed)) * 0.02
            assert miss(change) > best


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Stopped after a step and gone on with, it gives the same weights as in one go."""
    module = "sightline.eval.training.language_model"
    monkeypatch.setattr(f"{module}.probe", lambda *_, **__: {})
    # after one step all queries are nearly alike, and what is fitted to them is rounding
    monkeypatch.setattr("sightline.eval.training.tiny_instructblip.fit_projection", lambda *_, **__: 0.0)
    recipe = Recipe(steps=2, images=2, measure_every=1, save_every=1)
    plan = Plan(vision_steps=1, vision_images=2, query_steps=1, query_images=2, language=recipe)
    train(tmp_path / "once-out", tmp_path / "once", plan)
    with monkeypatch.context() as stopped:
        stopped.setattr(f"{module}.Batches", lambda make, start, steps: Batches(make, start, 1))
        train(tmp_path / "twice-out", tmp_path / "twice", plan)
    train(tmp_path / "twice-out", tmp_path / "twice", plan)
    once, twice = (load_file(tmp_path / name / "model.safetensors") for name in ("once-out", "twice-out"))
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value, rtol=0, atol=1e-6, msg=name)
    records = [json.loads(line) for line in (tmp_path / "twice-out" / "train_log.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in records] == ["vision", "queries", "projection", "language", "language"]


def test_loss_needs_the_q_former(model, packer):
    """Gradients reach queries and Q-Former, and never the tower."""
    model.vision_model.requires_grad_(False)
    answer_loss(model, *language_batch(packer, Recipe(images=1), 0), instructed_hidden).backward()
    assert model.query_tokens.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in model.vision_model.parameters())
