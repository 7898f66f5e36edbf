"""IAVA: our reading of it against the vectors that pin it, its generation against a naive decoder with full maps."""

import pytest
import sightline
import torch
from anything import STEPS
from letters import asked, llava_processor, noise_image
from naive import single, vcd_scores
from naive_selection import irrelevant
from sightline.decoders.iava import IAVA, irrelevant_tokens
from sightline.decoders.image_tokens import image_attention
from sightline.decoders.plan import Step
from sightline.models.errors import InvalidParameter, MissingProcessor

IMAGE = 5
GENERAL = "Tell all."


@pytest.fixture(scope="module")
def processor():
    return llava_processor()


@pytest.fixture
def batch(processor):
    return asked(processor, [[noise_image(1)], [noise_image(2)]], ["Is it red?", "What is at the left side?"])


def test_selection_equals_the_vectors(golden):
    case = golden("iava")
    image = torch.zeros(1, 30, dtype=torch.bool)
    image[:, 3:27] = True
    means = {}
    for name in ("general", "query"):
        maps = torch.tensor(case[f"att_{name}"], dtype=torch.float64)[:, None]
        means[name] = image_attention(dict(enumerate(maps)), image).mean(dim=0)
    for name, key in (("general", "a1_general"), ("query", "a2_query")):
        expected = torch.tensor(case[f"{key}_mean_over_layers_heads"], dtype=torch.float64)
        torch.testing.assert_close(means[name][image], expected, atol=1e-6, rtol=0)
    for choice in case["selection"]:
        found = irrelevant_tokens(means["general"], means["query"], image, choice["rule"], choice["lambda_"])
        assert (found[0].nonzero().flatten() - 3).tolist() == choice["irrelevant_idx"]


def test_contrast_equals_the_vectors(golden):
    for case in golden("iava")["contrast"]:
        base, branch = (torch.tensor(case[f"logits_{name}"]) for name in ("original", "irrelevant"))
        strategy, step = (
            IAVA(alpha=case["alpha"], beta=case["beta"]),
            Step(0, context={"irrelevant": torch.tensor([3])}),
        )
        scores = strategy.combine(base, [branch], step)
        probs = scores.masked_fill(~strategy.keep(base, [branch], step), -torch.inf).softmax(-1)
        torch.testing.assert_close(probs, torch.tensor(case["probs"]).view(1, -1), atol=1e-6, rtol=0)
        empty = Step(0, context={"irrelevant": torch.tensor([0])})
        assert strategy.combine(base, [branch], empty).equal(base)


@torch.no_grad()
def naive_iava(model, processor, batch, strategy):
    """Greedy IAVA: one row at a time, both prompts whole, full attention maps, no cache."""
    model.set_attn_implementation("eager")
    answers = []
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": strategy.instruction}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    for row in range(len(batch["input_ids"])):
        one = single(batch, row)
        general = processor(images=[noise_image(0)], text=[text], return_tensors="pt")["input_ids"]
        lists = []
        for ids in (general, one["input_ids"]):
            maps = model(**(one | {"input_ids": ids}), use_cache=False, output_attentions=True).attentions
            columns = (ids[0] == IMAGE).nonzero().flatten()
            mean = sum(layer[0, :, -1, columns].mean(dim=0) for layer in maps) / len(maps)
            lists.append((mean / mean.sum() if strategy.normalise else mean).tolist())
        kept, new = irrelevant(*lists, strategy), []
        columns = (one["input_ids"][0] == IMAGE).nonzero().flatten().tolist()
        features = model.get_image_features(pixel_values=one["pixel_values"]).pooler_output[0]
        while len(new) < STEPS and 2 not in new:
            ids = torch.cat([one["input_ids"], torch.tensor([new], dtype=torch.long)], dim=1)
            clean = model(**(one | {"input_ids": ids}), use_cache=False).logits[0, -1]
            embeds = model.get_input_embeddings()(ids)
            for place, column in enumerate(columns):
                embeds[0, column] = features[place] if place in kept else 0.0
            hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
            other = model.lm_head(hidden)[0, -1] if kept else clean
            scores = vcd_scores(clean.tolist(), other.tolist(), strategy.alpha, strategy.beta)
            new.append(max(range(len(scores)), key=scores.__getitem__))
        answers.append(new)
    model.set_attn_implementation("sdpa")
    return answers


CHOICES = {
    "defaults": IAVA(instruction=GENERAL, lamb=0.2),
    "difference": IAVA(instruction=GENERAL, rule="difference_outlier", lamb=0.0, alpha=2.0, normalise=True),
    "empty": IAVA(instruction=GENERAL, lamb=50.0),
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("branching", ["rows", "sequential"])
@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_generation_equals_naive(llava, processor, batch, name, branching, cache):
    settings = {"dynamic": {}, "static": {"cache_implementation": "static"}, "none": {"use_cache": False}}[cache]
    settings |= {"max_new_tokens": STEPS, "do_sample": False}
    got = sightline.generate(llava, CHOICES[name], batch, processor=processor, branching=branching, **settings)
    for row, tokens in enumerate(naive_iava(llava, processor, batch, CHOICES[name])):
        assert got[row, batch["input_ids"].shape[1] :].tolist()[: len(tokens)] == tokens


@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_the_general_instruction_runs_its_own_words_alone(llava, processor, batch, branching):
    one = {name: value[1:] for name, value in batch.items()}
    with sightline.attach(llava, CHOICES["difference"], one, processor=processor, branching=branching) as attached:
        llava.generate(**one, logits_processor=[attached], max_new_tokens=STEPS, do_sample=False, eos_token_id=-1)
    width = one["input_ids"].shape[1]
    own = len(GENERAL + " ASSISTANT:")
    assert attached.stats.encodes == 0
    assert attached.stats.columns == 2 * (width + STEPS - 1) + own


def test_the_same_instruction_twice_is_the_cut_alone(llava, processor, batch):
    one = {name: value[:1] for name, value in batch.items()}
    settings = {"max_new_tokens": STEPS, "do_sample": False}
    got = sightline.generate(llava, IAVA(instruction="Is it red?", lamb=0.0), one, processor=processor, **settings)
    assert got.equal(llava.generate(**one, **settings))
    with pytest.raises(MissingProcessor, match="processor="):
        sightline.attach(llava, IAVA(), one)


@pytest.mark.parametrize(
    ("field", "value"),
    [("alpha", -1), ("beta", 2), ("gamma", 0), ("masking", "blur"), ("rule", "R1"), ("layers", "some"),
     ("instruction", " ")],
)  # fmt: skip
def test_bad_values_name_field_rule_and_value(field, value):
    with pytest.raises(InvalidParameter, match=rf"iava: {field} must be .*, got"):
        IAVA(**{field: value})


def test_a_general_prompt_that_parts_from_the_question_before_its_image_is_read_whole(llava, processor, batch):
    """With another first word in the question there is no shared beginning: without a cache all is read anyway."""
    settings = {"max_new_tokens": STEPS, "do_sample": False}
    decoder = IAVA(alpha=2.0, lamb=-0.2, instruction=GENERAL)
    other = batch | {"input_ids": batch["input_ids"].clone()}
    for row, length in enumerate(batch["attention_mask"].sum(dim=1)):
        other["input_ids"][row, -length] = 7
    encodes = []
    for asked_with in (batch, other):
        with sightline.attach(llava, decoder, asked_with, processor=processor) as attached:
            found = llava.generate(**asked_with, logits_processor=[attached], **settings)
        whole = sightline.generate(llava, decoder, asked_with, processor=processor, use_cache=False, **settings)
        assert found.equal(whole)
        encodes.append(attached.stats.encodes)
    assert encodes[1] == encodes[0] + 1
