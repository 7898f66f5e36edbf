"""What `generate()` is asked for is looked at before it starts; nothing of that stays behind. Models inside PEFT."""

import copy
import warnings

import pytest
import sightline
import torch
import transformers
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from promised import lists
from sightline.decoders import guard
from sightline.models import adapter_for, errors
from sightline.models.versions import CACHE
from transformers import DynamicCache, GenerationConfig, StaticCache

VCD = sightline.VCD(noise_step=700)
CUT = sightline.CutOnly(beta=0.3)


@pytest.fixture
def forwards(llava):
    """How many forwards the decoder has made."""
    made = []
    handle = llava.get_decoder().register_forward_hook(lambda module, args, output: made.append(1))
    yield made
    handle.remove()


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"prompt_lookup_num_tokens": 1}, "prompt_lookup_num_tokens"),
        ({"generation_config": GenerationConfig(prompt_lookup_num_tokens=2)}, "prompt_lookup_num_tokens"),
        ({"assistant_early_exit": 1}, "assistant_early_exit"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha"),
        ({"dola_layers": "low"}, "dola_layers"),
        ({"cache_implementation": "paged"}, "continuous batching"),
    ],
    ids=str,
)
def test_modes_that_no_branch_can_follow_are_refused_before_the_first_forward(llava, inputs, forwards, asked, named):
    batch = inputs()
    for run in (
        lambda p: llava.generate(**batch, logits_processor=[p], max_new_tokens=3, **asked),
        lambda p: p.close() or sightline.generate(llava, VCD, batch, max_new_tokens=3, **asked),
    ):
        with sightline.attach(llava, VCD, batch) as p, pytest.raises(errors.UnsupportedMode, match=named) as found:
            run(p)
        assert found.value.hint
        assert not forwards


def test_a_setting_of_the_model_itself_is_seen(llava, inputs, forwards, monkeypatch):
    monkeypatch.setattr(llava.generation_config, "prompt_lookup_num_tokens", 2)
    with sightline.attach(llava, VCD, inputs()) as p, pytest.raises(errors.UnsupportedMode, match="prompt_lookup"):
        llava.generate(**inputs(), logits_processor=[p], max_new_tokens=3)
    assert not forwards


def test_settings_that_switch_a_mode_off_are_let_through(llava, inputs):
    batch, settings = inputs(), {"max_new_tokens": 3, "do_sample": False}
    expected = sightline.generate(llava, VCD, batch, **settings)
    for off in ({"guidance_scale": 1.0}, {"num_beam_groups": 1}, {"penalty_alpha": 0.0}, {"use_mtp": False}):
        assert sightline.generate(llava, VCD, batch, **settings, **off).equal(expected)


def test_neutral_decoders_refuse_nothing(llava, llama, inputs):
    batch = {name: inputs()[name] for name in ("input_ids", "attention_mask")}
    plain = llama.generate(**batch, prompt_lookup_num_tokens=2, max_new_tokens=4, do_sample=False)
    settings = {"prompt_lookup_num_tokens": 2, "max_new_tokens": 4}
    assert sightline.generate(llama, "greedy", batch, **settings).equal(plain)
    with sightline.attach(llava, "greedy", inputs()):
        assert "generate" not in vars(llava)


def test_nothing_stays_behind(llava, inputs):
    own = llava.generate
    before = dict(vars(llava))
    with sightline.attach(llava, VCD, inputs()):
        assert "generate" in vars(llava)
    assert dict(vars(llava)) == before
    llava.generate = own  # as models with a loop of their own in their repository have it
    try:
        with sightline.attach(llava, VCD, inputs()):
            assert vars(llava)["generate"] is not own
        assert vars(llava)["generate"] is own
    finally:
        del llava.generate


def test_continuous_batching_is_refused(llama, inputs):
    batch = {name: inputs()[name] for name in ("input_ids", "attention_mask")}
    with sightline.attach(llama, CUT, batch), pytest.raises(errors.UnsupportedMode, match="one batch"):
        llama.generate_batch(batch["input_ids"].tolist(), max_new_tokens=2)
    assert "init_continuous_batching" not in vars(llama)


@pytest.mark.parametrize("make", [DynamicCache, StaticCache])
@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_empty_caches_may_be_given_and_come_back_with_base_rows(llava, inputs, make, branching):
    batch, settings = inputs((7, 5)), {"max_new_tokens": 4, "do_sample": False}
    expected = sightline.generate(llava, VCD, batch, **settings)
    own = {"max_cache_len": batch["input_ids"].shape[1] + 4} if make is StaticCache else {}
    cache = make(config=llava.config.text_config, **own)
    found = sightline.generate(
        llava, VCD, batch, branching=branching, **{CACHE: cache}, disable_compile=True, **settings
    )
    assert found.equal(expected)
    assert all(layer.keys.shape[0] == 2 for layer in cache.layers)
    assert make is DynamicCache or cache.batch_size == 2


def test_quantised_caches_are_for_sequential_branching(llava, inputs, forwards):
    batch = inputs()
    older = transformers.__version__ < "5.23"  # fp8 came with it
    backend = {"backend": "quanto", "nbits": 4, "q_group_size": 16} if older else {"backend": "fp8"}
    settings = {"cache_implementation": "quantized", "cache_config": backend, "max_new_tokens": 3}
    with sightline.attach(llava, VCD, batch) as p, pytest.raises(errors.UnsupportedMode, match="sequential"):
        llava.generate(**batch, logits_processor=[p], **settings)
    assert not forwards
    assert sightline.generate(llava, VCD, batch, branching="sequential", **settings).shape == (1, 14)


def test_inputs_without_ids_are_refused(llava, inputs):
    batch = inputs()
    embeds = adapter_for(llava).prompt_embeddings(batch)
    for more in ({}, {"pixel_values": batch["pixel_values"]}):
        for decoder in (VCD, CUT):
            with pytest.raises(errors.SightlineError) as found:
                sightline.generate(llava, decoder, {"inputs_embeds": embeds, **more}, max_new_tokens=2)
            assert found.value.hint


def peft_model(model, config):
    torch.manual_seed(1)
    with warnings.catch_warnings():  # PEFT asks for a property that transformers has renamed
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(copy.deepcopy(model), config)


def wrapped(model, **changes):
    config = LoraConfig(r=2, target_modules=r".*language_model.*\.(q|v)_proj", init_lora_weights=False, **changes)
    return peft_model(model, config).double().eval()


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_a_peft_model_is_served_as_the_merged_one(llava, inputs, task):
    peft, batch = wrapped(llava, task_type=task), inputs((7, 5))
    assert adapter_for(peft) is adapter_for(peft.get_base_model())
    settings = {"max_new_tokens": 5, "do_sample": False}
    found = sightline.generate(peft, VCD, batch, **settings)
    with peft.disable_adapter():
        assert sightline.generate(peft, VCD, batch, **settings).equal(sightline.generate(llava, VCD, batch, **settings))
    merged = wrapped(llava, task_type=task).merge_and_unload()
    assert found.equal(sightline.generate(merged, VCD, batch, **settings))
    assert not found.equal(sightline.generate(llava, VCD, batch, **settings))


def test_an_adapter_for_each_row_is_refused(llava, inputs):
    peft, batch = wrapped(llava), inputs((7, 5))
    peft.add_adapter("other", LoraConfig(r=2, target_modules=r".*language_model.*\.(q|v)_proj"))
    names = ["default", "other"]
    peft.double().generate(**batch, adapter_names=names, max_new_tokens=2)
    with sightline.attach(peft, VCD, batch) as p, pytest.raises(errors.UnsupportedMode, match="adapter_names"):
        peft.generate(**batch, adapter_names=names, logits_processor=[p], max_new_tokens=2)


def test_virtual_tokens_are_refused(llama):
    peft = peft_model(llama, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(errors.UnsupportedModel, match="LoRA"):
        adapter_for(peft)


def test_what_is_no_model_is_refused(llama):
    with pytest.raises(errors.UnsupportedModel, match=r"model\.module"):
        adapter_for(torch.nn.Sequential(llama))


def test_older_versions_that_lose_images_or_types_are_told_apart(llava, inputs, forwards, monkeypatch):
    """What they cannot do is refused before the first forward, by the version's number."""
    version = transformers.__version__
    monkeypatch.setattr(guard, "PIECES", False)
    monkeypatch.setattr(guard, "forgets_types", lambda adapter: True)
    for asked, lost in (({"prefill_chunk_size": 4}, "loses the images"), ({"use_cache": False}, "without a cache")):
        with pytest.raises(errors.UnsupportedMode, match=f"transformers {version} ") as refused:
            sightline.generate(llava, VCD, inputs(), max_new_tokens=3, **asked)
        assert lost in str(refused.value)
        assert "install transformers 5.23 or newer" in refused.value.hint
    assert not forwards


def test_a_forked_prompt_that_a_static_window_drops_is_refused(tmp_path):
    torch.manual_seed(0)
    small = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    config = transformers.MistralConfig(
        **small, num_attention_heads=4, num_key_value_heads=2, sliding_window=6, pad_token_id=0, eos_token_id=2
    )
    model = transformers.MistralForCausalLM(config).eval()
    settings = {"cache_implementation": "static", "max_new_tokens": 4, "do_sample": False, "disable_compile": True}
    decoder = sightline.DeCoRe(num_heads=3, heads=lists(tmp_path), alpha_mode="static", alpha=4.0)
    ids = torch.arange(10, 19)[None]
    batch, short = ({"input_ids": each, "attention_mask": torch.ones_like(each)} for each in (ids, ids[:, :6]))
    with pytest.raises(errors.UnsupportedMode, match="window of 6 drops some"):
        sightline.generate(model, decoder, batch, **settings)
    expected = sightline.generate(model, decoder, short, max_new_tokens=4, do_sample=False)
    for branching in ("rows", "sequential"):  # the window is as wide as this prompt, and moves on behind it
        assert sightline.generate(model, decoder, short, branching=branching, **settings).equal(expected)


def test_a_model_that_lacks_what_newer_ones_have_is_guarded_as_far(llava, inputs, monkeypatch):
    """Neither continuous batching nor compiled calls: nothing is put there, and `generate` is looked at."""

    class Lacks:
        def __get__(self, instance, owner=None):
            raise AttributeError

    batch = inputs()
    expected = sightline.generate(llava, VCD, batch, max_new_tokens=3, do_sample=False)
    for name in ("init_continuous_batching", "get_compiled_call"):
        monkeypatch.setattr(type(llava), name, Lacks())
    with sightline.attach(llava, VCD, batch) as p:
        assert not vars(llava).keys() & {"init_continuous_batching", "get_compiled_call"}
        found = llava.generate(**batch, logits_processor=[p], max_new_tokens=3, do_sample=False)
    assert found.equal(expected)
    with sightline.attach(llava, VCD, batch) as p, pytest.raises(errors.UnsupportedMode, match="guidance_scale"):
        llava.generate(**batch, logits_processor=[p], guidance_scale=2.0)


def test_a_loop_from_the_hub_is_refused(llava, inputs, forwards):
    with pytest.raises(errors.UnsupportedMode, match="custom_generate") as refused:
        sightline.generate(llava, VCD, inputs(), custom_generate="someone/loop", max_new_tokens=2)
    assert "greedy" in refused.value.hint
    assert not forwards
