"""CausalMM written out: attention with full maps, one row at a time, forward after forward; only the draws are ours."""

import contextlib
import hashlib

import torch
from naive import whole
from sightline.models import adapter_for
from sightline.models.counterfactual import draw, permutation
from transformers.modeling_utils import AttentionInterface


@contextlib.contextmanager
def full_maps(target, edit, window=None):
    """Attention of `target` written out with full maps A; those of layer l are `edit(l, A)`."""
    modules = [module for module in target.modules() if hasattr(module, "q_proj") or hasattr(module, "qkv")]

    def forward(module, query, key, value, attention_mask, scaling=None, **kwargs):
        repeats = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
        scores = query @ key.mT * scaling
        if module.is_causal:
            length = torch.arange(scores.shape[-1])
            seen = length <= length[:, None]
            if window:
                seen &= length > length[:, None] - window
            scores = scores.masked_fill(~seen, -torch.inf)
        return (edit(modules.index(module), scores.softmax(-1)) @ value).transpose(1, 2), None

    AttentionInterface.register("written_out", forward)
    target.set_attn_implementation("written_out")
    try:
        yield
    finally:
        target.set_attn_implementation("sdpa")
        AttentionInterface._global_mapping.pop("written_out")


def digest(tensor, seed):
    """A seed from the bytes of a tensor and another seed."""
    content = tensor.float().contiguous().numpy().tobytes() + str(seed).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little") >> 1


def language_map(decoder, seed, layer, plain, prompt):
    """The edited map of a decoder layer from the plain one, `[1, heads, q, q]`, by its definition."""
    length = plain.shape[-1]
    places = torch.arange(length)[None]
    seen = (plain > 0).double()
    numbers = draw(torch.tensor([seed]), layer, plain.shape[1], places, places).double()
    made = {
        "uniform": seen,
        "random": numbers * seen,
        "reversed": (plain.amax(-1, keepdim=True) - plain) * seen,
    }[decoder.language_kind]  # fmt: skip
    if decoder.language_norm == "visible":
        mass = made.sum(-1, keepdim=True)
        made = torch.where(mass > 1e-12, made / mass, plain)
    elif decoder.language_kind != "reversed":  # the released code counts all keys of the call that ran the token
        for row in range(length):
            total = max(prompt, row + 1)
            over = total if decoder.language_kind == "uniform" else numbers[:, :, row, :total].sum(-1, keepdim=True)
            made[:, :, row] = made[:, :, row] / over
    if decoder.language_when == "prefill_only":
        made[:, :, prompt:] = plain[:, :, prompt:]
    return made


def vision_map(decoder, pixels, layer, plain):
    """The edited map of a layer of the tower from the plain one, `[images, heads, q, q]`, by its definition."""
    images, heads, length, _ = plain.shape
    drawn = torch.tensor([digest(image, decoder.seed) for image in pixels])
    places = torch.arange(length).expand(images, -1)
    order = permutation(drawn, layer, heads, length * length)
    made = {
        "uniform": plain.mean((-1, -2), keepdim=True).expand_as(plain),
        "random": 2 * draw(drawn, layer, heads, places, places).double(),
        "reversed": plain.amax((-1, -2), keepdim=True) - plain,
        "shuffle": plain.flatten(2).gather(-1, order).view(plain.shape),
    }[decoder.vision_kind]
    return made / made.sum(-1, keepdim=True) if decoder.vision_norm == "row" else made


def naive_vision(model, decoder, row, new, layers=(0,)):
    """Logits of the branch whose image is encoded under edited maps. `layers` are those edited."""
    maps, tower = {}, model.model.vision_tower
    pixels = row["pixel_values"] if row["pixel_values"].dim() == 4 else adapter_for(model).tower_pixels(row)

    def edit(layer, plain):
        if layer not in layers:
            return plain
        maps[layer] = vision_map(decoder, pixels, layer, plain)
        return plain if decoder.vision_mode == "gate" else maps[layer]

    def gate(_module, args):
        features = args[0]
        side = round(features.shape[1] ** 0.5)
        sized = torch.nn.functional.interpolate(maps[layers[-1]], size=(side, side), mode="bilinear").mean(1)
        return (features * sized.flatten(1)[..., None],)

    with contextlib.ExitStack() as stack:
        stack.enter_context(full_maps(tower, edit))
        if decoder.vision_mode == "gate":
            stack.callback(model.model.multi_modal_projector.register_forward_pre_hook(gate).remove)
        return whole(model, row, new)


def naive_language(model, decoder, row, new, layers=(1,), window=None):
    """Logits of the branch whose decoder attends by edited maps. `layers` are those edited."""
    prompt, seed = row["input_ids"].shape[1], decoder.seed
    if "pixel_values" in row:
        seed = digest(row["pixel_values"][0], seed)
    seed = digest(row["input_ids"][0], seed)

    def edit(layer, plain):
        return language_map(decoder, seed, layer, plain, prompt) if layer in layers else plain

    with full_maps(model.get_decoder(), edit, window):
        return whole(model, row, new)


def naive_scores(model, decoder, row, new, **layers):
    """The decoder's scores after the tokens `new`, uncut."""
    base = whole(model, row, new)
    branches = []
    if decoder.modality != "language":
        branches.append(naive_vision(model, decoder, row, new, layers.get("vision", (0,))))
    if decoder.modality != "vision":
        branches.append(naive_language(model, decoder, row, new, layers.get("language", (1,)), layers.get("window")))
    return base + decoder.gamma * sum(base - branch for branch in branches), base
