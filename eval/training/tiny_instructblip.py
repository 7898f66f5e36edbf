"""Trains tiny-instructblip from tiny-llava, or measures a trained one.

    python -m sightline.eval.training.tiny_instructblip --out models/tiny/tiny-instructblip
    python -m sightline.eval.training.tiny_instructblip --evaluate models/tiny/tiny-instructblip

The first makes a checkpoint that `InstructBlipForConditionalGeneration.from_pretrained` loads. It begins with the parts
of tiny-llava. The vision tower gets used to its new frame; a Q-Former learns to name the object of each cell; its
outputs are projected to what tiny-llava's language model knows; and, with the tower frozen, all else is trained on
captions and questions. It can be stopped and goes on where it was. The second asks the checkpoint through `generate()`
and writes `quality.json`.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    GenerationConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import PILImageResampling
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from ...models.auto import SHIPPED
from ..scenes import language, world
from .chat import BOS, EOS, IMAGE, MEAN, PAD, STD, VOCABULARY, build_tokenizer
from .instructed import TURN, InstructedPacker, instructed_hidden
from .language_model import Recipe, train_language_model
from .loop import TrainLog
from .quality import write_quality
from .queries import fit_projection, train_queries
from .tiny_llava import LOG, PATCH
from .vision import train_tower

logger = logging.getLogger(__name__)

QUERIES = 32
WORDS = 256
"""The longest instruction that the Q-Former reads, in its tokens."""
READ = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %} ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{% if message['role'] != 'user' %}{{ '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
"""Vicuna's turns, without the image, which the processor puts before the text. It is the tokenizer's: the processor's
class keeps none."""


def _recipe() -> Recipe:
    return Recipe(steps=300, images=12, rate=5e-4, warmup=30, attributes_from=300, measure_every=50, save_every=50)


@dataclass(frozen=True)
class Plan:
    """All that decides what is trained, apart from the world and tiny-llava: the same plan gives the same model."""

    seed: int = 0
    vision_steps: int = 500
    vision_images: int = 48
    vision_rate: float = 1e-3
    query_steps: int = 200
    query_images: int = 32
    query_rate: float = 1.5e-3
    language: Recipe = field(default_factory=_recipe)


def build_reader() -> BertTokenizer:
    """The Q-Former's tokenizer: BERT's word pieces, with every word of the world's questions whole, others in letters.

    The vocabulary is written out and not learned: a learned one orders its pieces anew in each process.
    """
    letters = [chr(code) for code in range(33, 127)]
    words = {word for text in _questions() for word in re.findall(r"\w+", text.lower())}
    pieces = [*READ, *letters, *(f"##{letter}" for letter in letters), *sorted(words - set(letters))]
    return BertTokenizer(vocab={piece: place for place, piece in enumerate(pieces)}, model_max_length=WORDS)


def _questions() -> list[str]:
    kinds, plurals = list(world.KINDS), list(world.PLURAL.values())
    asked = [f"Is there {language.article(kind)} {kind} in the image?" for kind in kinds]
    asked += [f"Is there only one {kind} in the image? What colour is the {kind}?" for kind in kinds]
    asked += [f"Is the {kind} in the top half of the image? Where is the {kind} in the image?" for kind in kinds]
    asked += [f"Is the {kind} in the bottom half, on the left or right side of the image?" for kind in kinds]
    counted = "How many {0} are there in the image? Are there two or three {0} in the image?"
    asked += [counted.format(kind) for kind in plurals]
    asked += [f"Is there a {colour} {kind} in the image?" for colour in world.COLOURS for kind in kinds]
    return [TURN.format(text) for text in (*asked, *language.CAPTION_PROMPTS, *language.YES_NO_SUFFIXES)]


def build_processor() -> Any:
    """InstructBLIP's own processor for scenes of 64 x 64 pixels, with tiny-llava's words.

    Neither tokenizer says on which side it pads: the processor hands what the first one says to the other, too, and
    the Q-Former counts positions from the left, padding included.
    """
    words = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer().backend_tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    images = BlipImageProcessorPil(
        size={"height": world.SIZE, "width": world.SIZE},
        resample=PILImageResampling.BICUBIC,
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    return InstructBlipProcessor(images, words, build_reader(), num_query_tokens=QUERIES)


def build_model(processor: Any, *, seed: int = 0) -> InstructBlipForConditionalGeneration:
    """An untrained tiny-instructblip: tower of 3 layers, Q-Former of 2, Llama of 4, all 128 wide."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vision = InstructBlipVisionConfig(
        image_size=world.SIZE,
        patch_size=PATCH,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        initializer_range=0.02,
    )
    former = InstructBlipQFormerConfig(
        vocab_size=len(processor.qformer_tokenizer),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        cross_attention_frequency=1,
        max_position_embeddings=WORDS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        **tokens,
    )
    config = InstructBlipConfig(
        vision_config=vision,
        qformer_config=former,
        text_config=text,
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    model = InstructBlipForConditionalGeneration(config)
    nn.init.normal_(model.query_tokens, std=0.5)  # zeros, as transformers has them, would stay alike for long
    model.language_model.generation_config = GenerationConfig(**tokens)
    model.generation_config = GenerationConfig(**tokens)
    return model.eval()


@torch.no_grad()
def borrow(model: InstructBlipForConditionalGeneration, llava: LlavaForConditionalGeneration) -> None:
    """Copies LLaVA's language model, and of its CLIP tower all that InstructBLIP's has too, query and key and value
    in one matrix. What is left as it was: the bias of the patches, and of CLIP the norm before the first layer."""
    model.language_model.load_state_dict(
        {f"model.{name}": value for name, value in llava.model.language_model.state_dict().items()}
        | {f"lm_head.{name}": value for name, value in llava.lm_head.state_dict().items()}
    )
    ours: Any = model.vision_model
    theirs: Any = llava.model.vision_tower
    ours.embeddings.class_embedding.copy_(theirs.embeddings.class_embedding.view(1, 1, -1))
    ours.embeddings.patch_embedding.weight.copy_(theirs.embeddings.patch_embedding.weight)
    ours.embeddings.patch_embedding.bias.zero_()
    ours.embeddings.position_embedding.copy_(theirs.embeddings.position_embedding.weight[None])
    for mine, other in zip(ours.encoder.layers, theirs.encoder.layers, strict=True):
        attention = other.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        mine.self_attn.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
        mine.self_attn.qkv.bias.copy_(torch.cat([part.bias for part in parts]))
        mine.self_attn.projection.load_state_dict(attention.out_proj.state_dict())
        for name in ("layer_norm1", "layer_norm2", "mlp"):
            getattr(mine, name).load_state_dict(getattr(other, name).state_dict())


def save(model: InstructBlipForConditionalGeneration, processor: Any, folder: Path) -> None:
    """Writes a checkpoint in the hub's layout."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _staged(file: Path, part: dict[str, nn.Module], make: Callable[[], None]) -> None:
    """Makes the weights of some modules, or reads what an earlier training made of them."""
    if not file.exists():
        make()
        save_file({f"{name}.{k}": v for name, module in part.items() for k, v in module.state_dict().items()}, file)
    stored = load_file(file)
    for name, module in part.items():
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in stored.items() if k.startswith(f"{name}.")})


def train(out: Path, work: Path, plan: Plan, llava: Path = SHIPPED / "tiny-llava") -> None:
    """Trains and writes the checkpoint and its log.

    Args:
        out: the folder of the checkpoint.
        work: the folder for what a stopped training goes on from.
        plan: what to train.
        llava: the checkpoint to begin with.
    """
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    tower_file, former_file = work / "tower.safetensors", work / "former.safetensors"
    state = work / "language.pt"
    if not tower_file.exists():
        (work / LOG).unlink(missing_ok=True)
    log = TrainLog(work / LOG)
    processor = build_processor()
    model = build_model(processor, seed=plan.seed)
    source = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    if AutoTokenizer.from_pretrained(llava).get_vocab() != processor.tokenizer.get_vocab():
        raise ValueError(f"{llava} has other words than this version of the package: train tiny-llava first.")
    borrow(model, source)
    tower, former = model.vision_model, Former(model)
    packer = InstructedPacker(processor.tokenizer, QUERIES, reader=processor.qformer_tokenizer)

    def see(pixels: Tensor) -> Tensor:
        return tower(pixels).last_hidden_state[:, 1:]

    shared = {"seed": plan.seed, "log": log}
    first = {"steps": plan.vision_steps, "size": plan.vision_images, "rate": plan.vision_rate}
    _staged(tower_file, {"tower": tower}, lambda: train_tower(tower, see, **first, **shared))
    tower.requires_grad_(False)
    second = {"steps": plan.query_steps, "size": plan.query_images, "rate": plan.query_rate}
    _staged(former_file, {"former": former}, lambda: train_queries(model, packer, **second, **shared))
    if not state.exists():
        left = fit_projection(model, source, packer, seed=plan.seed)
        log({"stage": "projection", "step": 0, "unexplained": left})

    def keep() -> None:
        save(model, processor, out)
        (out / LOG).write_bytes((work / LOG).read_bytes())

    train_language_model(model, packer, plan.language, state=state, log=log, keep=keep, hidden_of=instructed_hidden)
    keep()


class Former(nn.Module):
    """The Q-Former and its queries, which are a parameter of the whole model, as one module."""

    def __init__(self, model: InstructBlipForConditionalGeneration) -> None:
        super().__init__()
        self.query_tokens, self.qformer = model.query_tokens, model.qformer


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m sightline.eval.training.tiny_instructblip", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="train, and write the checkpoint to this folder")
    what.add_argument("--evaluate", type=Path, metavar="FOLDER", help="measure this checkpoint: FOLDER/quality.json")
    parser.add_argument("--work", type=Path, help="folder for the state of the training (default: OUT.training)")
    parser.add_argument("--seed", type=int, default=0, help="seeds weights and scenes (%(default)s)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="threads (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Trains or measures, as the arguments say."""
    given = arguments(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    if given.evaluate is not None:
        write_quality(given.evaluate)
        return
    train(given.out, given.work or given.out.with_name(given.out.name + ".training"), Plan(given.seed))
    write_quality(given.out)


if __name__ == "__main__":
    main()
