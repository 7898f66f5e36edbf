"""The words of the small models: tokenizer, image processor and chat template."""

from __future__ import annotations

from collections.abc import Iterator

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


def corpus(scenes: int = 400) -> Iterator[str]:
    """Text of the world: the turns on some training scenes, as the models read them."""
    for index in range(scenes):
        scene = draw_scene("train", index)
        for turn in draw_turns(scene, world.generator("corpus", index)):
            yield f"{LEAD}{TURN.format(turn.text)} {turn.answer}"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text can be encoded, and the words of the world are single tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS, IMAGE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    start = bpe.token_to_id(BOS)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, start)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
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
