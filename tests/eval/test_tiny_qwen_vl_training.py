"""Training of tiny-qwen-vl sees what inference sees, begins where tiny-llava ends, and goes on where it stopped."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from sightline.eval.scenes import draw_scene, world
from sightline.eval.training import language_model
from sightline.eval.training.borrowed import borrow_language, fit_merger, like_pieces
from sightline.eval.training.chat import build_tokenizer, normalise
from sightline.eval.training.language_model import answer_loss, language_batch
from sightline.eval.training.loop import Batches, stack
from sightline.eval.training.packing import Packer
from sightline.eval.training.tiny_qwen_vl import (
    CHAT,
    RECIPE,
    SIDE,
    Plan,
    build_model,
    build_processor,
    patches_of,
    positions_of,
    qwen_features,
    qwen_hidden,
    train,
)
from sightline.eval.training.turns import draw_turns
from sightline.models.auto import SHIPPED
from torch import nn
from transformers import AutoTokenizer, LlavaForConditionalGeneration


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture
def model(processor):
    return build_model(processor)


@pytest.fixture(scope="module")
def llava():
    return LlavaForConditionalGeneration.from_pretrained(SHIPPED / "tiny-llava").eval()


@pytest.fixture(scope="module")
def packer(processor):
    return Packer(processor.tokenizer, SIDE**2, chat=CHAT)


def prompt(processor, question):
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def test_chat_is_qwen_s(processor):
    text = prompt(processor, "Is there a star in the image?")
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Is there a star in the image?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert text == f"{CHAT.lead}{CHAT.image}{CHAT.turn.format('Is there a star in the image?')}"


def test_pixels_equal_the_image_processor(processor):
    scenes = [draw_scene("validation", index) for index in range(2)]
    made = processor.image_processor([scene.image() for scene in scenes], return_tensors="pt")
    patches, grid = patches_of(torch.from_numpy(normalise(stack(scenes))))
    assert patches.equal(made["pixel_values"])
    assert grid.equal(made["image_grid_thw"])


def test_tokenizer_knows_the_world_and_any_text(processor):
    tokenizer = processor.tokenizer
    words = [*world.KINDS, *world.PLURAL.values(), *world.COLOURS]
    assert all(len(tokenizer.encode(" " + word)) == 1 for word in words)
    assert all(len(tokenizer.encode(word)) == 1 for word in ("Yes", "No", "There", "user", "assistant"))
    assert tokenizer.decode(tokenizer.encode("Ünïcode, 漢字 🦊")) == "Ünïcode, 漢字 🦊"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.padding_side) == (None, "<|im_end|>", "left")


def test_packed_turns_equal_each_turn_alone(model, processor, packer):
    scenes = [draw_scene("train", index) for index in range(2)]
    rows = [draw_turns(scene, world.generator("test", i))[: 4 + i] for i, scene in enumerate(scenes)]
    packed = packer.pack(rows)
    with torch.no_grad():
        scores = model.lm_head(qwen_hidden(model, torch.from_numpy(normalise(stack(scenes))), packed))
        for row, (scene, turns) in enumerate(zip(scenes, rows, strict=True)):
            for turn, start in zip(turns, packed.starts[row], strict=True):
                text = f"{prompt(processor, turn.text)}{turn.answer}<|im_end|>"
                inputs = processor(images=scene.image(), text=text, return_tensors="pt")
                alone = model(**inputs).logits[0]
                size = len(packer.encode(turn.answer)) + 1
                assert torch.equal(packed.targets[row, start : start + size], inputs["input_ids"][0, -size:])
                torch.testing.assert_close(
                    scores[row, start : start + size], alone[-size - 1 : -1], rtol=1e-4, atol=2e-5
                )


def test_positions_equal_the_model_s(model, processor, packer):
    turn = draw_turns(draw_scene("train", 0), world.generator("test", 0))[1]
    packed = packer.pack([[turn]])
    ids = packed.ids
    image = ids == model.config.image_token_id
    grid = torch.tensor([[1, 2 * SIDE, 2 * SIDE]])
    expected, _ = model.model.get_rope_index(ids, mm_token_type_ids=image.long(), image_grid_thw=grid)
    assert positions_of(packed, image).equal(expected)


def test_features_stand_in_reading_order(model):
    """Another cell at the lower right corner moves the features of its patches most; windows do not mix them up."""
    pixels = torch.zeros(2, 3, world.SIZE, world.SIZE)
    pixels[1, :, -world.CELL :, -world.CELL :] = 1.0
    with torch.no_grad():
        one, other = qwen_features(model.model.visual)(pixels)
    moved = (one - other).norm(dim=-1).view(8, 8)
    assert moved[6:, 6:].min() > moved[:6].max()


def test_words_are_borrowed_by_what_they_spell(processor):
    ours, theirs = processor.tokenizer, build_tokenizer()
    known = theirs.get_vocab()
    same = {"\u0120star": "\u0120star", "Yes": "\u0120Yes", "No": "\u0120No", "<|im_end|>": "</s>", "user": "USER"}
    for piece, other in same.items():
        assert like_pieces(piece, ours, theirs) == [known[other]]
    for piece in ("stant", "<|video_pad|>"):
        assert theirs.decode(like_pieces(piece, ours, theirs)) == piece


def test_layers_are_borrowed_and_the_merger_is_fitted(model, processor, llava):
    theirs = AutoTokenizer.from_pretrained(SHIPPED / "tiny-llava")
    borrow_language(model, processor.tokenizer, llava, theirs)
    own, other = model.model.language_model.layers[2], llava.model.language_model.layers[2]
    assert own.self_attn.k_proj.weight.equal(other.self_attn.k_proj.weight)
    assert own.mlp.down_proj.weight.equal(other.mlp.down_proj.weight)
    assert not own.self_attn.q_proj.bias.any()
    place, their = processor.tokenizer.convert_tokens_to_ids("Yes"), theirs.convert_tokens_to_ids("\u0120Yes")
    assert model.lm_head.weight[place].equal(llava.lm_head.weight[their])
    tower = model.model.visual
    left = fit_merger(tower, qwen_features(tower), llava, batches=2)
    assert left < 0.9  # an untrained tower sees something already
    linear = tower.merger.mlp
    given = torch.randn(5, 512)
    directions = linear[0].weight[:256], linear[0].bias[:256]
    hidden = nn.functional.gelu(linear[0](given))
    projected = given @ directions[0].T + directions[1]
    torch.testing.assert_close(hidden[:, :256] - hidden[:, 256:], projected, rtol=1e-4, atol=1e-4)


def test_training_moves_merger_and_language_alone(model, packer):
    tower = model.model.visual
    tower.requires_grad_(False)
    tower.merger.requires_grad_(True)
    answer_loss(model, *language_batch(packer, replace(RECIPE, images=2), 0), qwen_hidden).backward()
    untouched = [name for name, value in model.model.language_model.named_parameters() if value.grad is None]
    assert tower.merger.mlp[0].weight.grad is not None
    assert tower.blocks[0].attn.qkv.weight.grad is None
    assert not untouched


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Stopped after a step and gone on with, it gives the same weights as in one go."""
    monkeypatch.setattr(language_model, "probe", lambda *_, **__: {})
    recipe = replace(RECIPE, steps=2, stop=2, images=2, measure_every=1, save_every=1)
    plan = Plan(vision_steps=1, vision_images=2, language=recipe)
    train(tmp_path / "once-out", tmp_path / "once", plan)
    with monkeypatch.context() as stopped:
        stopped.setattr(language_model, "Batches", lambda make, start, steps: Batches(make, start, 1))
        train(tmp_path / "twice-out", tmp_path / "twice", plan)
    train(tmp_path / "twice-out", tmp_path / "twice", plan)
    once, twice = (load_file(tmp_path / name / "model.safetensors") for name in ("once-out", "twice-out"))
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value, rtol=0, atol=1e-6, msg=name)
    records = [json.loads(line) for line in (tmp_path / "twice-out" / "train_log.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in records] == ["vision", "merger", "language", "language"]
