"""Modes that concern caches, prompts in other forms, several tokens at once, and other models."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from cells import ROWS, Case, Forced, Outcome, Refused, Run, differs, same
from kernels import python_unpack
from modes import ASIDE, FORKS, REFINED, SINGLE, TWINS, equal, missing, mode, still_is_plain
from peft import LoraConfig, get_peft_model
from sightline.decoders.guard import forgets_types
from sightline.models import adapter_for, errors
from sightline.models.versions import CACHE, PIECES
from transformers import ContinuousBatchingConfig, DynamicCache

FP8 = 1.0
"""How far logits may be from those without a quantised cache, in standard deviations of a row of logits."""
SHARE = 0.25
"""The same for DAGCD, as a difference of probabilities: it adds to these, so logits of unlikely words move far."""
BF16 = 0.5
"""How far logits in bfloat16 may be from those in float64, the same tokens forced, in the same measure."""


@mode("dynamic cache, given empty", "greedy; base rows alone stay in it")
def dynamic_cache(case: Case) -> Outcome:
    for branching in ("rows", "sequential"):
        cache = DynamicCache(config=case.model.config.get_text_config(decoder=True))
        same(case.run(branching=branching, **{CACHE: cache}), case.default)
        assert all(layer.keys.shape[0] == len(ROWS) for layer in cache.layers)
    same(case.run(cache_implementation="dynamic"), case.default)
    return equal("greedy")


@mode("static cache", "greedy")
def static_cache(case: Case) -> Outcome:
    settings = {"cache_implementation": "static", "disable_compile": True}
    if case.strategy in FORKS and case.family.window:
        return case.refused(errors.UnsupportedMode, **settings)
    if case.strategy in ASIDE:
        try:
            same(case.both(**settings), case.default)
        except Refused:  # its branch is longer than the prompt
            return case.refused(errors.UnsupportedMode, **settings)
    same(case.both(**settings), case.default)
    return equal("greedy")


def _offloaded(case: Case, name: str) -> Outcome:
    try:
        case.tried(name, cache_implementation=name)
    except Exception as error:
        return missing(error)
    same(case.both(cache_implementation=name), case.default)
    return equal("greedy")


@mode("offloaded cache", "greedy")
def offloaded_cache(case: Case) -> Outcome:
    return _offloaded(case, "offloaded")


@mode("offloaded static cache", "greedy")
def offloaded_static_cache(case: Case) -> Outcome:
    return _offloaded(case, "offloaded_static")


def _quantised(case: Case, backend: str) -> Outcome:
    groups = {"q_group_size": 16} if backend == "quanto" else {}  # of what stands together; keys here are 16 wide
    settings = {"cache_implementation": "quantized", "cache_config": {"backend": backend, **groups}}
    try:
        plain = case.tried(backend, **settings)
    except Exception as error:
        return missing(error)
    if case.plain:
        same(case.run(**settings), plain)
        return equal("plain generate()")
    if case.strategy in TWINS:
        return case.refused(errors.UnsupportedMode, **settings)
    if case.strategy not in SINGLE:
        case.refused(errors.UnsupportedMode, **settings)
    branching = "rows" if case.strategy in SINGLE else "sequential"
    case = _soft(case)
    expected = case.run()
    found = case.run(branching=branching, after=[Forced(expected.tokens)], **settings)
    if case.strategy == "dagcd":
        _near_shares(expected, found)
        return equal(f"greedy's probabilities, within {SHARE}")
    _near(expected, found, FP8)
    apart = "" if case.strategy in SINGLE else "; branches one after the other"
    return equal(f"greedy's logits, within {FP8} of their spread{apart}")


def _soft(case: Case) -> Case:
    """The case with parameters under which small differences of logits stay small.

    No rank, no threshold, few words, and no contrast stronger than 1, which adds the differences of base and branch up.
    """
    changes: dict[str, Any] = {
        "dagcd": {"gating": "soft", "top_rank": case.model.config.get_text_config(decoder=True).vocab_size},
        "code": {"desc_max_new_tokens": 1},
    } | {name: {"alpha": 1.0} for name in ("avc", "iava", "hicd", "cad", "decore", "random_heads")}
    if case.strategy != "avc+decore":
        return replace(case, decoder=replace(case.decoder, **changes.get(case.strategy, {})))
    together: Any = case.decoder
    avc, decore = together.parts
    return replace(case, decoder=replace(together, parts=(replace(avc, gamma=1.0, lamb=9.0), decore)))


def _near_shares(expected: Run, found: Run) -> None:
    """Assert that probabilities on the tokens of a run are those of that run."""
    compared = 0
    for row, tokens in enumerate(expected.tokens):
        for step in range(len(tokens)):
            compared += 1
            one, two = (each.logits[step][row].double().softmax(-1) for each in (found, expected))
            far = float((one - two).abs().max())
            assert far <= SHARE, f"row {row}, step {step}: {far:.3f} of probability"
    assert compared, "there is no step to compare"


def _near(expected: Run, found: Run, share: float, rows: Sequence[int] = range(len(ROWS))) -> None:
    """Assert that logits on the tokens of a run are those of that run, within a share of their spread.

    A row is followed until a gate is open in one run and shut in the other: from there on they read other logits.
    """
    compared = 0
    for row in rows:
        tokens, gates = expected.tokens[row], zip(expected.attached.gates, found.attached.gates, strict=False)
        agreed = [bool(one[row] == other[row]) for one, other in gates]
        for step in range(min([len(tokens), *([agreed.index(False)] if False in agreed else [])])):
            compared += 1
            one, two = found.logits[step][row].double(), expected.logits[step][row].double()
            both = one.isfinite() & two.isfinite()
            spread = two[two.isfinite()].std() if int(two.isfinite().sum()) > 2 else two[two.isfinite()].abs().mean()
            far = float((one - two)[both].abs().max() / spread)
            assert far <= share, f"row {row}, step {step}: {far:.3f} of the spread"
    assert compared, "there is no step that both runs share"


@mode("quantised cache (fp8)", "greedy's logits within a tolerance, the same tokens forced")
def fp8_cache(case: Case) -> Outcome:
    return _quantised(case, "fp8")


@mode("quantised cache (quanto)", "greedy's logits within a tolerance, the same tokens forced")
def quanto_cache(case: Case) -> Outcome:
    python_unpack()
    return _quantised(case, "quanto")


@mode("no cache", "greedy")
def no_cache(case: Case) -> Outcome:
    if case.name == "instructblip":  # generate() keeps a cache for embeddings whatever it is told
        same(case.both(use_cache=False), case.default)
        return equal("greedy; transformers keeps a cache all the same")
    if case.strategy in TWINS:
        return case.refused(errors.UnsupportedMode, use_cache=False)
    if forgets_types(adapter_for(case.model)):
        if case.default.attached.plan.is_neutral:
            return Outcome("n/a", "plain generate() itself gives other tokens without a cache")
        return case.refused(errors.UnsupportedMode, use_cache=False)
    same(case.both(use_cache=False), case.default)
    return equal("greedy")


def _longer(inputs: dict[str, torch.Tensor], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Prompts with one token more, `ids` `[batch]`."""
    ones = {"input_ids": ids[:, None], "attention_mask": torch.ones_like(ids)[:, None]}
    ones |= {name: torch.zeros_like(ids)[:, None] for name in ("token_type_ids", "mm_token_type_ids")}
    return {name: torch.cat([value, ones[name]], 1) if name in ones else value for name, value in inputs.items()}


@mode("given past_key_values", "the whole prompt without one, where branches share it or there are none; else refused")
def filled_cache(case: Case) -> Outcome:
    longer = whole = _longer(case.inputs(), case.bare(max_new_tokens=1).output.sequences[:, -1])

    def cache() -> DynamicCache:
        return case.bare(max_new_tokens=1).output[CACHE]

    shares = case.strategy in FORKS - REFINED - ASIDE and not (case.family.window or case.family.prefix)
    if case.strategy not in SINGLE and not shares:
        return case.refused(errors.UnsupportedMode, longer, **{CACHE: cache()})
    if case.name != "instructblip":  # the cache holds the images
        kept = ("input_ids", "attention_mask", *(["token_type_ids"] if case.family.prefix else []))
        longer = {name: longer[name] for name in kept}
    try:
        plain = case.bare(longer, **{CACHE: cache()})
    except Exception as error:
        return missing(error)
    found = case.run(longer, **{CACHE: cache()})
    same(case.run(longer, "sequential", **{CACHE: cache()}), found)
    if case.plain:
        same(found, plain)
        return equal("plain generate()")
    assert differs(found, plain), "this is plain decoding"
    if case.family.prefix:  # the new token belongs to a whole prompt's prefix, and not to that in the cache
        return equal("sequential branching")
    same(found, case.run(whole))
    return equal("the whole prompt without a cache")


@mode("inputs_embeds", "greedy, where no branch has to know the image in them; else refused")
def embeddings(case: Case) -> Outcome:
    inputs = case.inputs()
    with torch.no_grad():
        embeds = adapter_for(case.model).prompt_embeddings(inputs)[
            ..., : case.model.get_input_embeddings().embedding_dim
        ]
    other = {"attention_mask": inputs["attention_mask"], "inputs_embeds": embeds}
    if case.name == "instructblip":  # embeds words before its own loop, and puts the images in place itself
        same(case.both(inputs, given=inputs | other), case.default)
        return equal("greedy")
    try:
        plain = case.tried("embeddings", inputs=other)
    except Exception as error:
        return missing(error)
    if case.family.images and case.strategy not in SINGLE:
        return case.refused(errors.UnsupportedMode, inputs, given=other)
    found = case.both(inputs, given=other)
    if case.plain:
        same(found, plain)
        return equal("plain generate()")
    assert differs(found, plain), "this is plain decoding"
    if differs(plain, case.tried("greedy")):  # Qwen-VL places image tokens by their ids, which it is not given
        return equal("sequential branching")
    same(found, case.default)
    return equal("greedy")


@mode("chunked prefill", "greedy")
def chunks(case: Case) -> Outcome:
    try:
        plain = case.tried("chunks", prefill_chunk_size=5)
    except Exception as error:
        return missing(error)
    pieces = case.family.pieces and (PIECES or not case.family.images)
    if not pieces and case.plain:
        same(case.run(prefill_chunk_size=5), plain)
        return equal("plain generate(), which then says something else")
    if not pieces or case.strategy in FORKS | REFINED | ASIDE:
        return case.refused(errors.UnsupportedMode, prefill_chunk_size=5)
    same(case.both(prefill_chunk_size=5), case.default)
    return equal("greedy")


def _drafted(case: Case, mode: str, **settings: Any) -> Outcome:
    """Modes that verify several tokens at once; they take one prompt at a time."""
    settings["inputs"] = case.inputs(ROWS[:1])
    if case.plain:
        try:
            plain = case.tried(mode, **settings)
        except Exception as error:
            return missing(error)
        same(case.run(**settings), plain)
        return equal("plain generate()")
    neutral = still_is_plain(case, mode, **settings)
    refused = case.refused(errors.UnsupportedMode, **settings)
    return replace(refused, detail=refused.detail + neutral)


@mode("assisted decoding", "plain generate() where nothing is contrasted; else refused")
def assisted(case: Case) -> Outcome:
    return _drafted(case, "assisted", assistant_model=case.copied("assistant", lambda model: model).model)


@mode("prompt lookup", "plain generate() where nothing is contrasted; else refused")
def prompt_lookup(case: Case) -> Outcome:
    return _drafted(case, "prompt lookup", prompt_lookup_num_tokens=2)


@mode("guidance_scale", "plain generate() where nothing is contrasted; else refused")
def guidance(case: Case) -> Outcome:
    return _drafted(case, "guidance", guidance_scale=1.5)


@mode("continuous batching", "plain generate_batch() where nothing is contrasted; else refused")
def continuous_batching(case: Case) -> Outcome:
    inputs = case.inputs(ROWS[:1])
    prompts = [
        row[seen.bool()].tolist() for row, seen in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    small = ContinuousBatchingConfig(num_blocks=16, block_size=32, max_batch_tokens=128)

    def batches() -> list[list[int]]:
        run: Any = case.model.generate_batch
        found = run(prompts, max_new_tokens=3, continuous_batching_config=small, warmup=False).values()
        faults = [each.error for each in found if each.error]
        if faults or not found:
            raise RuntimeError((faults or ["no answer"])[0])
        return [each.generated_tokens for each in found]

    if not case.plain:
        return case.refuses(errors.UnsupportedMode, lambda: case.under(batches, inputs))
    try:
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
        plain = case.bench.once(("batches", case.name), batches)
    except Exception as error:
        return missing(error)
    assert case.under(batches, inputs) == plain
    return equal("plain generate_batch()")


@mode("bf16", "plain generate() with neutral parameters; greedy's logits in float64 within a tolerance, tokens forced")
def bf16(case: Case) -> Outcome:
    small = case.copied("bf16", lambda model: model.to(torch.bfloat16))
    large = case.copied("bf16 in float64", lambda model: model.to(torch.bfloat16).double())
    inputs, wide = ({name: _as(value, dtype) for name, value in case.inputs().items()} for dtype in _DTYPES)
    still = small.still()
    if still is not None:
        same(still.run(inputs), small.bare(inputs))
    if case.plain:
        return equal("plain generate()")
    large, small = _soft(large), _soft(small)
    expected, rows = large.run(wide), list(range(len(ROWS)))
    if case.strategy == "code":  # a choice of words: rows are compared that are described in the same ones
        texts = [_descriptions(each, given) for each, given in ((large, wide), (small, inputs))]
        rows = [row for row in rows if texts[0][row] == texts[1][row]]
    _near(expected, small.run(inputs, after=[Forced(expected.tokens)]), BF16, rows)
    return equal(f"float64's logits, within {BF16} of their spread" + ("; neutral = plain" if still else ""))


def _descriptions(case: Case, inputs: dict[str, torch.Tensor]) -> list[str]:
    decoder: Any = case.decoder
    asked = decoder.desc_prompt, decoder.desc_max_new_tokens
    return adapter_for(case.model).describe(inputs, case.processor, *asked)


_DTYPES = (torch.bfloat16, torch.float64)


def _as(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Numbers that bfloat16 holds, in a dtype; whole numbers as they are."""
    return value.to(torch.bfloat16).to(dtype) if value.is_floating_point() else value


@mode("PEFT-wrapped (LoRA)", "the model with the adapter merged into its weights")
def peft(case: Case) -> Outcome:
    wrapped = case.copied("LoRA", _adapted)
    merged = case.copied("merged", lambda model: _adapted(model).merge_and_unload())
    expected = merged.run()
    same(wrapped.both(), expected)
    assert differs(expected, case.default), "the adapter does nothing"
    return equal("the merged model")


def _adapted(model: Any) -> Any:
    """The model with a random adapter around query and value of its text decoder."""
    torch.manual_seed(1)
    inside = set(adapter_for(model).decoder.modules())
    names = [name for name, module in model.named_modules() if module in inside]
    targets = [name for name in names if name.rpartition(".")[2] in ("q_proj", "v_proj")]
    with warnings.catch_warnings():  # PEFT asks for a property that transformers has renamed
        warnings.simplefilter("ignore", FutureWarning)
        made = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    return made.double().eval()
