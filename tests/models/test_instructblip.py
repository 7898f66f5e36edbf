"""InstructBLIP's adapter, on a random model in the hub's layout: what the Q-Former reads, and what the decoder gets."""

import json

import pytest
import sightline
import torch
from anything import assert_same, naive_tokens, run
from instructed import IMAGE, QUERIES, instructed_config, instructed_model, instructed_processor
from letters import asked, letters, noise_image
from naive import single, whole
from naive_maps import full_maps
from sightline.decoders import Branch, HeadEdit
from sightline.models import adapter_for, errors, load
from sightline.models.instructblip import InstructBlipAdapter
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    InstructBlipForConditionalGeneration,
    T5Config,
)

TELL = "Tell all."
TEXTS = ["Is it?", "Is there a star in it?", "No?"]
T5 = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint as `Salesforce/instructblip-vicuna-7b` has it: config, safetensors, two tokenizers."""
    path = tmp_path_factory.mktemp("instructblip-vicuna-7b")
    instructed_model().save_pretrained(path)
    instructed_processor().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return load(str(folder), dtype="float64", device="cpu")


@pytest.fixture
def adapter(loaded):
    loaded.adapter.forget()
    return loaded.adapter


@pytest.fixture(scope="module")
def processor(loaded):
    return loaded.processor


def ask(processor, texts=TEXTS, first=0):
    return asked(processor, [[noise_image(first + row)] for row in range(len(texts))], list(texts))


def test_it_loads_as_the_published_ones_do(folder, loaded, adapter):
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "qformer_tokenizer"}
    assert isinstance(loaded.model, InstructBlipForConditionalGeneration)
    assert isinstance(adapter, InstructBlipAdapter)
    assert adapter is adapter_for(loaded.model)
    assert (adapter.family, adapter.layers, adapter.heads) == ("instructblip", 3, 4)
    assert adapter.owner is loaded.model.language_model
    assert adapter.decoder is loaded.model.language_model.model
    assert (adapter.vision_layer, adapter.vision_heads, len(adapter.vision_attention_modules())) == (1, 3, 2)
    assert loaded.model.query_tokens.abs().min() > 0
    adapter.self_check()


def test_the_loaded_processor_makes_prompts_of_bare_instructions(processor):
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TELL}]}]
    assert processor.apply_chat_template(turns, add_generation_prompt=True) == TELL
    turns += [{"role": "assistant", "content": "Well."}, {"role": "user", "content": "And?"}]
    assert processor.apply_chat_template(turns, add_generation_prompt=True) == f"{TELL}\nWell.\nAnd?"
    own = instructed_processor()
    own.tokenizer.chat_template = "{{ messages[0]['content'][1]['text'] }}!"
    InstructBlipAdapter.fit(own)
    assert own.apply_chat_template(turns[:1]) == TELL + "!"


def test_the_q_former_sees_no_padding(loaded, processor):
    """The processor pads both tokenizers on one side; on the left it would move the words of the Q-Former."""
    batch = ask(processor)
    assert batch["qformer_attention_mask"][:, 0].all()
    assert batch["attention_mask"][:, [0, -1]].all()
    assert not batch["attention_mask"].all()
    sided = instructed_processor()
    sided.chat_template, sided.tokenizer.padding_side = processor.chat_template, "left"
    sided.tokenizer.init_kwargs["padding_side"] = "left"
    moved = ask(sided)
    assert not moved["qformer_attention_mask"][:, 0].all()
    InstructBlipAdapter.fit(sided)
    assert ask(sided)["qformer_attention_mask"].equal(batch["qformer_attention_mask"])
    given = {name: batch[name] for name in ("pixel_values", "qformer_input_ids", "qformer_attention_mask")}
    with torch.no_grad():
        found = loaded.model.get_image_features(**given).pooler_output
        for row in range(3):
            one = ask(processor, TEXTS[row : row + 1], row)
            alone = loaded.model.get_image_features(**{name: one[name] for name in given}).pooler_output
            torch.testing.assert_close(found[row], alone[0])


def test_the_decoder_gets_what_generate_gives_it(loaded, adapter, processor):
    batch, seen = ask(processor), {}
    handle = adapter.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update({name: seen.get(name, value) for name, value in kwargs.items()}),
        with_kwargs=True,
    )
    loaded.model.generate(**batch, max_new_tokens=1)
    handle.remove()
    made = adapter.decoder_inputs(batch)
    assert made["inputs_embeds"].equal(seen["inputs_embeds"])
    assert made["attention_mask"].equal(seen["attention_mask"])
    mask = adapter.image_mask(batch["input_ids"])
    assert mask.sum(dim=1).tolist() == [QUERIES] * 3
    assert mask[:, :QUERIES].all()
    given = {name: batch[name] for name in ("pixel_values", "qformer_input_ids", "qformer_attention_mask")}
    with torch.no_grad():
        features = loaded.model.get_image_features(**given).pooler_output
        words = loaded.model.language_model.get_input_embeddings()(batch["input_ids"])
    prompt = adapter.prompt_embeddings(batch)
    assert prompt[:, :QUERIES].equal(features)
    assert prompt[:, QUERIES:].equal(words[:, QUERIES:])


def test_instruction_and_image_both_reach_the_image_tokens(adapter, processor):
    batch = ask(processor, TEXTS[:1])
    first = adapter.prompt_embeddings(batch)[:, :QUERIES]
    for other in (ask(processor, ["So?"]), ask(processor, TEXTS[:1], first=7)):
        assert (adapter.prompt_embeddings(batch | other)[:, :QUERIES] - first).abs().max() > 1e-3


@pytest.mark.parametrize("text", [TELL, ""])
def test_reworded_equals_what_the_processor_makes(adapter, processor, text):
    batch = ask(processor)
    made, expected = adapter.reworded(batch, processor, text), ask(processor, [text] * 3)
    for ids, mask in (("input_ids", "attention_mask"), ("qformer_input_ids", "qformer_attention_mask")):
        for row in range(3):
            assert made[ids][row][made[mask][row].bool()].equal(expected[ids][row][expected[mask][row].bool()])
    assert made["input_ids"][0].tolist() == [IMAGE] * QUERIES + [1, *letters(text)]
    prompts = [adapter.prompt_embeddings(batch | each) for each in (made, expected)]
    torch.testing.assert_close(*prompts)


def test_a_general_instruction_is_read_beside_the_query_s_image_or_its_own(loaded, adapter, processor):
    """IAVA: under `query` the image tokens are the base's and are not run again; under `own` they are."""
    batch = ask(processor, TEXTS[1:2])
    encodes = {}
    for text in ("query", "own"):
        decoder = sightline.IAVA(instruction=TELL, qformer_text=text)
        with sightline.attach(loaded.model, decoder, batch, processor=processor) as attached:
            loaded.model.generate(**batch, logits_processor=[attached], max_new_tokens=1, do_sample=False)
        encodes[text] = attached.stats.encodes
    assert encodes == {"query": 0, "own": 1}
    with pytest.raises(errors.InvalidParameter, match="qformer_text must be one of query, own"):
        sightline.IAVA(qformer_text="none")


def test_without_image_reads_words_alone(loaded, adapter, processor, monkeypatch):
    batch = ask(processor)
    made = adapter.without_image(batch, [[20, 21], [], [30]])
    assert made["input_ids"][0, -9:].tolist() == [20, 21, 1, *letters("Is it?")]
    assert all(made[name] is None for name in ("pixel_values", "qformer_input_ids", "qformer_attention_mask"))
    monkeypatch.setattr(loaded.model, "forward", None)
    words = adapter.prompt_embeddings({**batch, **made})
    assert words.equal(loaded.model.language_model.get_input_embeddings()(made["input_ids"]))


def test_prompts_that_cannot_be_made_say_so(adapter, processor):
    batch = ask(processor)
    with pytest.raises(errors.InvalidPrompt, match="spells out the image token"):
        adapter.reworded(batch, processor, "Where is <image> now?")
    with pytest.raises(errors.MissingProcessor, match="two tokenizers"):
        adapter.reworded(batch, processor.tokenizer, TELL)
    with pytest.raises(errors.InvalidPrompt, match="one image a prompt, and there are 2 images for 3 prompts"):
        adapter.images_of(batch | {"pixel_values": batch["pixel_values"][:2]})


@torch.no_grad()
def test_descriptions_equal_naive_greedy_ones(loaded, adapter, processor):
    """The Q-Former, too, is asked for the description."""
    texts = adapter.describe(ask(processor), processor, TELL, 6)
    for row, text in enumerate(texts):
        one, new = single(ask(processor, [TELL], row), 0), []
        while len(new) < 6 and 2 not in new:
            new.append(int(whole(loaded.model, one, new).argmax()))
        assert text == processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert len(set(texts)) > 1


@pytest.mark.parametrize("branching", ["rows", "sequential"])
@pytest.mark.parametrize("mode", ["uniform", "zero"])
def test_edits_of_the_tower_equal_full_maps(loaded, processor, mode, branching):
    """Query, key and value are one matrix here; heads are edited in the maps of the naive version."""
    edits, batch = (HeadEdit(0, (1,), mode), HeadEdit(1, (0, 2), mode)), ask(processor)
    plain = whole(loaded.model, single(batch, 0), [])

    def edit(layer, maps):
        made = maps.clone()
        made[:, list(edits[layer].heads)] = 1 / maps.shape[-1] if mode == "uniform" else 0.0
        return made

    def naive(row, new):
        with full_maps(loaded.model.vision_model, edit):
            return whole(loaded.model, single(batch, row), new)

    assert (naive(0, []) - plain).abs().max() > 1e-3
    output, _ = run(loaded.model, batch, (Branch("x", vision_edits=edits),), branching)
    assert_same(output, batch, *naive_tokens(loaded.model, batch, [naive]))


def test_weights_of_patches_are_refused(loaded, processor):
    batch = ask(processor)
    gate = sightline.CausalMM(modality="vision", vision_mode="gate", vision_norm="none")
    with pytest.raises(errors.UnsupportedModel, match=r"Q-Former reads them.*in_layer"):
        sightline.attach(loaded.model, gate, batch)


def test_end_tokens_are_the_language_model_s(loaded, adapter, monkeypatch):
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", 7)
    assert adapter.end_tokens == [2]
    monkeypatch.setattr(loaded.model.language_model.generation_config, "eos_token_id", [2, 9])
    assert adapter.end_tokens == [2, 9]


# What is not served


def t5_model():
    return InstructBlipForConditionalGeneration(instructed_config(T5Config(**T5)))


def blip2_model():
    config = instructed_config().to_dict()
    former = {**config["qformer_config"], "model_type": "blip_2_qformer", "encoder_hidden_size": 24}
    vision = {**config["vision_config"], "model_type": "blip_2_vision_model"}
    text = config["text_config"]
    return Blip2ForConditionalGeneration(
        Blip2Config(vision_config=vision, qformer_config=former, text_config=text, num_query_tokens=QUERIES)
    )


@pytest.mark.parametrize(
    ("make", "remedy"), [(t5_model, "encoder-decoder.*instructblip-vicuna-7b"), (blip2_model, "instructblip-vicuna")]
)
def test_models_that_are_not_served_name_what_is(make, remedy, tmp_path):
    model = make()
    with pytest.raises(errors.UnsupportedModel, match=remedy):
        adapter_for(model)
    model.config.save_pretrained(tmp_path)  # no weights: they are not asked for
    with pytest.raises(errors.UnsupportedModel, match=remedy):
        load(str(tmp_path))


CONFIGS = {
    "first qwen-vl": ({"model_type": "qwen", "visual": {"width": 8}, "auto_map": {"AutoConfig": "x.Y"}}, "Qwen2.5-VL"),
    "first qwen": ({"model_type": "qwen", "auto_map": {"AutoConfig": "x.Y"}}, "Qwen/Qwen2.5-7B"),
    "mplug-owl": ({"model_type": "mplug_owl2", "auto_map": {"AutoConfig": "x.Y"}}, "Use a LLaVA"),
    "mplug-owl3": ({"model_type": "mplugowl3", "auto_map": {"AutoConfig": "x.Y"}}, "Use a LLaVA"),
    "llava of its authors": ({"model_type": "llava", "mm_vision_tower": "clip"}, "llava-hf/llava-1.5-7b-hf"),
    "llava-next of its authors": ({"model_type": "llava_mistral", "mm_vision_tower": "clip"}, "llava-hf/"),
    "not in transformers": ({"model_type": "minigpt4"}, r"not part of transformers \d.*a newer transformers"),
    "an encoder-decoder": ({"model_type": "t5"}, "no decoder-only language model.*sightline models"),
    "audio": ({"model_type": "qwen2_audio"}, "no decoder-only language model"),
    "remote code": ({"model_type": "novel", "auto_map": {"AutoConfig": "x.Y"}}, "trust_remote_code=True"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_checkpoints_that_transformers_does_not_serve_are_refused_and_nothing_is_run(name, tmp_path):
    config, remedy = CONFIGS[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "x.py").write_text("raise SystemExit('code of a checkpoint was run')")
    with pytest.raises(errors.UnsupportedModel, match=remedy):
        load(str(tmp_path))
    if name != "remote code":  # no switch helps these
        with pytest.raises(errors.UnsupportedModel, match=remedy):
            load(str(tmp_path), trust_remote_code=True)


def test_without_a_chat_template_the_text_is_the_prompt(adapter, processor, monkeypatch):
    inputs = ask(processor)
    expected = adapter.reworded(inputs, processor, TELL)
    monkeypatch.setattr(processor, "chat_template", None)
    found = adapter.reworded(inputs, processor, TELL)
    assert set(found) == set(expected)
    assert all(found[name].equal(value) for name, value in expected.items())
