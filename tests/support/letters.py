"""A processor whose tokens are letters, for the random models: what they say can be read back token for token."""

import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<sep>", "<image>"]
LETTERS = ["\n", *(chr(code) for code in range(32, 127) if chr(code) not in "~^`{}|")]
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def letters(text):
    """The ids of a text, one a letter, written out by hand."""
    return [len(SPECIAL) + LETTERS.index(letter) for letter in text]


def spoken(tokens):
    """The text of generated tokens as a tokenizer decodes them: of the special ones only `<sep>` is not declared so."""
    written = {4: "<sep>"} | {len(SPECIAL) + place: letter for place, letter in enumerate(LETTERS)}
    return "".join(written.get(token, "") for token in tokens).strip()


def tokenizer(**named):
    """96 tokens: 6 special ones, of which the last is the image's, and 90 letters; BOS before every text."""
    named = named or {"extra_special_tokens": {"image_token": "<image>"}, "padding_side": "left"}
    raw = Tokenizer(WordLevel({token: place for place, token in enumerate([*SPECIAL, *LETTERS])}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        clean_up_tokenization_spaces=False, **named,
    )  # fmt: skip


def llava_processor(template=TEMPLATE):
    """For 16 x 16 images in 8 x 8 patches."""
    pixels = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return LlavaProcessor(
        image_processor=pixels, tokenizer=tokenizer(), patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip


def noise_image(seed, width=16, height=16):
    shape = (height, width, 3)
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def asked(processor, images, texts):
    """Model inputs, float64, as a user makes them: the chat template, then the processor; images row by row."""
    turns = [
        [{"role": "user", "content": [*({"type": "image"} for _ in row), {"type": "text", "text": text}]}]
        for row, text in zip(images, texts, strict=True)
    ]
    prompts = [processor.apply_chat_template(turn, add_generation_prompt=True) for turn in turns]
    given = [image for row in images for image in row]
    made = dict(processor(images=given, text=prompts, padding=True, return_tensors="pt"))
    return made | {"pixel_values": made["pixel_values"].double()}
