"""Faults at every place that the engine hangs on: whatever breaks there, the model is afterwards as it was before.

As it was: outputs, hooks, attention of each config, registries, attributes. Each fault is let loose once in the prompt
and once in the middle of the answer.
"""

import contextlib
import threading

import pytest
import sightline
import torch
from promised import hooks
from sightline.decoders import attachment as engine
from sightline.decoders import guard, in_rows
from sightline.models import attention, errors
from transformers.generation.streamers import BaseStreamer
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

STEPS = 4
SETTINGS = {"max_new_tokens": STEPS, "do_sample": False}
VCD = sightline.VCD(alpha=1.0, noise_step=700)
CAUSALMM = sightline.CausalMM(modality="language", language_layers="all")
AVC = sightline.AVC(lamb=0.3)
DECODERS = {"vcd": VCD, "causalmm": CAUSALMM, "avc": AVC}


class Breaks(Exception):
    """What a fault raises."""


class After:
    """Something that breaks when it is called for the `at`-th time."""

    def __init__(self, run, at, error=Breaks):
        self.run, self.at, self.error, self.calls = run, at, error, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.at:
            raise self.error("on purpose")
        return self.run(*args, **kwargs)


def state_of(model):
    """All that an attachment could leave behind."""
    configs = [module.config._attn_implementation for module in model.modules() if hasattr(module, "config")]
    registries = set(AttentionInterface().valid_keys()), set(AttentionMaskInterface().valid_keys())
    return hooks(model), configs, registries, sorted(vars(model)), len(attention._STATES), len(guard._ATTACHED)


@pytest.fixture
def untouched(llava, inputs):
    """Holds the model against itself: what plain decoding and each decoder say, and all state, before and after."""
    batch = inputs((7, 5))
    sightline.generate(llava, VCD, batch, **SETTINGS)  # transformers hangs hooks of its own on what is called first

    def now():
        return llava.generate(**batch, **SETTINGS), sightline.generate(llava, VCD, batch, **SETTINGS)

    before, said = state_of(llava), now()
    yield batch
    assert state_of(llava) == before
    assert all(one.equal(other) for one, other in zip(said, now(), strict=True))
    assert state_of(llava) == before


PLACES = {
    "before the owner": ("decoder", engine.Attachment, "_before_owner"),
    "before the decoder": ("decoder", engine.Attachment, "_before_decoder"),
    "counting": ("decoder", engine.Attachment, "_count"),
    "after the decoder": ("decoder", engine.Attachment, "_after_decoder"),
    "after the owner": ("decoder", engine.Attachment, "_after_owner"),
    "the contrast": ("decoder", engine.Attachment, "_contrast"),
    "vouching": ("decoder", engine.Attachment, "__call__"),
    "the attention function": ("attention", attention, "sdpa_attention_forward"),
    "the probe": ("probe", attention, "last_row"),
    "a map": ("attention", attention, "replaced"),
    "the runner": ("decoder", in_rows.RowsRunner, "before"),
    "taking rows apart": ("decoder", in_rows.RowsRunner, "logits"),
}
WHO = {"decoder": "vcd", "attention": "causalmm", "probe": "avc"}


@pytest.mark.parametrize("error", [Breaks, KeyboardInterrupt, torch.OutOfMemoryError], ids=lambda each: each.__name__)
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_an_error_in_the_engine_leaves_nothing(llava, untouched, monkeypatch, place, at, error):
    who, where, name = PLACES[place]
    fault = After(getattr(where, name), at, error)
    stand_in = fault if where is attention else lambda self, *args, **kwargs: fault(self, *args, **kwargs)
    sightline.generate(llava, DECODERS[WHO[who]], untouched, **SETTINGS)  # the self-check is behind us
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(where, name, stand_in)
        sightline.generate(llava, DECODERS[WHO[who]], untouched, **SETTINGS)
    assert fault.calls >= at


def test_an_error_in_the_mask_function_leaves_nothing(llava, untouched, monkeypatch):
    """Inside the block, and where the self-check is made."""
    sightline.generate(llava, CAUSALMM, untouched, **SETTINGS)
    with monkeypatch.context() as patch, pytest.raises(Breaks):
        patch.setattr(attention, "sdpa_mask", After(None, 1))
        sightline.generate(llava, CAUSALMM, untouched, **SETTINGS)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("beams", [1, 3])
def test_an_error_of_the_user_leaves_nothing(llava, untouched, decoder, at, beams):
    """In processors, stopping criteria, a module's hook, in the middle of beam search too."""
    own = After(lambda ids, scores: scores, at)
    with pytest.raises(Breaks):
        sightline.generate(llava, DECODERS[decoder], untouched, logits_processor=[own], num_beams=beams, **SETTINGS)
    stop = After(lambda ids, scores, **kwargs: torch.zeros(len(ids), dtype=torch.bool), at)
    with pytest.raises(Breaks):
        sightline.generate(llava, DECODERS[decoder], untouched, stopping_criteria=[stop], num_beams=beams, **SETTINGS)
    layer = llava.get_decoder().layers[1]
    handle = layer.register_forward_hook(After(lambda module, args, output: None, at))
    with contextlib.ExitStack() as stack:
        stack.callback(handle.remove)
        with pytest.raises(Breaks):
            sightline.generate(llava, DECODERS[decoder], untouched, num_beams=beams, **SETTINGS)


def test_an_error_while_the_cache_is_reordered_leaves_nothing(llava, untouched, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Breaks):
        real = in_rows.reordering
        patch.setattr(in_rows, "reordering", lambda reorder, streams: After(real(reorder, streams), 2))
        sightline.generate(llava, VCD, untouched, num_beams=3, **SETTINGS)


@pytest.mark.parametrize("error", [Breaks, KeyboardInterrupt])
def test_an_error_in_the_streamer_leaves_nothing(llava, inputs, untouched, error):
    class Breaking(BaseStreamer):
        def __init__(self):
            self.put = After(lambda value: None, 3, error)

        def put(self, value):
            raise NotImplementedError

        def end(self):
            raise AssertionError("it never ends")

    with pytest.raises(error):
        sightline.generate(llava, VCD, inputs((6,)), streamer=Breaking(), **SETTINGS)


@pytest.mark.parametrize("name", ["plan", "combine", "keep"])
def test_an_error_in_a_strategy_leaves_nothing(llava, untouched, monkeypatch, name):
    with monkeypatch.context() as patch, pytest.raises(Breaks):
        fault = After(getattr(sightline.VCD, name), 1)
        patch.setattr(sightline.VCD, name, lambda self, *args: fault(self, *args))
        sightline.generate(llava, VCD, untouched, **SETTINGS)


def test_an_error_while_it_opens_leaves_nothing(llava, untouched, monkeypatch):
    for where, name in ((engine.Attachment, "_made"), (engine.Attachment, "_image_hooks")):
        with monkeypatch.context() as patch, pytest.raises(Breaks):
            patch.setattr(where, name, lambda self, *args: After(None, 1)())
            sightline.attach(llava, VCD, untouched)
    real = attention.LayerState
    with monkeypatch.context() as patch, pytest.raises(Breaks):
        patch.setattr("sightline.decoders.layers.LayerState", After(real, 1))
        sightline.attach(llava, CAUSALMM, untouched)


def test_threads_on_one_model_are_right_or_refused(llava, inputs, untouched):
    """Of two threads at a time one is refused at least while the other generates; no answer is ever wrong."""
    batches = [inputs((7,), seed=seed) for seed in range(2)]
    right = [sightline.generate(llava, VCD, batch, **SETTINGS) for batch in batches]
    told, gate = [], threading.Barrier(2)

    def run(place):
        gate.wait()
        for _ in range(6):
            try:
                answer = sightline.generate(llava, VCD, batches[place], **SETTINGS)
                told.append((place, answer))
            except Exception as error:
                told.append((place, error))

    threads = [threading.Thread(target=run, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 12
    for place, answer in told:
        if isinstance(answer, Exception):
            assert isinstance(answer, errors.SightlineError), answer
        else:
            assert answer.equal(right[place])


def test_plain_decoding_in_another_thread_is_right_or_refused(llava, inputs, untouched):
    """The model that is attached here is used there without a processor: never an answer of another kind."""
    batch = inputs((7,))
    plain = llava.generate(**batch, **SETTINGS)
    told = []

    def run():
        try:
            told.append(llava.generate(**batch, **SETTINGS))
        except Exception as error:
            told.append(error)

    with contextlib.suppress(errors.SightlineError), sightline.attach(llava, VCD, batch) as processor:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        llava.generate(**batch, logits_processor=[processor], **SETTINGS)
    (answer,) = told
    assert isinstance(answer, errors.SightlineError) or answer.equal(plain)
