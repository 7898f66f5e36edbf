"""`--model sightline` of lm-evaluation-harness: answers and scores are those of `sightline.generate` and `score`.

Where the package is not installed, modules of the same names stand in for the few things that are used of it.
"""

import math
import sys

import pytest
import sightline
import torch
from harnesses import LLAMA, LLAVA, REAL, Asked, load_once
from lm_eval.api.registry import model_registry
from sightline.eval.plugins import host as hosts
from sightline.eval.plugins import lm_eval_command
from sightline.eval.plugins.lm_eval_model import SightlineLM, windows
from sightline.eval.settings import ModelSettings
from sightline.models.errors import MissingChatTemplate, MissingContext, MissingImage

MODEL = ModelSettings(LLAMA["pretrained"], dtype="float64", device="cpu")
DECODERS = [
    ("greedy", {}),
    ("dola", {"layers": "high", "beta": 0.0}),
    ("decore", {"num_heads": 2}),
    ("cad", {"alpha": 0.5}),
]


def plug_in(decoder="greedy", params=None, **more):
    fields = {f"decoder.{name}": value for name, value in (params or {}).items()}
    return SightlineLM(**LLAMA, decoder=decoder, **fields, **more)


def asked(documents, **how):
    how = {"max_gen_toks": 8, **how}
    return [Asked((each.text, dict(how)), {"passage": each.context}) for each in documents]


def alone(decoder, params, document, tokens=8, **how):
    """One question through `sightline.generate`."""
    loaded = load_once(MODEL)
    inputs = loaded.processor(document.text, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    strategy = sightline.decoders.build(decoder, params)
    marked = {"processor": loaded.processor, "spans": [document.context]}
    ids = sightline.generate(loaded.model, strategy, inputs, **marked, max_new_tokens=tokens, do_sample=False, **how)
    return loaded.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize(("decoder", "params"), DECODERS)
def test_answers_are_those_of_generate(decoder, params, facts):
    held = plug_in(decoder, params, batch_size=4, context_field="passage")
    found = held.generate_until(asked(facts))
    assert found == [alone(decoder, params, each) for each in facts]
    assert len(set(found)) > 1


def test_beams_and_penalties_reach_generate(facts):
    found = plug_in(batch_size=2).generate_until(asked(facts[:2], num_beams=3, repetition_penalty=1e3))
    assert found == [alone("greedy", {}, each, num_beams=3, repetition_penalty=1e3) for each in facts[:2]]
    assert found != [alone("greedy", {}, each, num_beams=3) for each in facts[:2]]


@pytest.mark.parametrize(("decoder", "params"), DECODERS)
def test_scores_are_those_of_score(decoder, params, facts):
    held = plug_in(decoder, params, batch_size=3, context_field="passage")
    answers = [" " + str(each.label) + "." for each in facts]
    requests = [
        Asked((each.text, answer), {"passage": each.context}) for each, answer in zip(facts, answers, strict=True)
    ]
    loaded, strategy = load_once(MODEL), sightline.decoders.build(decoder, params)
    for document, answer, (found, _) in zip(facts, answers, held.loglikelihood(requests), strict=True):
        inputs = loaded.processor(document.text, return_tensors="pt")
        whole = loaded.processor(document.text + answer)["input_ids"]
        own = whole[inputs["input_ids"].shape[1] :]
        marked = {"processor": loaded.processor, "spans": [document.context]}
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        expected = sightline.score(loaded.model, strategy, inputs, [own], **marked)
        assert found == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize(("decoder", "params"), DECODERS[:2])
def test_what_would_have_been_chosen_is_marked(decoder, params, facts):
    held = plug_in(decoder, params, batch_size=8)
    said = held.generate_until(asked(facts, max_gen_toks=4))
    other = [text[:-1] + ("x" if text[-1:] != "x" else "y") for text in said]
    marks = held.loglikelihood([Asked((each.text, text)) for each, text in zip(facts * 2, said + other, strict=True)])
    assert [mark for _, mark in marks] == [True] * len(facts) + [False] * len(facts)


def test_spaces_belong_to_the_word_that_follows(facts):
    held = plug_in()
    text, answer = facts[0].text, " " + str(facts[0].label)
    assert held.loglikelihood([Asked((text + " ", answer.strip()))]) == held.loglikelihood([Asked((text, answer))])


def test_a_text_without_context_is_scored_behind_the_start_token():
    held = plug_in()
    ids = held.host.encode("The mayor", special=False)
    loaded = load_once(MODEL)
    start = {"input_ids": torch.tensor([[loaded.processor.bos_token_id]])}
    expected = float(sightline.score(loaded.model, "greedy", start, [ids]))
    assert held.loglikelihood([Asked(("", "The mayor"))])[0][0] == pytest.approx(expected)
    assert held.generate_until([Asked(("", {"max_gen_toks": 3}))])


def test_whole_texts_in_windows(facts):
    assert windows(range(10), -1, 4) == [([-1], [0, 1, 2, 3]), ([3], [4, 5, 6, 7]), ([5, 6, 7], [8, 9])]
    assert windows([], -1, 4) == []
    held = plug_in(batch_size=4, max_length=16)
    loaded = load_once(MODEL)
    ids = loaded.processor(facts[0].text)["input_ids"]
    expected = 0.0
    for place, token in enumerate(ids):
        end = min(len(ids), (place // 16 + 1) * 16)
        seen = [loaded.processor.bos_token_id, *ids][max(0, end - 16) : place + 1]
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([seen])).logits[0, -1].double()
        expected += float(logits.log_softmax(-1)[token])
    assert held.loglikelihood_rolling([Asked((facts[0].text,))]) == [pytest.approx(expected, abs=1e-8)]


def test_prompts_that_are_too_long_lose_their_beginning(facts):
    held = plug_in(max_length=24)
    ids = load_once(MODEL).processor(facts[0].text)["input_ids"]
    found = held.generate_until(asked(facts[:1]))
    cut = torch.tensor([ids[-16:]])
    out = sightline.generate(load_once(MODEL).model, "greedy", {"input_ids": cut}, max_new_tokens=8)
    assert found == [load_once(MODEL).processor.decode(out[0, 16:], skip_special_tokens=True)]
    with pytest.raises(ValueError, match="no room for a prompt"):
        held.generate_until(asked(facts[:1], max_gen_toks=24))


def test_answers_end_before_their_stop_text_and_save_forwards(facts):
    held = plug_in(batch_size=6)
    whole = held.generate_until(asked(facts, max_gen_toks=32))
    stop = whole[0][1:3]  # within the first token
    decoder = held.host.loaded.adapter.decoder
    calls = []
    hook = decoder.register_forward_hook(lambda *args: calls.append(1))
    found = held.generate_until(asked(facts[:1], max_gen_toks=32, until=[stop, "\n\n\n"]))
    hook.remove()
    assert found == [whole[0].split(stop)[0]]
    assert len(calls) < len(held.host.encode(whole[0], special=False))
    assert held.generate_until(asked(facts, max_gen_toks=32, until=[stop])) == [t.split(stop)[0] for t in whole]


def test_sampled_answers_depend_on_neither_batch_nor_order(facts):
    how = {"do_sample": True, "temperature": 2.0}
    many = plug_in("dola", {"beta": 0.0}, batch_size=6).generate_until(asked(facts, **how))
    back = plug_in("dola", {"beta": 0.0}, batch_size=1).generate_until(asked(facts[::-1], **how))
    assert many == back[::-1]
    assert many != plug_in("dola", {"beta": 0.0}, seed=1).generate_until(asked(facts, **how))
    twice = plug_in("sample", batch_size=2).generate_until(asked([facts[0]] * 2, temperature=2.0))
    assert twice[0] != twice[1]


def test_memory_that_runs_out_halves_the_batch(facts, monkeypatch):
    sizes, real = [], hosts.generate

    def scarce(model, decoder, inputs, **kwargs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, decoder, inputs, **kwargs)

    monkeypatch.setattr(hosts, "generate", scarce)
    assert plug_in(batch_size="auto").generate_until(asked(facts)) == [alone("greedy", {}, each) for each in facts]
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]


def test_a_fault_that_is_not_memory_is_not_hidden(facts, monkeypatch):
    monkeypatch.setattr(hosts, "generate", lambda *args, **kwargs: math.sqrt(-1))
    with pytest.raises(ValueError, match="math domain"):
        plug_in(batch_size=2).generate_until(asked(facts))


def test_what_a_strategy_lacks_is_said(facts):
    with pytest.raises(MissingImage, match="vcd contrasts images"):
        plug_in("vcd").loglikelihood([Asked(("a", "b"))])
    with pytest.raises(MissingContext, match="which part of the prompt is context"):
        plug_in("cad").generate_until(asked(facts[:1]))
    with pytest.raises(MissingContext, match=r"no text of that name. Their fields: passage"):
        plug_in("cad", context_field="text").generate_until(asked(facts[:1]))
    with pytest.raises(MissingChatTemplate, match="no chat template"):
        plug_in().apply_chat_template([{"role": "user", "content": "Hello"}])


def test_conversations_take_the_models_template(monkeypatch):
    held = plug_in()
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "I"}]
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
    monkeypatch.setattr(held.host.tokenizer, "chat_template", template)
    text = held.apply_chat_template(turns)
    assert text == "<s>[user] Hello [assistant] I "
    assert held.host.encode(text)[:2] != [1, 1]
    assert held.chat_template(True) == template
    assert held.chat_template(False) is None


def test_an_image_text_model_is_asked_about_texts():
    held = SightlineLM(**LLAVA, decoder="dola", batch_size=2)
    text = held.apply_chat_template([{"role": "user", "content": "What colour is it?"}])
    assert "What colour is it?" in text
    assert all(isinstance(each, str) for each in held.generate_until([Asked((text, {"max_gen_toks": 2}))] * 2))


def test_results_name_the_decoder():
    info = plug_in("decore", {"num_heads": 2}).get_model_info()
    assert info["sightline_decoder"]["key"] == "decore"
    assert info["sightline_decoder"]["params"]["num_heads"] == 2


def test_the_command_names_the_model_to_the_harness():
    lm_eval_command.register()
    lm_eval_command.register()
    held = model_registry["sightline"]
    assert held == lm_eval_command.TARGET or held.__name__ == "SightlineLM"
    module, _, name = lm_eval_command.TARGET.partition(":")
    assert getattr(sys.modules[module], name).__name__ == "SightlineLM"


@pytest.mark.skipif(REAL["lm_eval"], reason="lm_eval is installed")
def test_without_the_package_the_command_says_how_to_get_it():
    with pytest.raises(SystemExit, match=r"pip install 'sightline\[lm-eval\]'"):
        lm_eval_command.main()
