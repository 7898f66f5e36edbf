"""Every strategy written out for any image-text family: one prompt, whole texts, full maps, no cache, no engine.

A family is known here by four things: how `processor` makes inputs, what the model's `get_image_features` gives, its
decoder, and its head. Everything else is arithmetic on attention maps and logits.
"""

import math
from typing import ClassVar

import torch
from boosted import pushed
from letters import SPECIAL, asked, letters, spoken
from naive import vcd_scores
from naive_code import naive_scores as code_scores
from naive_dagcd import scores as dagcd_scores
from naive_maps import digest, full_maps, language_map, vision_map
from naive_selection import hidden_columns, interaction, irrelevant
from sightline.decoders.seeds import seed_of
from sightline.decoders.vcd import noise_images

IMAGE = SPECIAL.index("<image>")
SEEN = ("pixel_values", "qformer_input_ids", "qformer_attention_mask")


def best(scores):
    return max(range(len(scores)), key=scores.__getitem__)


class Sight:
    """One image under one text, and naive passes over it.

    Args:
        model, processor: of any family whose decoder counts positions from 0; others override what differs.
        image, text: as a user has them.
        context: the part of the text that is marked.
    """

    own: ClassVar = {}
    """Strategies that are written out another way for this sight, beside `NAIVE`."""

    def __init__(self, model, processor, image, text, context=None):
        self.model, self.processor, self.image, self.text = model, processor, image, text
        self.context = context
        self.row = asked(processor, [[image]], [text])
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        self.ids = self.row["input_ids"][0].tolist()
        self.kept = {}

    @property
    def columns(self):
        return [column for column, token in enumerate(self.ids) if token == IMAGE]

    def reworded(self, text):
        """The same image under another text."""
        return type(self)(self.model, self.processor, self.image, text)

    @property
    def tower(self):
        return self.model.vision_model if hasattr(self.model, "vision_model") else self.model.model.vision_tower

    @property
    def pixels(self):
        """The pixels of the image alone."""
        return self.row["pixel_values"][0]

    def noised(self, strategy):
        """Pixels as VCD noises them."""
        return noise_images(self.row["pixel_values"], strategy.noise_step, strategy.noise_schedule, strategy.seed)

    def static(self, seed):
        """Pixels of uniform noise."""
        generator = torch.Generator().manual_seed(seed_of(self.pixels, seed))
        return torch.rand(self.pixels.shape, generator=generator)[None].double()

    def vision_edit(self, strategy):
        """What CausalMM puts in place of the maps of the tower."""
        return lambda layer, plain: vision_map(strategy, self.row["pixel_values"], layer, plain)

    def call(self, embeds):
        """How the decoder is called on what `embedded` gives."""
        return {"inputs_embeds": embeds, "use_cache": False}

    def features(self, **other):
        """What stands at the image tokens, `[tokens, hidden]`."""
        given = {name: value for name, value in (self.row | other).items() if name in SEEN}
        return self.model.get_image_features(**given).pooler_output[0]

    def embedded(self, new=(), ids=None, features=None):
        """Embeddings of the text so far, `[1, length, hidden]`."""
        prompt = list(self.ids if ids is None else ids)
        embeds = self.model.get_input_embeddings()(torch.tensor([*prompt, *new]))
        image = torch.tensor([token == IMAGE for token in prompt] + [False] * len(new))  # a new token is a word
        if image.any():
            embeds[image] = self.features() if features is None else features
        return embeds[None]

    def hidden(self, embeds, edit=None):
        """Hidden states between the layers of the decoder, those behind its last norm at the end."""
        with full_maps(self.decoder, edit or (lambda layer, plain: plain)):
            return self.decoder(**self.call(embeds), output_hidden_states=True).hidden_states

    def logits(self, embeds, edit=None):
        return self.head(self.hidden(embeds, edit)[-1])[0, -1]

    def maps(self, embeds, edit=None):
        """Full attention maps, layer by layer."""
        found = {}

        def keep(layer, plain):
            found[layer] = plain if edit is None else edit(layer, plain)
            return found[layer]

        self.hidden(embeds, keep)
        return [found[layer] for layer in sorted(found)]

    def base(self, new):
        return self.logits(self.embedded(new))


def altered(heads, first, mode="uniform"):
    """Heads, (layer, head), that look at everything alike, or give nothing, from the query row `first` on."""

    def edit(layer, plain):
        made = plain.clone()
        for where, head in heads:
            for row in range(first, plain.shape[-1]) if where == layer else ():
                made[0, head, row] = 0
                if mode == "uniform":
                    made[0, head, row, : row + 1] = 1 / (row + 1)
        return made

    return edit


def cut(scores, base, beta):
    """Scores of tokens that the base finds plausible."""
    return scores.masked_fill(base < base.max() + math.log(beta), -math.inf) if beta else scores


def masked_heads(sight, strategy, new, heads):
    edit = altered(heads, 0 if strategy.mask_prefill else len(sight.ids) - 1, strategy.head_mask_mode)
    return sight.logits(sight.embedded(new), edit)


def vcd(sight, strategy, new, _given):
    features = sight.features(pixel_values=sight.noised(strategy))
    other = sight.logits(sight.embedded(new, features=features))
    scores = vcd_scores(sight.base(new).tolist(), other.tolist(), strategy.alpha, strategy.beta)
    return torch.tensor(scores, dtype=torch.float64)


def decore(sight, strategy, new, given):
    base, other = sight.base(new), masked_heads(sight, strategy, new, given["heads"])
    scores = (1 + strategy.alpha) * base.log_softmax(-1) - strategy.alpha * other.log_softmax(-1)
    return cut(scores, base, strategy.beta)


def masked_only(sight, strategy, new, given):
    return masked_heads(sight, strategy, new, given["heads"])


def hicd(sight, strategy, new, given):
    base, other = sight.base(new), sight.logits(sight.embedded(new), altered(given["heads"], 0))
    scores = (1 + strategy.alpha) * base.log_softmax(-1) - strategy.alpha * other.log_softmax(-1)
    return cut(scores, base, strategy.beta)


def seen_alone(sight, strategy, new, kept):
    """Logits where only the `kept` image tokens, as places among them, have their embeddings."""
    features = sight.features()
    for place in range(len(features)):
        if place not in kept:
            features[place] = 0.0
    return sight.logits(sight.embedded(new, features=features))


def avc(sight, strategy, new, _given):
    if "hidden" not in sight.kept:
        maps = sight.maps(sight.embedded())
        sight.kept["hidden"] = hidden_columns(maps, sight.columns, strategy.gamma, strategy.lamb)
    kept = {place for place, column in enumerate(sight.columns) if column not in sight.kept["hidden"]}
    other = seen_alone(sight, strategy, new, kept)
    scores = vcd_scores(sight.base(new).tolist(), other.tolist(), strategy.alpha, strategy.beta)
    return torch.tensor(scores, dtype=torch.float64)


def iava(sight, strategy, new, _given):
    if "irrelevant" not in sight.kept:
        general = sight.reworded(strategy.instruction)
        if strategy.qformer_text == "query":
            general.row |= {name: sight.row[name] for name in SEEN if name in sight.row}
        lists = []
        for each in (general, sight):
            maps = each.maps(each.embedded())
            lists.append((sum(layer[0, :, -1, each.columns].mean(dim=0) for layer in maps) / len(maps)).tolist())
        sight.kept["irrelevant"] = irrelevant(*lists, strategy)
    base, kept = sight.base(new), sight.kept["irrelevant"]
    other = seen_alone(sight, strategy, new, kept) if kept else base
    scores = vcd_scores(base.tolist(), other.tolist(), strategy.alpha, strategy.beta)
    return torch.tensor(scores, dtype=torch.float64)


def code(sight, strategy, new, _given):
    if "other" not in sight.kept:
        asks, said = sight.reworded(strategy.desc_prompt), []
        while len(said) < strategy.desc_max_new_tokens and 2 not in said:
            said.append(best(asks.base(said).tolist()))
        text = spoken(said)
        start, end = sight.columns[0], sight.columns[-1] + 1
        sight.kept["other"] = [*sight.ids[:start], *([1, *letters(text)] if text else []), *sight.ids[end:]]
        sight.kept["described"] = bool(text)
    base = sight.base(new)
    if not sight.kept["described"]:
        return base
    other = sight.logits(sight.embedded(new, ids=sight.kept["other"]))
    params = {name: getattr(strategy, name) for name in ("k", "alpha_mode", "beta_mode", "alpha", "beta")}
    return torch.tensor(code_scores(base.tolist(), other.tolist(), params), dtype=torch.float64)


def causalmm(sight, strategy, new, _given):
    base, others = sight.base(new), []
    if strategy.modality != "language":
        with full_maps(sight.tower, sight.vision_edit(strategy)):
            features = sight.features()
        others.append(sight.logits(sight.embedded(new, features=features)))
    if strategy.modality != "vision":
        seed = digest(sight.row["input_ids"][0], digest(sight.pixels, strategy.seed))
        edit = lambda layer, plain: language_map(strategy, seed, layer, plain, len(sight.ids))  # noqa: E731
        others.append(sight.logits(sight.embedded(new), edit))
    return cut(base + strategy.gamma * sum(base - other for other in others), base, strategy.epsilon)


def cgvlm(sight, strategy, new, _given):
    noise, bare = sight.static(strategy.seed), sight.reworded("")
    coalitions = [
        each.logits(each.embedded(new, features=each.features(**other)))
        for each in (sight, bare)
        for other in ({}, {"pixel_values": noise})
    ]
    full, text, image, neither = coalitions
    opened = interaction(full, image, text, neither, strategy.top_k_tokens) > strategy.k
    rows = sight.kept.setdefault("opened", {})
    rows[len(sight.ids) - 1 + len(new)] = opened
    pushes = [row for row, is_open in rows.items() if is_open]
    embeds = sight.embedded(new)
    with pushed(sight.model, pushes, sight.columns, strategy.layers, strategy.alpha):
        return sight.head(sight.decoder(**sight.call(embeds)).last_hidden_state)[0, -1]


def dola(sight, strategy, new, _given):
    states = sight.hidden(sight.embedded(new))
    final = sight.head(states[-1])[0, -1].softmax(-1)
    distances = []
    for exit in (int(each) for each in strategy.layers.split(",")):
        early = sight.head(states[exit])[0, -1].softmax(-1)
        middle = (final + early) / 2
        distances.append((float((middle * (2 * middle.log() - final.log() - early.log())).sum()), early))
    early = max(distances, key=lambda pair: pair[0])[1]
    return cut(final.log() - early.log(), final.log(), strategy.beta)


def marked(sight):
    """Columns of the context."""
    inside = letters(sight.context)
    start = next(at for at in range(len(sight.ids)) if sight.ids[at : at + len(inside)] == inside)
    return start, start + len(inside)


def cad(sight, strategy, new, _given):
    start, end = marked(sight)
    base, other = sight.base(new), sight.logits(sight.embedded(new, ids=sight.ids[:start] + sight.ids[end:]))
    return cut((1 + strategy.alpha) * base - strategy.alpha * other, base, strategy.beta)


def dagcd(sight, strategy, new, given):
    maps = sight.maps(sight.embedded(new))
    rows = [maps[layer][0, head, -1].tolist() for layer, head, _ in given["detector"].chosen]
    ends = {2, *letters(" \n")}
    return dagcd_scores(
        strategy, given["detector"], sight.base(new).tolist(), rows, sight.ids + list(new), marked(sight), ends
    )[0]


def cut_only(sight, strategy, new, _given):
    return cut(sight.base(new), sight.base(new), strategy.beta)


NAIVE = {
    "vcd": vcd, "decore": decore, "random_heads": decore, "masked_only": masked_only, "hicd": hicd, "avc": avc,
    "iava": iava, "code": code, "causalmm": causalmm, "cgvlm": cgvlm, "dola": dola, "cad": cad, "dagcd": dagcd,
    "cut_only": cut_only, "greedy": lambda sight, strategy, new, given: sight.base(new),
}  # fmt: skip


def naive(sight, strategy):
    """What gives the scores of a strategy: `(sight, strategy, new, given)`."""
    return sight.own.get(strategy.key, NAIVE[strategy.key])


@torch.no_grad()
def naive_tokens(sight, strategy, given, steps, eos=2):
    """New tokens under a strategy, and the scores of each step."""
    new, trail = [], []
    while len(new) < steps and eos not in new:
        trail.append(naive(sight, strategy)(sight, strategy, new, given))
        new.append(best(trail[-1].tolist()))
    return new, trail
