"""Random small models of many shapes, and what the engine's promises are tried with on each: made from one draw."""

from dataclasses import dataclass
from typing import Any

import sightline
import torch
import transformers
from hypothesis import strategies as st
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

VOCAB, IMAGE, PAD, END = 32, 5, 0, 2
PATCHES = 4
STEPS = 4
TEXTS = ("Llama", "Mistral", "Qwen2", "Qwen3")


@dataclass(frozen=True)
class Shape:
    """A model and a batch, by numbers alone, so that an example can be read and made again.

    Attributes:
        text: family of the decoder.
        sight: inside LLaVA, with an image in every prompt.
        layers, heads, groups: of the decoder; `heads` is a multiple of `groups`, the heads of keys.
        window: columns that a layer sees; None for all (Llama has no other).
        lengths: words of each prompt.
        images: of each prompt, in turn.
        seed: of weights and inputs.
    """

    text: str
    sight: bool
    layers: int
    heads: int
    groups: int
    window: int | None
    lengths: tuple[int, ...]
    images: tuple[int, ...]
    seed: int


@st.composite
def shapes(draw: Any, *, sight: bool | None = None) -> Shape:
    """Any shape; with `sight`, only those with images, or only those without."""
    groups = draw(st.integers(1, 2))
    text, sees = draw(st.sampled_from(TEXTS)), draw(st.booleans()) if sight is None else sight
    windows = st.sampled_from([None, 3, 6, 64]) if text != "Llama" else st.none()
    lengths = draw(st.lists(st.integers(2, 9), min_size=1, max_size=3))
    images = (
        draw(st.lists(st.integers(1, 2), min_size=len(lengths), max_size=len(lengths))) if sees else [0] * len(lengths)
    )
    return Shape(
        text, sees, draw(st.integers(1, 3)), groups * draw(st.integers(1, 2)), groups, draw(windows),
        tuple(lengths), tuple(images), draw(st.integers(0, 3)),
    )  # fmt: skip


def model_of(shape: Shape) -> Any:
    """A random model in float64, loud enough that every part of its prompt matters."""
    torch.manual_seed(shape.seed)
    settings: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": 8 * shape.heads, "intermediate_size": 16, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.groups, "head_dim": 8,
        "max_position_embeddings": 128, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": END,
    }  # fmt: skip
    if shape.text == "Mistral":
        settings["sliding_window"] = shape.window
    elif shape.window is not None:
        settings |= {"use_sliding_window": True, "sliding_window": shape.window, "max_window_layers": 1}
    config = getattr(transformers, f"{shape.text}Config")(**settings)
    if shape.sight:
        vision = CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
        )
        model = LlavaForConditionalGeneration(
            LlavaConfig(vision_config=vision, text_config=config, image_token_index=IMAGE, image_seq_length=PATCHES)
        )
    else:
        model = getattr(transformers, f"{shape.text}ForCausalLM")(config)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
        model.lm_head.weight[IMAGE] = 0  # never the best: LLaVA without a cache would look for its image
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = PAD, END
    return model


def batch_of(shape: Shape) -> dict[str, torch.Tensor]:
    """Prompts padded on the left, images row after row."""
    generator = torch.Generator().manual_seed(shape.seed + 1)
    rows = []
    for length, images in zip(shape.lengths, shape.images, strict=True):
        words = torch.randint(IMAGE + 1, VOCAB, (length,), generator=generator)
        image = torch.cat([words[:1], torch.full((PATCHES,), IMAGE)])  # a word between images tells them apart
        rows.append(torch.cat([image.repeat(images), words if not images else words[1:]]))
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width, dtype=torch.long)
    for row, prompt in enumerate(rows):
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if shape.sight:
        batch["pixel_values"] = torch.randn(sum(shape.images), 3, 8, 8, generator=generator, dtype=torch.float64)
    return batch


def alone(shape: Shape, batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """A row of a batch without its padding."""
    seen = batch["attention_mask"][row].bool()
    one = {name: batch[name][row : row + 1, seen] for name in ("input_ids", "attention_mask")}
    if shape.sight:
        start = sum(shape.images[:row])
        one["pixel_values"] = batch["pixel_values"][start : start + shape.images[row]]
    return one


def decoders_of(shape: Shape, folder: Any) -> dict[str, Any]:
    """Decoders that act on such a model: branches as rows, forks, refinements, biases, maps, exits."""
    from sightline.decoders.calibration import HeadRanking  # noqa: PLC0415 - torch first

    last = shape.layers - 1
    ranked = ((0, 0, 0.9), (last, shape.heads - 1, 0.5)) if (last, shape.heads - 1) != (0, 0) else ((0, 0, 0.9),)
    heads = str(HeadRanking("image", "random", shape.layers, shape.heads, ranked).save(folder / "heads.json"))
    inducing = folder / "inducing.json"
    inducing.write_text('{"0": [0]}')
    made: dict[str, Any] = {
        "decore": sightline.DeCoRe(num_heads=len(ranked), heads=heads, alpha_mode="static", alpha=4.0),
        "cad": sightline.CAD(alpha=2.0),
        "cut_only": sightline.CutOnly(beta=0.3),
        "language": sightline.CausalMM(modality="language", language_layers="all"),
        "dola": sightline.DoLa(layers=",".join(map(str, range(shape.layers)))),
        "hicd": sightline.HICD(alpha=3.0, heads=str(inducing), disperse_scope="all"),
    }
    if shape.sight:
        made |= {
            "vcd": sightline.VCD(alpha=1.0, noise_step=700),
            "avc": sightline.AVC(lamb=0.3),
            "causalmm": sightline.CausalMM(modality="multimodal", language_layers="all"),
        }
    return made


def neutral_of(shape: Shape) -> dict[str, Any]:
    """Decoders that must be plain decoding."""
    made: dict[str, Any] = {
        "cad": sightline.CAD(alpha=0, beta=0), "cut_only": sightline.CutOnly(beta=0),
        "hicd": sightline.HICD(alpha=0, beta=0),
    }  # fmt: skip
    if shape.sight:
        made |= {"vcd": sightline.VCD(alpha=0, beta=0), "avc": sightline.AVC(alpha=0, beta=0)}
    return made


def context(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What is marked as context: the last word but one of each prompt."""
    marked = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    marked[:, -2] = batch["input_ids"][:, -2] != IMAGE
    return marked


def tokens(model: Any, decoder: Any, batch: dict[str, torch.Tensor], **settings: Any) -> list[list[int]]:
    """New tokens of each sequence, up to its end token; plain `generate()` where the decoder is None."""
    settings = {"max_new_tokens": STEPS, "do_sample": False} | settings
    if decoder is None:
        settings.pop("branching", None)
        ids = model.generate(**batch, **settings)
    else:
        ids = sightline.generate(model, decoder, batch, spans=context(batch), **settings)
    rows = ids[:, batch["input_ids"].shape[1] :].tolist()
    return [row[: row.index(END) + 1] if END in row else row for row in rows]
