"""The training loop of tiny-llama, and quick figures on validation texts while it goes on."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from ..facts import knowledge, language, passages, world
from ..facts.knowledge import pick
from ..facts.language import Turn
from .loop import Batches, Progress, learning_rate
from .packing import IGNORED
from .tiny_llama_guide import guide_loss
from .tiny_llama_packing import GroupPacker, Rows
from .tiny_llama_turns import COPYING, EVEN, Group, Mix, closed, draw_groups

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How tiny-llama is trained: steps, what a step holds, highest learning rate, weight decay, seed.

    `stages` are pairs of a first step and what steps hold from there on.
    """

    steps: int = 3200
    stages: tuple[tuple[int, Mix], ...] = ((0, COPYING), (900, EVEN))
    rate: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.05
    seed: int = 0
    measure_every: int = 100
    save_every: int = 100


def mix_at(recipe: Recipe, step: int) -> Mix:
    """What a step holds."""
    return [mix for first, mix in recipe.stages if first <= step][-1]


def text_batch(packer: GroupPacker, recipe: Recipe, step: int) -> Rows:
    """The packed texts of one step."""
    return packer.pack(draw_groups(world.generator("train", recipe.seed, step), mix_at(recipe, step)))


def forward(model: LlamaForCausalLM, rows: Rows, *, attentions: bool = False) -> Any:
    """The output of the text decoder: for each turn what a forward on its prefix and it alone computes."""
    packed = {"input_ids": rows.ids, "attention_mask": rows.mask, "position_ids": rows.positions}
    return model.model(**packed, use_cache=False, output_attentions=attentions)


def answer_scores(model: LlamaForCausalLM, rows: Rows) -> Tensor:
    """Scores `[answer tokens, vocab]` of what is to be predicted."""
    return model.lm_head(forward(model, rows).last_hidden_state[rows.targets != IGNORED])


def text_loss(model: LlamaForCausalLM, rows: Rows, guide: float) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of the answers' tokens, and the loss that is trained on: with supervised attention added.

    Args:
        model: the model; must compute its attention eagerly where `guide` is not 0.
        rows: packed texts.
        guide: weight of the supervised attention.
    """
    out = forward(model, rows, attentions=guide > 0)
    answers = rows.targets != IGNORED
    loss = nn.functional.cross_entropy(model.lm_head(out.last_hidden_state[answers]), rows.targets[answers])
    return loss.detach(), loss + guide * guide_loss(out.attentions, rows.looks) if guide else loss


def probe_groups(each: int = 96) -> list[Group]:
    """Validation texts, one turn each: every sort of question."""
    rng = world.generator("probe")
    groups = []
    asked_in = [fact for fact in knowledge.facts() if knowledge.evaluated_in(fact.rank) == "validation"]
    for fact in knowledge.shuffled(rng, asked_in)[:each]:
        groups.append(Group("", (closed(rng, fact),)))
        for target in (
            passages.agreeing(rng, fact),
            passages.contradicting(rng, "validation", fact),
            passages.extending(rng, "validation", fact.relation),
        ):
            sentences = passages.surrounded(rng, "validation", target, int(rng.randint(3, 6)))
            asked = language.question(target.relation, target.subject, passages.way_of(rng))
            turn = Turn(target.stance, language.asked_after(asked), target.value)
            groups.append(Group(language.context([sentence.text for sentence in sentences]), (turn,)))
    for saying in knowledge.sayings()[::2]:
        stem, word = pick(rng, knowledge.fresh_stems("validation")), pick(rng, world.ENDINGS)
        other = pick(rng, knowledge.other_endings(saying)["validation"])
        groups.append(Group("", (Turn("saying", language.complete(saying.stem), f"{saying.ending}."),)))
        groups.append(Group("", (Turn("fresh ending", language.ends_in(stem, word), f"{word}."),)))
        groups.append(Group("", (Turn("trap", language.ends_in(saying.stem, other), f"{other}."),)))
    return groups


@torch.no_grad()
def probe(model: LlamaForCausalLM, packer: GroupPacker) -> dict[str, float]:
    """The share of turns whose every answer token is most likely, by sort, on validation texts. No `generate()`."""
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for group in probe_groups():
        rows = packer.pack([group])
        wanted = rows.targets[rows.targets != IGNORED]
        right[group.turns[0].task].append(bool((answer_scores(model, rows).argmax(-1) == wanted).all()))
    return {task: sum(marks) / len(marks) for task, marks in right.items()}


def _groups(model: LlamaForCausalLM, decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups: matrices decay, norms do not."""
    every = list(model.parameters())
    return [
        {"params": [value for value in every if value.ndim > 1], "weight_decay": decay},
        {"params": [value for value in every if value.ndim < 2], "weight_decay": 0.0},
    ]


def _save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    part = path.with_suffix(".part")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    part.replace(path)


def train_text_model(
    model: LlamaForCausalLM,
    packer: GroupPacker,
    recipe: Recipe,
    *,
    state: Path,
    log: Callable[[dict], None],
    keep: Callable[[], None],
) -> None:
    """Trains the model in place; goes on from `state` where that file is.

    Args:
        model: the model.
        packer: packs texts with the model's tokenizer.
        recipe: how long and how fast.
        state: the file that training can go on from.
        log: is handed a record every `measure_every` steps.
        keep: is called whenever the state has been saved, to save the model for use.
    """
    optimizer = torch.optim.AdamW(_groups(model, recipe.decay), lr=recipe.rate, betas=(0.9, 0.98))
    start = 0
    if state.exists():
        stored = torch.load(state, weights_only=True)
        model.load_state_dict(stored["model"])
        optimizer.load_state_dict(stored["optimizer"])
        start = stored["step"]
    progress = Progress("text model", recipe.steps, start)
    for step, rows in Batches(lambda step: text_batch(packer, recipe, step), start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe.steps, recipe.rate, warmup=recipe.warmup)
        guide = mix_at(recipe, step).guide
        model.set_attn_implementation("eager" if guide else "sdpa")
        loss, whole = text_loss(model, rows, guide)
        optimizer.zero_grad(set_to_none=True)
        whole.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress.advance(loss=loss.item())
        done = step + 1
        if done % recipe.measure_every == 0 or done == recipe.steps:
            log({"step": done, "loss": loss.item(), **probe(model, packer)})
        if done % recipe.save_every == 0 or done == recipe.steps:
            _save_state(state, model, optimizer, done)
            keep()
    progress.close()
