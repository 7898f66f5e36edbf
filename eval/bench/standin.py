"""A stand-in for a model's processor and calibrations: letters for tokens, heads drawn at random.

A benchmark of speed needs prompts of a length, not of a meaning. The tokenizer is a real one of the `tokenizers`
library in which every id is one letter and special tokens have the ids that the model's configuration gives them. So
strategies that tokenise text of their own (CODE, IAVA, CG-VLM) run as they are, and whatever a model of random weights
has said can be read back, as many tokens as it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from ...decoders.calibration import HeadRanking
from ...decoders.calibration.detector import Detector
from ...decoders.calibration.inducing import SHARE
from ...models.adapter import Adapter

PAD, START, END, FIRST_LETTER = 0, 1, 2, 3
LETTERS = "\n" + "".join(map(chr, range(32, 127)))
OTHERS = 0x10000
"""The letter of an id behind `LETTERS` is that many code points on; none of them is white space."""
LISTED = 128
"""Heads that a drawn list holds at most."""
CHOSEN = 10
"""Heads of a drawn detector, as many as `sightline calibrate` takes."""
TEMPLATE = (
    "{% for message in messages %}USER: {% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


class StandIn:
    """A processor for a model without one; the names are those of transformers' processors."""

    def __init__(self, config: PretrainedConfig):
        image = getattr(config, "image_token_id", None)
        marks = {} if image is None else {"<image>": image}
        for name in ("vision_start", "vision_end"):
            token = getattr(config, f"{name}_token_id", None)
            marks |= {} if token is None else {f"<{name}>": token}
        placeholder = "".join(name for name in ("<vision_start>", "<image>", "<vision_end>") if name in marks)
        self.chat_template = TEMPLATE.replace("IMAGE", placeholder)
        if config.model_type == "instructblip":  # its processor puts the image before the start token by itself
            self.chat_template = TEMPLATE.replace("IMAGE\\n", "")
        size: int = config.get_text_config().vocab_size
        self.tokenizer = _tokenizer(marks, size, self.chat_template)
        self.qformer_tokenizer = self.tokenizer

    def apply_chat_template(self, turns: list[dict[str, Any]], **settings: Any) -> Any:
        """The prompt of a conversation, by the stand-in's template."""
        return self.tokenizer.apply_chat_template(turns, **settings)


def _tokenizer(marks: dict[str, int], size: int, template: str) -> PreTrainedTokenizerFast:
    vocabulary = {chr(OTHERS + id): id for id in range(size)}
    named = {"<pad>": PAD, "<s>": START, "</s>": END, **marks}
    named |= {letter: FIRST_LETTER + place for place, letter in enumerate(LETTERS)}
    taken = set(named.values())
    vocabulary = {letter: id for letter, id in vocabulary.items() if id not in taken} | named
    raw = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=list(marks),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=template,
    )


def drawn_calibrations(adapter: Adapter, folder: Path) -> dict[str, dict[str, str]]:
    """Lists of heads drawn at random, of the lengths that real ones have; which heads they are costs the same.

    Returns:
        For each kind of calibration (`Strategy.calibrates`) the field that takes the file, and the file.
    """
    layers, heads = adapter.layers, adapter.heads
    order = torch.randperm(layers * heads, generator=torch.Generator().manual_seed(0)).tolist()
    drawn = [(place // heads, place % heads) for place in order]
    ranked = tuple((layer, head, 1.0 / (1 + rank)) for rank, (layer, head) in enumerate(drawn[:LISTED]))
    lists = HeadRanking("retrieval", "drawn at random", layers, heads, ranked).save(folder / "heads.json")
    inducing = folder / "inducing.json"
    held: dict[str, list[int]] = {}
    for layer, head in drawn[: max(1, round(SHARE * len(drawn)))]:
        held.setdefault(str(layer), []).append(head)
    inducing.write_text(json.dumps(held))
    chosen = tuple((layer, head, 1.0) for layer, head in drawn[:CHOSEN])
    detector = Detector("drawn at random", layers, heads, chosen, -0.5, 1.0, 0.5, 1, 1).save(folder / "detector.json")
    return {
        "heads": {"heads": str(lists)},
        "inducing": {"heads": str(inducing)},
        "detector": {"detector": str(detector)},
    }
