"""A random InstructBLIP and its real processor, whose two tokenizers read letters; a checkpoint in the hub's layout."""

import torch
from letters import tokenizer
from transformers import (
    BertTokenizer,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

QUERIES, IMAGE = 4, 5
READ = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIGNS = [chr(code) for code in range(33, 127)]


def reader():
    """BERT's tokenizer for the Q-Former: a piece a letter, capitals made small."""
    pieces = [*READ, *SIGNS, *(f"##{sign}" for sign in SIGNS)]
    return BertTokenizer(vocab={piece: place for place, piece in enumerate(pieces)})


def instructed_processor():
    pixels = BlipImageProcessorPil(size={"height": 16, "width": 16})
    return InstructBlipProcessor(pixels, tokenizer(model_max_length=256), reader(), num_query_tokens=QUERIES)


def instructed_config(text=None, **changes):
    vision = InstructBlipVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=3, image_size=16, patch_size=8,
        initializer_range=0.02,
    )  # fmt: skip
    former = InstructBlipQFormerConfig(
        vocab_size=len(READ) + 2 * len(SIGNS), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    text = text or LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    given = {"num_query_tokens": QUERIES, "image_token_index": IMAGE}
    return InstructBlipConfig(vision_config=vision, qformer_config=former, text_config=text, **(given | changes))


def instructed_model(seed=0):
    """A vision tower of two layers, a Q-Former of two (one looks at the image), a Llama of three; weights so large
    that image and instruction matter."""
    torch.manual_seed(seed)
    model = InstructBlipForConditionalGeneration(instructed_config()).double().eval()
    with torch.no_grad():
        model.query_tokens.normal_()
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "query_tokens" not in name:
                parameter.mul_(6)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3)
    for settings in (model.generation_config, model.language_model.generation_config):
        settings.eos_token_id, settings.pad_token_id = 2, 0
    return model
