"""CAD and DoLa against the reference's numbers and against naive decoders; marked context in all its forms."""

import copy

import pytest
import sightline
import torch
from anything import STEPS
from letters import tokenizer
from sightline.decoders.dola import DoLa, furthest
from sightline.decoders.plan import Step
from sightline.models import errors
from sightline.models.spans import context_mask

CONTEXT = slice(2, 9)


@pytest.fixture(scope="module")
def vectors(golden):
    return golden("decore_baselines_math")


@pytest.fixture(scope="module")
def loud(llama):
    """Weights large enough that early layers have something to say."""
    model = copy.deepcopy(llama)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)
    return model


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    ids, mask = torch.zeros(2, 14, dtype=torch.long), torch.zeros(2, 14, dtype=torch.long)
    for row, length in enumerate((12, 14)):
        ids[row, -length:] = torch.randint(6, 90, (length,), generator=generator)
        mask[row, -length:] = 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def spans():
    return [(4, 11), (2, 9)]  # the same seven tokens after the first two of each row


def decoded(model, decoder, batch, **kwargs):
    ids = sightline.generate(model, decoder, batch, max_new_tokens=STEPS, do_sample=False, **kwargs)
    return [row[: row.index(2) + 1] if 2 in row else row for row in ids[:, batch["input_ids"].shape[1] :].tolist()]


@torch.no_grad()
def naive(model, batch, scores_of):
    found = []
    for row in range(2):
        ids, new = batch["input_ids"][row][batch["attention_mask"][row].bool()], []
        while len(new) < STEPS and 2 not in new:
            new.append(int(scores_of(model, ids, torch.tensor(new, dtype=torch.long)).argmax()))
        found.append(new)
    return found


def naive_cad(model, ids, new):
    without = torch.cat([ids[:2], ids[9:], new])
    return 2.5 * model(torch.cat([ids, new])[None]).logits[0, -1] - 1.5 * model(without[None]).logits[0, -1]


def naive_dola(model, ids, new, exits=(0, 2)):
    out = model(torch.cat([ids, new])[None], output_hidden_states=True)
    final = out.logits[0, -1].softmax(-1).tolist()
    best = None
    for exit in exits:
        early = model.lm_head(out.hidden_states[exit][0, -1]).softmax(-1).tolist()
        middle = [(a + b) / 2 for a, b in zip(final, early, strict=True)]
        logs = torch.tensor([final, early, middle], dtype=torch.float64).log().tolist()
        distance = sum(
            m * (2 * log[2] - log[0] - log[1]) for m, log in zip(middle, zip(*logs, strict=True), strict=True)
        )
        if best is None or distance > best[0]:
            best = distance, early
    scores = torch.tensor(final).log() - torch.tensor(best[1]).log()
    return scores.masked_fill(torch.tensor(final) < 0.1 * max(final), -torch.inf)


def test_cad_equals_the_reference(vectors):
    case = next(case for case in vectors["cases"] if case["variant"] == "cad")
    base, other = (torch.tensor(vectors[f"{name}_logits"]) for name in ("expert", "other"))
    scores = sightline.CAD(alpha=case["alpha"]).combine(base, [other], Step(0))
    torch.testing.assert_close(scores, torch.tensor(case["scores"]), atol=1e-5, rtol=1e-5)


def test_dola_equals_the_reference(vectors):
    """The reference lets the last layer compete; it never wins, for it does not differ from itself."""
    case = next(case for case in vectors["cases"] if case["variant"] == "dola_score")
    logits = {int(layer): torch.tensor(rows)[2:8] for layer, rows in vectors["layer_logits"].items()}
    exits = {layer: logits[layer] for layer in case["candidates"] if layer != 8}
    scores = DoLa(beta=0.0).combine(logits[8], [], Step(0, exits=exits))
    torch.testing.assert_close(scores, torch.tensor(case["scores"]), atol=1e-5, rtol=1e-5)
    early = torch.stack([exits[layer].log_softmax(-1) for layer in sorted(exits)])
    picked = [sorted(exits)[place] for place in furthest(logits[8].log_softmax(-1), early).tolist()]
    assert picked == case["picked_layers"]


@pytest.mark.parametrize("branching", ["rows", "sequential"])
@pytest.mark.parametrize("cache", [True, False])
def test_generation_equals_naive(loud, batch, spans, branching, cache):
    settings = {"branching": branching, "use_cache": cache}
    cad = sightline.CAD(alpha=1.5)
    assert decoded(loud, cad, batch, spans=spans, **settings) == naive(loud, batch, naive_cad)
    dola = DoLa(layers="0,2")
    assert decoded(loud, dola, batch, **settings) == naive(loud, batch, naive_dola)
    plain = decoded(loud, "greedy", batch)
    assert plain != naive(loud, batch, naive_cad)
    assert plain != naive(loud, batch, naive_dola)


def test_a_uniform_exit_keeps_the_order_and_one_exit_is_taken_as_it_is():
    base = torch.randn(2, 9)
    scores = DoLa(beta=0.0).combine(base, [], Step(0, exits={0: torch.zeros(2, 9)}))
    assert scores.argsort(-1).equal(base.argsort(-1))
    for divergence in ("reference", "js"):
        assert furthest(base.log_softmax(-1), torch.zeros(1, 2, 9).log_softmax(-1), divergence).tolist() == [0, 0]


def test_halves_follow_the_depth(llama):
    class Deep:
        owner = llama

        def __init__(self, layers):
            self.layers = layers

    assert DoLa(layers="low").exits(Deep(32)) == tuple(range(0, 16, 2))
    assert DoLa(layers="high").exits(Deep(32)) == tuple(range(16, 32, 2))
    assert DoLa(layers="high").exits(Deep(60)) == tuple(range(40, 60, 2))
    with pytest.raises(errors.UnsupportedMode, match="no exit"):
        sightline.attach(llama, DoLa(layers="9"), {"input_ids": torch.ones(1, 4, dtype=torch.long)})


def test_scoring_cuts_nothing_under_dola(llama, batch):
    scores = sightline.score(llama, DoLa(layers="0,2", beta=1.0), batch, [[5, 2], [9, 2]])
    assert scores.isfinite().all()


def test_context_in_all_its_forms(batch, spans):
    expected = context_mask(batch, spans, None, "cad")
    assert expected[0].nonzero().flatten().tolist() == list(range(4, 11))
    assert context_mask(batch, expected, None, "cad").equal(expected)
    assert context_mask(batch, [[(4, 6), (6, 11)], [(2, 9)]], None, "cad").equal(expected)
    letters = tokenizer()
    passages = [letters.decode(batch["input_ids"][row, start:end]) for row, (start, end) in enumerate(spans)]
    stripped = [len(passage) - len(passage.lstrip()) for passage in passages]
    found = context_mask(batch, passages, letters, "cad")
    for row, (start, _) in enumerate(spans):
        assert found[row].nonzero()[0].item() == start + stripped[row]
    assert not context_mask(batch, [None, (2, 9)], None, "cad")[0].any()


TEMPLATE = (
    "{% for d in documents or [] %}[{{ d['text'] }}]{% endfor %}"
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}\n{% endfor %}"
)


def test_context_is_found_through_a_chat_template():
    letters = tokenizer()
    letters.chat_template = TEMPLATE
    messages = [
        {"role": "tool", "content": " The sky is green. "},
        {"role": "user", "content": "What is the sky?"},
    ]
    documents = [{"title": "a", "text": "Rain is dry."}]
    prompt = letters.apply_chat_template(messages, documents=documents, tokenize=False)
    batch = letters(prompt, return_tensors="pt")
    found = context_mask(batch, [sightline.passages(messages, documents)], letters, "cad")[0]
    marked = letters.decode(batch["input_ids"][0][found])
    assert marked == "Rain is dry.The sky is green."
    assert sightline.passages(messages[1:]) is None
    parts = [{"type": "text", "text": "a"}, {"type": "image"}]
    assert sightline.passages([{"role": "context", "content": parts}]) == ["a"]
    with pytest.raises(errors.MissingContext, match="Document 0 has no text"):
        sightline.passages([], [{"title": "a"}])


def test_context_that_cannot_be_is_refused(llama, batch):
    with pytest.raises(errors.MissingContext, match="spans="):
        sightline.attach(llama, "cad", batch)
    for bad in ([(4, 11)], [(11, 4), (2, 9)], [(0, 99), (2, 9)], torch.ones(2, 3)):
        with pytest.raises(errors.MissingContext):
            sightline.attach(llama, "cad", batch, spans=bad)
    with pytest.raises(errors.MissingContext, match="not in its prompt"):
        sightline.attach(llama, "cad", batch, spans=["nowhere to be found"] * 2, processor=tokenizer())
    with pytest.raises(errors.MissingProcessor):
        sightline.attach(llama, "cad", batch, spans=["text"] * 2)


def test_no_context_is_plain_decoding(llama, batch):
    with sightline.attach(llama, "cad", batch, spans=[None, None]) as attached:
        assert attached.plan.is_neutral
