"""Several strategies at once: chained contrasts against a naive decoder, their order, edits beside them, refusals."""

import math

import pytest
import sightline
import torch
from anything import STEPS, Anything
from letters import asked, llava_processor, noise_image
from naive import single, weights_of, whole
from sightline.decoders import Branch, HeadEdit, Plan, Together, build
from sightline.decoders.plan import KeyBias
from sightline.decoders.vcd import noise_images
from sightline.models.errors import InvalidParameter, UnknownParameter

EDITS = (HeadEdit(1, (0, 3)),)


class EditedBase(Anything):
    """No contrast: two heads of the base attend uniformly."""

    def plan(self, request):
        return Plan(edits=EDITS)

    def combine(self, base, branches, step):
        return base


@torch.no_grad()
def naive_tokens(model, batch, scores_of, steps=STEPS):
    found = []
    for row in range(len(batch["input_ids"])):
        new = []
        while len(new) < steps and 2 not in new:
            new.append(int(scores_of(row, new).argmax()))
        found.append(new)
    return found


def decoded(model, decoder, batch, **kwargs):
    ids = sightline.generate(model, decoder, batch, max_new_tokens=STEPS, do_sample=False, **kwargs)
    rows = ids[:, batch["input_ids"].shape[1] :].tolist()
    return [row[: row.index(2) + 1] if 2 in row else row for row in rows]


def cut(scores, clean, beta):
    return scores.masked_fill(clean < clean.max() + math.log(beta), -torch.inf)


@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_two_contrasts_chain_in_their_order(llava, inputs, branching):
    batch = inputs((5, 8))
    edited = Anything((Branch("edited", edits=EDITS),), alpha=0.8)
    vcd = sightline.VCD(alpha=1.5, beta=0.2, noise_step=600)
    noised = batch | {"pixel_values": noise_images(batch["pixel_values"], 600, "sigmoid", 0)}

    def both(row, new):
        clean = whole(llava, single(batch, row), new)
        other = whole(llava, single(noised, row), new)
        masked = whole(llava, single(batch, row), new, lambda: weights_of(llava, EDITS))
        return clean, other, masked

    def first_vcd(row, new):
        clean, other, masked = both(row, new)
        return cut(1.8 * (2.5 * clean - 1.5 * other) - 0.8 * masked, clean, 0.2)

    def last_vcd(row, new):
        clean, other, masked = both(row, new)
        return cut(2.5 * (1.8 * clean - 0.8 * masked) - 1.5 * other, clean, 0.2)

    one = decoded(llava, Together((vcd, edited)), batch, branching=branching)
    two = decoded(llava, Together((edited, vcd)), batch, branching=branching)
    assert one == naive_tokens(llava, batch, first_vcd)
    assert two == naive_tokens(llava, batch, last_vcd)


@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_an_edited_base_beside_a_contrast(llava, inputs, branching):
    """The edit acts on the base's row alone; the noised branch is as it was."""
    batch = inputs((5, 8))
    vcd = sightline.VCD(alpha=1.0, beta=0.1, noise_step=600)
    noised = batch | {"pixel_values": noise_images(batch["pixel_values"], 600, "sigmoid", 0)}

    def scores_of(row, new):
        edited = whole(llava, single(batch, row), new, lambda: weights_of(llava, EDITS))
        return cut(2 * edited - whole(llava, single(noised, row), new), edited, 0.1)

    for order in ((EditedBase(), vcd), (vcd, EditedBase())):
        got = decoded(llava, Together(order), batch, branching=branching)
        assert got == naive_tokens(llava, batch, scores_of)
        assert got != decoded(llava, vcd, batch)


def test_cgvlm_boosts_the_base_that_vcd_contrasts(llava):
    """At the first token: the boosted row from CG-VLM alone, the noised row from the model itself, VCD's formula."""
    processor = llava_processor()
    batch = asked(processor, [[noise_image(1)], [noise_image(2)]], ["Is it red?", "What is at the left side?"])
    boost, vcd = sightline.CGVLM(alpha=1.5, gating="always", layers=(1, 2)), sightline.VCD(beta=0.0, noise_step=600)
    settings = {"processor": processor, "output_scores": True, "return_dict_in_generate": True, "do_sample": False}

    def first(decoder):
        return sightline.generate(llava, decoder, batch, max_new_tokens=1, **settings).scores[0].double()

    noised = noise_images(batch["pixel_values"], 600, "sigmoid", 0)
    with torch.no_grad():
        other = llava(**(batch | {"pixel_values": noised})).logits[:, -1]
    for order in ((boost, vcd), (vcd, boost)):
        torch.testing.assert_close(first(Together(order)), 2 * first(boost) - other, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(first(boost), first(sightline.CGVLM(alpha=0.0)), atol=1e-3)
    gated = sightline.CGVLM(alpha=1.5, k=-1.0, layers=(1, 2))
    torch.testing.assert_close(first(Together((gated, vcd))), first(Together((boost, vcd))))
    texts = {
        name: sightline.generate(llava, Together(parts), batch, processor=processor, max_new_tokens=STEPS)
        for name, parts in {"one": (gated, vcd), "two": (vcd, gated), "off": (sightline.CGVLM(alpha=0.0), vcd)}.items()
    }
    assert texts["one"].equal(texts["two"])
    assert texts["off"].equal(sightline.generate(llava, vcd, batch, max_new_tokens=STEPS))


def test_neutral_parts_leave_the_other_alone(llava, inputs):
    batch, vcd = inputs((5, 8)), sightline.VCD(noise_step=700)
    off = sightline.AVC(alpha=0.0, beta=0.0)
    expected = decoded(llava, vcd, batch)
    assert decoded(llava, Together((vcd, off)), batch) == decoded(llava, Together((off, vcd)), batch) == expected


def test_names_and_fields():
    built = build("vcd+avc", {"avc": {"lamb": 0.5}})
    assert built == Together((sightline.VCD(), sightline.AVC(lamb=0.5)))
    assert (built.key, built.title) == ("vcd+avc", "VCD + AVC")
    assert built.params() == {"0_vcd": sightline.VCD().params(), "1_avc": sightline.AVC(lamb=0.5).params()}
    with pytest.raises(UnknownParameter, match="no part 'alpha'"):
        build("vcd+avc", {"alpha": 1.0})


def test_what_cannot_go_together_is_refused(llava, inputs):
    for parts in ((sightline.VCD(),), (), ("vcd", "avc")):
        with pytest.raises(InvalidParameter, match="two strategies or more"):
            Together(parts)
    with pytest.raises(InvalidParameter, match="sample cannot be a part"):
        Together((sightline.VCD(), build("sample")))
    biased = Anything((), KeyBias((1,), lambda scores, image: scores * 0))
    with pytest.raises(InvalidParameter, match="both act on the base"):
        sightline.attach(llava, Together((biased, biased)), inputs())


@pytest.mark.parametrize("first", [True, False])
def test_early_exits_beside_another_strategy(llava, inputs, first):
    """DoLa alone chooses the exit, whatever stands beside it."""
    batch, dola, vcd = inputs((5, 8)), sightline.DoLa(layers="0,1,2", beta=0.0), sightline.VCD(alpha=0.0, beta=0.3)
    both = Together((dola, vcd) if first else (vcd, dola))
    alone = decoded(llava, dola, batch)
    assert decoded(llava, both, batch) != decoded(llava, vcd, batch)
    assert decoded(llava, Together((dola, sightline.VCD(alpha=0.0, beta=0.0))), batch) == alone


@pytest.mark.parametrize("name", ["shift", "masked_only", "decore", "hicd"])
def test_neutral_parts_are_left_out(llava, inputs, name, tmp_path):
    batch, vcd = inputs((5, 8)), sightline.VCD(alpha=1.5, beta=0.2, noise_step=600)
    neutral = build(name, {"shift": {}, "hicd": {"num_heads": 0}}.get(name, {"num_heads": 0}))
    assert decoded(llava, Together((neutral, vcd)), batch, processor=llava_processor()) == decoded(llava, vcd, batch)
    assert decoded(llava, Together((vcd, neutral)), batch, processor=llava_processor()) == decoded(llava, vcd, batch)
