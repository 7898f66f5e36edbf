"""Prompts of a strategy's own against what the model's processor makes, and descriptions against a naive decoder."""

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from letters import LETTERS, SPECIAL, asked, letters, llava_processor, noise_image, tokenizer
from sightline.models import adapter_for, errors, load, prompts
from sightline.models.descriptions import Descriptions
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
)

runs = jaxtyped(prompts.runs, typechecker=beartype)
IMAGE = SPECIAL.index("<image>")
GRID = [[16, 32], [32, 16], [32, 32]]
TELL = "Tell all."


@pytest.fixture(scope="module")
def processor():
    return llava_processor()


@pytest.fixture
def adapter(llava):
    adapter = adapter_for(llava)
    adapter.forget()
    return adapter


@pytest.fixture(scope="module")
def next_model():
    torch.manual_seed(0)
    size = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3}
    vision = CLIPVisionConfig(**size, image_size=16, patch_size=8)
    text = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=512,
    )  # fmt: skip
    config = LlavaNextConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, image_grid_pinpoints=GRID)
    return LlavaNextForConditionalGeneration(config).double().eval()


@pytest.fixture(scope="module")
def next_processor(processor):
    pixels = LlavaNextImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=GRID
    )
    return LlavaNextProcessor(
        image_processor=pixels, tokenizer=processor.tokenizer, patch_size=8, num_additional_image_tokens=1,
        vision_feature_select_strategy="default", chat_template=processor.chat_template,
    )  # fmt: skip


def same(made, expected):
    return all(made[name].equal(expected[name]) for name in ("input_ids", "attention_mask"))


def images(*counts):
    """Rows of so many noise images of two shapes."""
    seeds = iter(range(100))
    return [[noise_image(next(seeds), *((40, 16), (16, 24), (32, 32))[row % 3]) for _ in range(n)]
            for row, n in enumerate(counts)]  # fmt: skip


@pytest.mark.parametrize("text", [TELL, ""])
@pytest.mark.parametrize("counts", [(1,), (1, 1, 1), (1, 3)])
def test_reworded_equals_what_the_processor_makes(adapter, processor, counts, text):
    rows = images(*counts)
    batch = asked(processor, rows, ["Is it?", "Is there a star in it?", "No?"][: len(rows)])
    made = adapter.reworded(batch, processor, text)
    assert same(made, asked(processor, rows, [text] * len(rows)))
    assert not same(made, batch)


@pytest.mark.parametrize("text", [TELL, ""])
def test_reworded_keeps_variable_numbers_of_image_tokens(next_model, next_processor, text):
    rows = images(1, 1, 2)
    batch = asked(next_processor, rows, ["Is it?", "Is there a star?", "No?"])
    counts = (batch["input_ids"] == IMAGE).sum(dim=1)
    assert len(set(counts.tolist())) == 3
    made = adapter_for(next_model).reworded(batch, next_processor, text)
    assert same(made, asked(next_processor, rows, [text] * 3))


def test_reworded_works_with_the_shipped_model():
    loaded = load("tiny-llava", dtype="float64", device="cpu")
    rows = [[noise_image(seed, 64, 64)] for seed in range(2)]
    batch = asked(loaded.processor, rows, ["Is there a star in the image?", "Why?"])
    made = loaded.adapter.reworded(batch, loaded.processor, "Describe the image.")
    assert same(made, asked(loaded.processor, rows, ["Describe the image."] * 2))


def test_reworded_serves_text_models(llama):
    words = tokenizer()
    words.chat_template = (
        "{% for m in messages %}<s>Q: {{ m['content'] }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    batch = dict(words(["One.", "Another one."], padding=True, return_tensors="pt"))
    batch.pop("token_type_ids", None)
    made = adapter_for(llama).reworded(batch, words, "Why?")
    assert made["input_ids"].tolist() == [[1, *letters("Q: Why?A:")]] * 2  # BOS once, though both would set it
    assert made["attention_mask"].all()


def test_token_types_follow_the_images(adapter, processor):
    batch = asked(processor, images(1, 1), ["Is it?", "Is there a star?"])
    batch["mm_token_type_ids"] = (batch["input_ids"] == IMAGE).long()
    made = adapter.reworded(batch, processor, TELL)
    assert made["mm_token_type_ids"].equal((made["input_ids"] == IMAGE).long())
    assert not adapter.without_image(batch, [[7], [8, 9]])["mm_token_type_ids"].any()


def test_a_prompt_that_cannot_be_made_says_so(adapter, processor):
    batch = asked(processor, images(1), ["Is it?"])
    with pytest.raises(errors.MissingChatTemplate, match=r"no chat template.*Set processor\.chat_template"):
        adapter.reworded(batch, llava_processor(template=None), TELL)
    with pytest.raises(errors.InvalidPrompt, match=r"2 image placeholder.* for a row with 1 image"):
        adapter.reworded(batch, processor, "Where is <image> now?")
    with pytest.raises(errors.InvalidPrompt, match="no input_ids"):
        adapter.reworded({"inputs_embeds": torch.zeros(1, 3, 32)}, processor, TELL)


def test_without_image_puts_text_in_its_place_and_keeps_the_rest(adapter):
    """By hand: markers (4) around an image stay, of two images the first gives way, rows have any length."""
    rows = [[1, 9, 4, IMAGE, IMAGE, 4, 11], [1, IMAGE, IMAGE, 10, IMAGE, IMAGE, 12, 13]]
    ids = torch.tensor([[0, 0, *rows[0]], [0, *rows[1]]])
    mask = torch.tensor([[0, 0, *[1] * 7], [0, *[1] * 8]])
    batch = {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.zeros(3, 3, 16, 16)}
    made = adapter.without_image(batch, [[20, 21, 22], [30]])
    assert made["input_ids"].tolist() == [[1, 9, 4, 20, 21, 22, 4, 11], [0, 0, 0, 1, 30, 10, 12, 13]]
    assert made["attention_mask"].tolist() == [[1] * 8, [0] * 3 + [1] * 5]
    assert made["pixel_values"] is None
    assert set(made) == set(batch)
    del batch["attention_mask"]
    assert adapter.without_image(batch, [[], []])["input_ids"][0].tolist() == [0, 0, 1, 9, 4, 4, 11]


def test_texts_never_hold_special_tokens(adapter, processor):
    said = "a <image> b</s><pad>"
    assert adapter.text_ids(said, processor) == letters(said)
    assert adapter.text_ids(said, processor, special=True) == [1, *letters(said)]
    assert processor.tokenizer.encode("<image>", add_special_tokens=False) == [IMAGE]  # the tokenizer is left as it was
    unmarked = tokenizer()
    unmarked.add_tokens(["<img>"])
    image = unmarked.convert_tokens_to_ids("<img>")
    assert unmarked.encode("a<img>", add_special_tokens=False, split_special_tokens=True)[-1] == image
    assert prompts.text_ids("a<img>b", unmarked, image) == letters("a<img>b")


def test_runs():
    marked = torch.tensor([True, True, False, True, False, False, True])
    assert runs(marked) == [(0, 2), (3, 4), (6, 7)]
    assert runs(~marked) == [(2, 3), (4, 6)]
    assert runs(marked[:0]) == []
    assert prompts.replaced([1, 2, 3, 4], [(0, 1), (2, 3)], [[], [7, 8]]) == [2, 7, 8, 4]


def test_images_are_told_to_rows(adapter, next_model):
    ids = torch.tensor([[IMAGE, IMAGE, 7, IMAGE, IMAGE], [0, 9, IMAGE, IMAGE, 8]])
    batch = {"input_ids": ids, "pixel_values": torch.randn(3, 3, 16, 16)}
    batch["image_sizes"] = torch.tensor([[1, 2], [3, 4], [5, 6]])
    batch["batch_num_images"] = [2, 1]
    found = adapter.images_of(batch)
    assert [row["pixel_values"].shape[0] for row in found] == [2, 1]
    assert torch.cat([row["pixel_values"] for row in found]).equal(batch["pixel_values"])
    assert [row["image_sizes"].tolist() for row in found] == [[[1, 2], [3, 4]], [[5, 6]]]
    assert [row["batch_num_images"].tolist() for row in found] == [[2], [1]]
    joined = {"input_ids": ids[:, [0, 1, 3, 4, 2]][:1], "pixel_values": batch["pixel_values"][:2]}
    assert adapter.images_of(joined)[0]["pixel_values"].shape[0] == 2
    with pytest.raises(errors.InvalidPrompt, match=r"\[2, 1\] runs of image tokens for 2 images"):
        adapter.images_of({"input_ids": ids, "pixel_values": batch["pixel_values"][:2]})


# Descriptions


@torch.no_grad()
def naive_description(model, processor, row, prompt, steps):
    batch = asked(processor, [row], [prompt])
    new = []
    while len(new) < steps and 2 not in new:
        ids = torch.cat([batch["input_ids"], torch.tensor([new], dtype=torch.long)], dim=1)
        new.append(
            int(model(input_ids=ids, pixel_values=batch["pixel_values"], use_cache=False).logits[0, -1].argmax())
        )
    return "".join(LETTERS[token - len(SPECIAL)] for token in new if token >= len(SPECIAL)).strip()


@pytest.fixture
def counted(llava, monkeypatch):
    """The number of rows of each generate() call."""
    calls, plain = [], llava.generate

    def generate(**kwargs):
        calls.append(len(kwargs["input_ids"]))
        return plain(**kwargs)

    monkeypatch.setattr(llava, "generate", generate)
    return calls


def test_descriptions_equal_naive_greedy_ones(llava, adapter, processor, monkeypatch):
    """Also where the checkpoint's own settings would sample, search with beams, and punish repetition."""
    wild = GenerationConfig(
        do_sample=True, temperature=3.0, top_k=3, num_beams=2, num_return_sequences=2, repetition_penalty=5.0,
        min_new_tokens=9, no_repeat_ngram_size=1, max_new_tokens=1, return_dict_in_generate=True, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    rows = images(1, 1, 1)
    batch = asked(processor, rows, ["Is it?", "Is there a star in it?", "No?"])
    expected = {steps: [naive_description(llava, processor, row, TELL, steps) for row in rows] for steps in (3, 8)}
    assert len(set(expected[8])) == 3
    assert expected[3] != expected[8]
    monkeypatch.setattr(llava, "generation_config", wild)
    for steps, texts in expected.items():
        assert adapter.describe(batch, processor, TELL, steps) == texts


def test_an_image_is_described_once(adapter, processor, counted):
    first, second, third = (noise_image(seed) for seed in range(3))
    ask = lambda *given: asked(processor, [[image] for image in given], ["Why?", "Is it?", "No?"][: len(given)])  # noqa: E731
    one, two, again = adapter.describe(ask(first, second, first), processor, TELL, 6)
    assert (counted, again) == ([2], one)
    assert adapter.describe(ask(second, third, first), processor, TELL, 6)[::2] == [two, one]
    assert counted == [2, 1]
    adapter.describe(ask(first), processor, TELL + " Now.", 6)
    adapter.describe(ask(first), processor, TELL, 7)
    assert counted == [2, 1, 1, 1]
    adapter.describe(ask(first, second), processor, TELL, 6)
    assert counted == [2, 1, 1, 1]
    adapter.forget()
    assert adapter.describe(ask(first), processor, TELL, 6) == [one]
    assert counted == [2, 1, 1, 1, 1]


def test_an_image_is_known_whatever_crops_its_batch_is_padded_to(next_model, next_processor):
    adapter = adapter_for(next_model)
    small, large = noise_image(0, 40, 16), noise_image(1, 32, 32)
    alone = asked(next_processor, [[small]], ["Why?"])
    beside = asked(next_processor, [[small], [large]], ["Is it?", "Is it?"])
    assert alone["pixel_values"].shape[1] < beside["pixel_values"].shape[1]
    [text] = adapter.describe(alone, next_processor, TELL, 4)
    assert adapter.describe(beside, next_processor, TELL, 4)[0] == text
    assert len(adapter._descriptions) == 2
    pair = asked(next_processor, [[small, large]], ["Is it?"])
    adapter.describe(pair, next_processor, TELL, 4)
    assert len(adapter._descriptions) == 3


def test_memory_is_bounded_and_keeps_what_is_asked_for():
    memory = Descriptions(limit=2)
    memory.put("a", "A")
    memory.put("b", "")
    assert memory.get("a") == "A"
    memory.put("c", "C")
    assert (memory.get("b"), memory.get("a"), memory.get("c"), len(memory)) == (None, "A", "C", 2)
    memory.clear()
    assert memory.get("a") is None
