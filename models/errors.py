"""Every error of the library: one type per cause, under one root, each with advice on what to do."""

from __future__ import annotations


class SightlineError(Exception):
    """Root of all errors that Sightline raises itself.

    Args:
        problem: what is wrong, with the bad value quoted.
        hint: what to do about it.
    """

    def __init__(self, problem: str, hint: str = ""):
        super().__init__(f"{problem} {hint}".strip())
        self.problem = problem
        self.hint = hint


class UnknownDecoder(SightlineError, KeyError):
    """No strategy or control is registered under this key."""

    __str__ = Exception.__str__


class DecoderCollision(SightlineError):
    """Two different classes ask for the same key."""


class UnknownParameter(SightlineError, TypeError):
    """A strategy has no field of this name."""


class InvalidParameter(SightlineError, ValueError):
    """A field of a strategy has the wrong type or is out of its range."""


class MissingImage(SightlineError, ValueError):
    """The strategy contrasts images and a prompt has none."""


class MissingProcessor(SightlineError, ValueError):
    """The strategy needs the model's processor to tokenise text of its own."""


class MissingContext(SightlineError, ValueError):
    """A strategy needs to know which part of the prompt is context."""


class MissingChatTemplate(SightlineError, ValueError):
    """The processor has no chat template, so a strategy cannot make a prompt of its own."""


class InvalidPrompt(SightlineError, ValueError):
    """A prompt cannot be put together from these inputs, or for this instruction."""


class AdapterInvalid(SightlineError, TypeError):
    """An adapter that another package brings cannot be used."""


class UnsupportedModel(SightlineError):
    """The model is of a family, or in a state, that the engine cannot serve."""


class UnsupportedMode(SightlineError):
    """A mode of `generate()` that the attached strategy cannot serve."""


class ModelNotFound(SightlineError, OSError):
    """The checkpoint is neither here nor to be had."""

    __str__ = Exception.__str__


class CheckpointInvalid(SightlineError, ValueError):
    """The files of a checkpoint are broken, lead out of their folder, or do not belong together."""


class SelfCheckFailed(SightlineError):
    """The adapter's check on attach found that edits or probes would not take effect."""


class AttachmentError(SightlineError, RuntimeError):
    """An attachment was used in a way that would give wrong answers."""


class AttachmentReused(AttachmentError):
    """One attachment serves one `generate()`; a second one was started."""


class AttachmentClosed(AttachmentError):
    """The processor is used outside its block."""


class NotContrasted(AttachmentError):
    """A step of `generate()` ran without the processor, or without the engine's hooks."""


class InputsMismatch(AttachmentError, ValueError):
    """`generate()` was given other inputs than those that were attached."""
