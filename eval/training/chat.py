"""The words of the small models: tokenizer, image processor and chat template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast
from transformers.image_utils import PILImageResampling

from ..scenes import world
from ..scenes.scene import draw_scene
from .turns import draw_turns

BOS, EOS, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"
VOCABULARY = 512
MEAN = STD = 0.5
"""The normalisation of pixels: from 0..1 to -1..1."""

LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}{{ ' ' }}{% else %}{{ '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""LLaVA-1.5's turns. The image stands before the text of its turn."""
TURN = "\n{} ASSISTANT:"
"""What follows the image in the prompt of one question."""
LEAD = "USER: "
"""What stands before the image."""


@dataclass(frozen=True)
class Chat:
    """How a family writes one question on one image, in pieces that are tokens apart from each other.

    Attributes:
        lead: what stands before the image, start token included.
        image: the token of the image.
        turn: what follows the image: the question in its frame.
        gap: what stands between the frame and the answer.
        start: the token that the tokenizer puts before every text; none if empty.
        end: the token that ends an answer.
        pad: the token that pads.
        others: further special tokens.
    """

    lead: str = BOS + LEAD
    image: str = IMAGE
    turn: str = TURN
    gap: str = " "
    start: str = BOS
    end: str = EOS
    pad: str = PAD
    others: tuple[str, ...] = ()

    @property
    def specials(self) -> list[str]:
        """All special tokens, in the order of their ids."""
        return [token for token in (self.pad, self.start, self.end, self.image, *self.others) if token]

    def text(self, question: str, answer: str) -> str:
        """Question and answer as the model reads them, without special tokens."""
        text = f"{self.lead}{self.turn.format(question)}{self.gap}{answer}"
        for special in self.specials:
            text = text.replace(special, "")
        return text


LLAVA = Chat()


def corpus(scenes: int = 400, chat: Chat = LLAVA) -> Iterator[str]:
    """Text of the world: the turns on some training scenes, as the models read them."""
    for index in range(scenes):
        scene = draw_scene("train", index)
        for turn in draw_turns(scene, world.generator("corpus", index)):
            yield chat.text(turn.text, turn.answer)


def build_tokenizer(chat: Chat = LLAVA) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text can be encoded, and the words of the world are single tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=chat.specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(chat=chat), trainer)
    if start := chat.start:
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{start} $A",
            pair=f"{start} $A {start} $B",
            special_tokens=[(start, bpe.token_to_id(start))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=chat.start or None,
        eos_token=chat.end,
        pad_token=chat.pad,
        extra_special_tokens={"image_token": chat.image},
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def build_llava_processor(patch: int) -> LlavaProcessor:
    """LLaVA's own processor for scenes: 64 x 64 pixels in patches of `patch` x `patch`."""
    side = {"height": world.SIZE, "width": world.SIZE}
    images = CLIPImageProcessorPil(
        size=side,
        crop_size=side,
        do_center_crop=False,
        resample=PILImageResampling.BICUBIC,
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )


def normalise(pixels: np.ndarray) -> np.ndarray:
    """Pixels as the image processor hands them to the model.

    Args:
        pixels: `uint8[..., 64, 64, 3]`.

    Returns:
        `float32[..., 3, 64, 64]` from -1 to 1.
    """
    scaled = (pixels.astype(np.float32) / 255.0 - MEAN) / STD
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3), dtype=np.float32)
