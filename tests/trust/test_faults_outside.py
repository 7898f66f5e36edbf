"""Faults from outside: models changed while attached, threads, forked processes; and what 200 generations keep."""

import contextlib
import copy
import gc
import os
import threading
import tracemalloc
import warnings

import pytest
import sightline
import torch
from sightline.decoders.guard import _ATTACHED
from sightline.models import errors
from sightline.models.attention import _STATES
from test_faults import CAUSALMM, DECODERS, SETTINGS, VCD, state_of, untouched

__all__ = ["untouched"]
CAD = sightline.CAD(alpha=2.0)
RUNS = 200
MIB = 2**20
"""Bytes that `RUNS` generations may keep at most."""


def words(inputs, lengths=(7, 5)):
    return {name: value for name, value in inputs(lengths).items() if name != "pixel_values"}


def marked(batch):
    """The last word but one of each prompt is its context."""
    context = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    context[:, -2] = True
    return context


def to_float(model):
    model.float()


def to_half(model):
    model.to(torch.bfloat16)


def to_meta_and_back(model):
    """Moved off and on again, as offloading does: other tensors with the same numbers."""
    held = {name: value.clone() for name, value in model.state_dict().items()}
    model.to_empty(device="cpu").load_state_dict(held)


def quantised(model):
    quanto = pytest.importorskip("optimum.quanto")
    model.float()
    quanto.quantize(model, weights=quanto.qint8)
    quanto.freeze(model)


@pytest.mark.parametrize("decoder", [CAD, CAUSALMM], ids=lambda each: each.key)
@pytest.mark.parametrize("change", [to_float, to_half, to_meta_and_back, quantised])
@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_a_model_changed_while_attached_is_served_as_it_is_then(llama, inputs, change, decoder, branching):
    """Or refused; in any case nothing stays behind. Attached afterwards, the changed model says the same."""
    model, batch = copy.deepcopy(llama), words(inputs)
    before = state_of(model)
    asked = {"spans": marked(batch), "branching": branching}
    told = None
    with contextlib.suppress(errors.SightlineError), sightline.attach(model, decoder, batch, **asked) as processor:
        change(model)
        told = model.generate(**batch, logits_processor=[processor], **SETTINGS)
    assert state_of(model)[0] == before[0]
    assert state_of(model)[1:] == before[1:]
    after = sightline.generate(model, decoder, batch, **asked, **SETTINGS)
    assert told is None or told.equal(after)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("when", ["before", "between"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_changed_while_attached_is_right_or_refused(llava, inputs, untouched, name, when, implementation):
    """Edits and probes that no longer act are an error, before the first token and in the middle of the answer."""
    decoder, batch = DECODERS[name], inputs((7, 7))  # no padding, of which eager attention makes NaN by itself
    expected = sightline.generate(llava, decoder, batch, **SETTINGS)
    before = llava.get_decoder().config._attn_implementation
    calls = []

    def change(ids, scores):
        calls.append(ids)
        if len(calls) == 2:
            llava.get_decoder().set_attn_implementation(implementation)
        return scores

    told = None
    try:
        with contextlib.suppress(errors.NotContrasted), sightline.attach(llava, decoder, batch) as processor:
            if when == "before":
                llava.get_decoder().set_attn_implementation(implementation)
            own = [processor, change] if when == "between" else [processor]
            told = llava.generate(**batch, logits_processor=own, **SETTINGS)
    finally:
        llava.get_decoder().set_attn_implementation(before)
    assert told is None or told.equal(expected)
    if name == "causalmm":
        assert told is None


def test_two_threads_that_attach_at_once_are_told_apart(llava, inputs, untouched, monkeypatch):
    """One is still at its plan, for which models are run, when the other comes: that is refused, the first is right."""
    batch, told = inputs((7,)), []
    expected = sightline.generate(llava, VCD, batch, **SETTINGS)
    plan = sightline.VCD.plan
    turned_away = threading.Event()

    def slowly(self, request):
        assert turned_away.wait(timeout=60), "two threads plan at a time"
        return plan(self, request)

    def run():
        try:
            with sightline.attach(llava, VCD, batch) as processor:
                told.append(llava.generate(**batch, logits_processor=[processor], **SETTINGS))
        except errors.AttachmentError as error:
            told.append(error)
            turned_away.set()

    with monkeypatch.context() as patch:
        patch.setattr(sightline.VCD, "plan", slowly)
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    refused = [each for each in told if isinstance(each, Exception)]
    answers = [each for each in told if not isinstance(each, Exception)]
    assert (len(refused), len(answers)) == (1, 1)
    assert answers[0].equal(expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no process")
@pytest.mark.parametrize("name", DECODERS)
def test_a_forked_process_goes_on_with_its_own_copy(llava, inputs, untouched, name):
    """An attachment that was open at the fork serves the child and the parent, each once."""
    expected = sightline.generate(llava, DECODERS[name], untouched, **SETTINGS)
    with sightline.attach(llava, DECODERS[name], untouched) as processor:
        with warnings.catch_warnings():  # Python warns of threads, and the child uses none
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                told = llava.generate(**untouched, logits_processor=[processor], **SETTINGS)
                processor.close()
                clean = not len(_STATES) and not len(_ATTACHED)
                os._exit(0 if told.equal(expected) and clean else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert llava.generate(**untouched, logits_processor=[processor], **SETTINGS).equal(expected)


def test_an_attachment_is_for_one_answer(llava, untouched):
    for decoder in DECODERS.values():
        with pytest.raises(errors.AttachmentReused), sightline.attach(llava, decoder, untouched) as processor:
            for _ in range(2):
                llava.generate(**untouched, logits_processor=[processor], **SETTINGS)
        with pytest.raises(errors.AttachmentClosed):
            llava.generate(**untouched, logits_processor=[processor], **SETTINGS)


def test_two_hundred_generations_keep_less_than_a_mebibyte(llava, inputs):
    """By Python's own count of what is allocated, and of objects; a third of them break off in the middle.

    What the process holds is not asked: allocators keep pages that nothing uses.
    """
    batch, decoders = inputs((4,)), list(DECODERS.values())

    def breaks(ids, scores):
        raise InterruptedError

    def run(times):
        for number in range(times):
            own = [breaks] if number % 3 == 2 else None
            with contextlib.suppress(InterruptedError):
                decoder = decoders[number % 2 + (number % 7 == 0)]
                sightline.generate(llava, decoder, batch, logits_processor=own, max_new_tokens=1, do_sample=False)
        gc.collect()

    run(20)
    tracemalloc.start()
    try:
        run(6)
        before, objects = tracemalloc.get_traced_memory()[0], len(gc.get_objects())
        run(RUNS)
        kept, more = tracemalloc.get_traced_memory()[0] - before, len(gc.get_objects()) - objects
    finally:
        tracemalloc.stop()
    assert kept <= MIB
    assert more <= RUNS // 2  # far less than one for each
