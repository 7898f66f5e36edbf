"""Every strategy with parameters that act, and with neutral ones: a line in `ACTIVE` and in `NEUTRAL` each.

Families are promised the same; what is measured of them is here, too.
"""

import sightline
import torch
from sightline.decoders.calibration import HeadRanking
from sightline.decoders.calibration.detector import Detector

STEPS = 5
RANKED = ((1, 0, 0.9), (2, 1, 0.5), (1, 3, 0.2))
DETECTOR = Detector("random", 3, 4, ((1, 0, 3.0), (2, 3, 2.0)), -0.5, 1.0, 0.9, 9, 9)
ACTIVE = {
    "vcd": lambda heads: sightline.VCD(alpha=1.0, noise_step=700),
    "decore": lambda heads: sightline.DeCoRe(num_heads=3, heads=heads, alpha_mode="static", alpha=4.0),
    "random_heads": lambda heads: sightline.RandomHeads(num_heads=3, heads=heads, alpha_mode="static", alpha=4.0),
    "avc": lambda heads: sightline.AVC(lamb=0.3),
    "iava": lambda heads: sightline.IAVA(lamb=-0.2, alpha=2.0, instruction="Tell."),
    "code": lambda heads: sightline.CODE(desc_prompt="Tell.", desc_max_new_tokens=6),
    "causalmm": lambda heads: sightline.CausalMM(modality="multimodal", language_layers="all"),
    "hicd": lambda heads: sightline.HICD(alpha=3.0, heads=heads.replace("heads.json", "inducing.json")),
    "cgvlm": lambda heads: sightline.CGVLM(alpha=6.0, k=0.025, layers=(0, 1, 2)),
    "dola": lambda heads: sightline.DoLa(layers="0,1,2"),
    "cad": lambda heads: sightline.CAD(alpha=2.0),
    "dagcd": lambda heads: sightline.DAGCD(alpha=8.0, top_rank=60, detector=heads.replace("heads.json", "own.json")),
    "cgvlm+vcd": lambda heads: sightline.Together(
        (sightline.CGVLM(alpha=6.0, k=0.025, layers=(0, 1, 2)), sightline.VCD(alpha=0.5, noise_step=700))
    ),
    "avc+decore": lambda heads: sightline.Together(
        (sightline.AVC(lamb=0.3, beta=0.0), sightline.DeCoRe(num_heads=2, heads=heads, alpha_mode="static", alpha=2.0))
    ),
}
NEUTRAL = {
    "vcd": lambda heads: sightline.VCD(alpha=0.0, beta=0.0),
    "decore": lambda heads: sightline.DeCoRe(num_heads=0, heads=heads),
    "random_heads": lambda heads: sightline.RandomHeads(num_heads=0, heads=heads),
    "avc": lambda heads: sightline.AVC(alpha=0.0, beta=0.0),
    "iava": lambda heads: sightline.IAVA(alpha=0.0, beta=0.0),
    "code": lambda heads: sightline.CODE(alpha_mode="fixed", alpha=0.0, beta_mode="fixed", beta=0.0),
    "causalmm": lambda heads: sightline.CausalMM(gamma=0.0, epsilon=0.0),
    "hicd": lambda heads: sightline.HICD(alpha=0.0, beta=0.0),
    "cgvlm": lambda heads: sightline.CGVLM(alpha=0.0),
    "cad": lambda heads: sightline.CAD(alpha=0.0),
    "dagcd": lambda heads: sightline.DAGCD(alpha=0.0, detector=heads.replace("heads.json", "own.json")),
    "masked_only": lambda heads: sightline.decoders.build("masked_only", {"num_heads": 0, "heads": heads}),
    "cut_only": lambda heads: sightline.decoders.build("cut_only", {"beta": 0.0}),
    "shift": lambda heads: sightline.decoders.build("shift", {"delta": 0.0}),
    "vcd+avc": lambda heads: sightline.Together((sightline.VCD(alpha=0, beta=0), sightline.AVC(alpha=0, beta=0))),
}
MODES = {
    "greedy": {},
    "sample": {"do_sample": True, "top_k": 20, "temperature": 1.3},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}
TEXTS = ("Is it red?", "What do you see in the picture?", "Why?", "Name all of it.")
CONTEXT = ("it red", "do you see in the", "Wh", "all of")
"""What of each text is marked as context, for the strategies that ask for it."""


def lists(folder):
    """Writes what calibrations would into a folder; the path of the ranked heads."""
    (folder / "inducing.json").write_text('{"1": [0, 3], "2": [1]}')
    DETECTOR.save(folder / "own.json")
    return str(HeadRanking("image", "random", 3, 4, RANKED).save(folder / "heads.json"))


def spans(processor, inputs):
    """What is marked as context in each prompt."""
    texts = processor.batch_decode(inputs["input_ids"])
    return [next(part for part in CONTEXT if part in text) for text in texts]


def answers(model, decoder, inputs, processor, seed=3, **kwargs):
    """New tokens of each sequence up to its end token."""
    settings = {"max_new_tokens": STEPS, "do_sample": False} | kwargs
    torch.manual_seed(seed)
    if decoder is None:
        ids = model.generate(**inputs, **settings)
    else:
        marked = {"processor": processor, "spans": spans(processor, inputs)}
        ids = sightline.generate(model, decoder, inputs, **marked, **settings)
    rows = ids[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(2) + 1] if 2 in row else row for row in rows]


def hooks(model):
    return [(*module._forward_hooks, *module._forward_pre_hooks) for module in model.modules()]
