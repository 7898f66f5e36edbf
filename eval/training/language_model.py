"""The second half of the training: a language model that answers from the features of a frozen vision tower."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from ..scenes import language, world
from ..scenes.language import Question
from ..scenes.scene import Scene, draw_scene
from .chat import normalise
from .loop import Batches, Progress, learning_rate, stack
from .packing import IGNORED, Packed, Packer
from .turns import draw_turns, pick

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How the language model is trained: steps, images a step, highest learning rate, weight decay, seed.

    Existence is learned first. From step `attributes_from` on half of its questions make room for open ones on colour,
    number and place, which are slower to be learned. Training ends at step `stop`, before the end of the schedule of
    `steps`: what comes after it teaches the model to distrust the planted prior.
    """

    steps: int = 4000
    stop: int = 3000
    images: int = 16
    rate: float = 1.5e-3
    warmup: int = 200
    attributes_from: int = 1500
    decay: float = 0.05
    seed: int = 0
    measure_every: int = 250
    save_every: int = 250

    @property
    def last(self) -> int:
        """The number of steps that are made."""
        return min(self.steps, self.stop)


def language_batch(packer: Packer, recipe: Recipe, step: int) -> tuple[Tensor, Packed]:
    """The pixels `[images, 3, 64, 64]` and the packed turns of one step."""
    first = step * recipe.images
    scenes = [draw_scene("train", first + row, seed=recipe.seed) for row in range(recipe.images)]
    rng = world.generator("turns", recipe.seed, step)
    mix = {"existence": 1, "opened": 2} if step >= recipe.attributes_from else {}
    rows = [draw_turns(scene, rng, **mix) for scene in scenes]
    return torch.from_numpy(normalise(stack(scenes))), packer.pack(rows)


Hidden = Callable[[Any, Tensor, Packed], Tensor]
"""From a model, pixels `[batch, 3, 64, 64]` and packed sequences to last hidden states `[batch, length, hidden]`."""


def packed_hidden(model: LlavaForConditionalGeneration, pixels: Tensor, packed: Packed) -> Tensor:
    """The last hidden states of the packed sequences, `[batch, length, hidden]`: what the model's own forward computes
    for each turn alone.

    Args:
        model: the model; its vision tower gets no gradient.
        pixels: `[batch, 3, 64, 64]`.
        packed: sequences that hold as many image tokens as the tower gives features.
    """
    llava = model.model
    layer, ids = model.config.vision_feature_layer, packed.ids
    with torch.no_grad():
        states = llava.vision_tower(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]
    image = llava.multi_modal_projector(states)
    where = (ids == model.config.image_token_id)[..., None]
    embedded = llava.get_input_embeddings()(ids).masked_scatter(where, image)
    outputs = llava.language_model(
        inputs_embeds=embedded, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
    )
    return outputs.last_hidden_state


def answer_loss(model: PreTrainedModel, pixels: Tensor, packed: Packed, hidden_of: Hidden = packed_hidden) -> Tensor:
    """The weighted mean cross-entropy of the answers' tokens."""
    hidden = hidden_of(model, pixels, packed)
    answers = packed.targets != IGNORED
    head: Any = model.get_output_embeddings()
    scores = head(hidden[answers])
    losses = nn.functional.cross_entropy(scores, packed.targets[answers], reduction="none")
    weights = packed.weights[answers]
    return (losses * weights).sum() / weights.sum()


def _probe_turns(scene: Scene, index: int) -> list[Question]:
    """One question of each sort on a validation scene, and the two that tell the planted prior."""
    rng = world.generator("probe", index)
    turns = [turn for turn in draw_turns(scene, rng, existence=1) if turn.task != "caption"]
    if scene.missing_partners:
        unrelated = [kind for kind in scene.absent if kind not in scene.missing_partners]
        for name, kinds in (("partner", scene.missing_partners), ("unrelated", unrelated)):
            turn = language.existence(scene, pick(rng, kinds))
            turns.append(Question(f"absent {name}", turn.text, turn.answer, turn.kind))
    return turns


@torch.no_grad()
def probe(
    model: PreTrainedModel,
    packer: Packer,
    pairs: world.Pairs,
    scenes: int = 96,
    hidden_of: Hidden = packed_hidden,
) -> dict[str, float]:
    """The share of right first answer tokens for each sort of question, on validation scenes. Uses no `generate()`."""
    drawn = [draw_scene("validation", index, pairs=pairs, seed=1) for index in range(scenes)]
    rows = [_probe_turns(scene, index) for index, scene in enumerate(drawn)]
    packed = packer.pack(rows)
    hidden = hidden_of(model, torch.from_numpy(normalise(stack(drawn))), packed)
    head: Any = model.get_output_embeddings()
    best = head(hidden).argmax(-1)
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for row, (turns, starts) in enumerate(zip(rows, packed.starts, strict=True)):
        for turn, start in zip(turns, starts, strict=True):
            right[turn.task].append(bool(best[row, start] == packed.targets[row, start]))
    return {task: sum(marks) / len(marks) for task, marks in right.items()}


def _groups(model: PreTrainedModel, decay: float) -> list[dict[str, Any]]:
    """Parameters that are trained, in two groups: matrices decay, norms and biases do not."""
    trained = [value for value in model.parameters() if value.requires_grad]
    return [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": decay},
        {"params": [value for value in trained if value.ndim < 2], "weight_decay": 0.0},
    ]


def _save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def train_language_model(
    model: PreTrainedModel,
    packer: Packer,
    recipe: Recipe,
    *,
    state: Path,
    log: Callable[[dict], None],
    keep: Callable[[], None],
    hidden_of: Hidden = packed_hidden,
) -> None:
    """Trains in place all parameters that require a gradient; goes on from `state` where that file is.

    Args:
        model: the model, with a trained vision tower, which stays as it is.
        packer: packs turns with the model's tokenizer.
        recipe: how long and how fast.
        state: the file that training can go on from.
        log: is handed a record every `measure_every` steps.
        keep: is called whenever the model has been measured, to save it for use.
        hidden_of: the family's way through the model.
    """
    optimizer = torch.optim.AdamW(_groups(model, recipe.decay), lr=recipe.rate, betas=(0.9, 0.99))
    start = 0
    if state.exists():
        stored = torch.load(state, weights_only=True)
        model.load_state_dict(stored["model"])
        optimizer.load_state_dict(stored["optimizer"])
        start = stored["step"]
    progress = Progress("language model", recipe.last, start)
    for step, (pixels, packed) in Batches(lambda step: language_batch(packer, recipe, step), start, recipe.last):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe.steps, recipe.rate, warmup=recipe.warmup)
        loss = answer_loss(model, pixels, packed, hidden_of)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress.advance(loss=loss.item())
        done = step + 1
        if done % recipe.measure_every == 0 or done == recipe.last:
            figures = {pairs: probe(model, packer, pairs, hidden_of=hidden_of) for pairs in ("intact", "broken")}
            flat = {f"{pairs} {task}": value for pairs, by in figures.items() for task, value in by.items()}
            log({"stage": "language", "step": done, "loss": loss.item(), **flat})
        if done % recipe.save_every == 0 or done == recipe.last:
            _save_state(state, model, optimizer, done)
            keep()
    progress.close()
