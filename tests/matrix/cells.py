"""The matrix: every strategy x every family x every mode of `generate()`. A cell is run by its mode's function.

A cell ends in one of four ways: `equal` (to what, its mode says), `refused` (by an error of `sightline.models.errors`
that is expected there, before the first forward of `generate()`), `n/a` (there is no such prompt, or plain `generate()`
has no such mode), `needs` (something that the machine lacks, found by trying). Anything else is a failure.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sightline
import torch
from families import FAMILIES, Family, Row
from letters import tokenizer
from promised import ACTIVE, CONTEXT, NEUTRAL, STEPS, TEXTS, lists
from sightline.decoders import Strategy, build
from sightline.models import adapter_for, errors
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

Maker = Callable[[str], Strategy]
STRATEGIES: dict[str, Maker] = {
    "greedy": lambda heads: build("greedy"),
    "sample": lambda heads: build("sample"),
    "cut_only": lambda heads: sightline.CutOnly(beta=0.3),
    "shift": lambda heads: sightline.Shift(delta=3.0),
    "masked_only": lambda heads: sightline.MaskedOnly(num_heads=3, heads=heads),
} | ACTIVE
STILL: dict[str, Maker] = NEUTRAL | {
    "greedy": lambda heads: build("greedy"),
    "sample": lambda heads: build("sample"),
    "cut_only": lambda heads: sightline.CutOnly(beta=0.0),
    "shift": lambda heads: sightline.Shift(delta=0.0),
    "masked_only": lambda heads: sightline.MaskedOnly(num_heads=0, heads=heads),
    "cgvlm+vcd": lambda heads: sightline.Together((sightline.CGVLM(alpha=0), sightline.VCD(alpha=0, beta=0))),
    "avc+decore": lambda heads: sightline.Together((sightline.AVC(alpha=0, beta=0), sightline.DeCoRe(num_heads=0))),
}
"""Neutral parameters; DoLa has none."""
PLAIN = {"greedy", "sample"}
IMAGES = {"vcd", "avc", "iava", "code", "causalmm", "cgvlm", "cgvlm+vcd", "avc+decore"}
"""Strategies that contrast images, so that a prompt without one is refused."""
ROWS: tuple[Row, ...] = (((0,), TEXTS[1]), ((1,), TEXTS[0]), ((2,), TEXTS[2]))
"""The prompts of most cells: an image each, and texts of different lengths, the longest first."""
TOLERANCE = 1e-4
"""Of logits, which `generate()` hands out in float32."""


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        kind: `equal`, `refused`, `n/a` or `needs`.
        detail: to what it is equal; the error; why not; what is needed.
    """

    kind: str
    detail: str


@dataclass
class Run:
    """What a generation gave.

    Attributes:
        tokens: new ones of each row, up to the end token.
        output: of `generate()`.
        logits: at each step what was decoded from before `generate()`'s own processors, `[rows, vocab]`.
    """

    tokens: list[list[int]]
    output: Any
    logits: Sequence[torch.Tensor]
    attached: Any = None


class Refused(Exception):
    """A declared error, and how many forwards of the decoder had been made by `generate()` before it."""

    def __init__(self, error: Exception, forwards: int):
        super().__init__(str(error))
        self.error, self.forwards = error, forwards


class Bench:
    """Holds models, processors and reference runs, each made once.

    Args:
        folder: for the files that strategies read their heads from.
    """

    def __init__(self, folder: Path | None = None):
        self._kept = None if folder else tempfile.TemporaryDirectory()
        self.heads = lists(folder or Path(self._kept.name if self._kept else "."))
        self._made: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gave when `key` was first asked for; an exception that it raised is raised again."""
        if key not in self._made:
            try:
                self._made[key] = make()
            except Exception as error:
                self._made[key] = error
        if isinstance(self._made[key], Exception):
            raise self._made[key]
        return self._made[key]

    def case(self, strategy: str, family: str) -> Case:
        """A strategy on a family."""
        model, processor = self.once(("model", family), FAMILIES[family].make)
        decoder = STRATEGIES[strategy](self.heads)
        return Case(self, strategy, family, decoder, model, processor)


@dataclass
class Case:
    """A strategy on a family, and what can be done with it.

    Attributes:
        model, processor: of the family; modes may put another model in its place.
    """

    bench: Bench
    strategy: str
    name: str
    decoder: Strategy
    model: Any
    processor: Any
    family: Family = field(init=False)

    def __post_init__(self) -> None:
        self.family = FAMILIES[self.name]
        if "cgvlm" in self.strategy:
            self.decoder = _with_k(self.decoder, self.family.k)

    @property
    def plain(self) -> bool:
        """True for the references, which are plain decoding."""
        return self.strategy in PLAIN

    def still(self) -> Case | None:
        """The same strategy with neutral parameters; None where it has none."""
        if self.strategy not in STILL:
            return None
        return replace(self, decoder=STILL[self.strategy](self.bench.heads))

    def inputs(self, rows: Sequence[Row] = ROWS) -> dict[str, torch.Tensor]:
        """Model inputs of prompts; made once, a fresh dict each time."""
        key = ("inputs", self.name, tuple((tuple(seeds), text) for seeds, text in rows))
        return dict(self.bench.once(key, lambda: self.family.inputs(self.processor, rows)))

    def marked(self, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        """What strategies need beside the inputs: the processor, and which part of each text is context."""
        texts = self.processor.batch_decode(inputs["input_ids"])
        spans = [next(part for part in CONTEXT if part in text) for text in texts]
        words = self.bench.once("yes", yes_tokenizer) if self.strategy == "shift" else self.processor
        return {"processor": words, "spans": spans}

    def run(
        self,
        inputs: dict[str, torch.Tensor] | None = None,
        branching: Any = "rows",
        *,
        before: Sequence[Any] = (),
        after: Sequence[Any] = (),
        given: dict[str, Any] | None = None,
        seed: int = 3,
        **settings: Any,
    ) -> Run:
        """Generate under the strategy, by `attach` and `model.generate`.

        Args:
            inputs: attached; default: the case's.
            before, after: other processors in the list.
            given: what `generate()` gets in place of `inputs`.
            settings: of `generate()`; five tokens, greedy, unless told otherwise.

        Raises:
            Refused: a declared error.
        """
        inputs = self.inputs() if inputs is None else inputs
        try:
            attached = sightline.attach(self.model, self.decoder, inputs, branching=branching, **self.marked(inputs))
        except errors.SightlineError as error:
            raise Refused(error, 0) from error
        with self._counted(attached), attached:
            torch.manual_seed(seed)
            return self._generate(inputs if given is None else given, [*before, attached, *after], attached, settings)

    def bare(
        self,
        inputs: dict[str, torch.Tensor] | None = None,
        *,
        after: Sequence[Any] = (),
        seed: int = 3,
        **settings: Any,
    ) -> Run:
        """Plain `generate()`: nothing is attached."""
        torch.manual_seed(seed)
        return self._generate(self.inputs() if inputs is None else inputs, list(after), None, settings)

    def tried(self, mode: str, **settings: Any) -> Run:
        """Plain `generate()` in a mode, once per family; what transformers or the machine lacks for it is raised."""
        return self.bench.once(("tried", self.name, mode), lambda: self.bare(**settings))

    @property
    def default(self) -> Run:
        """Its greedy run on the default prompts, branches in rows."""
        return self.bench.once(("default", self.strategy, self.name), self.run)

    def both(self, *args: Any, **settings: Any) -> Run:
        """A run in rows, after a sequential one has given the same."""
        rows = self.run(*args, **settings)
        same(self.run(*args, branching="sequential", **settings), rows)
        return rows

    def under(self, act: Callable[[], Any], inputs: dict[str, torch.Tensor]) -> Any:
        """What `act` gives while the strategy is attached; `Refused` where it raises a declared error."""
        with sightline.attach(self.model, self.decoder, inputs, **self.marked(inputs)) as attached:
            with self._counted(attached):
                return act()

    def refused(self, error: type[Exception], *args: Any, **settings: Any) -> Outcome:
        """Assert that a run is refused by that error, before its first forward."""
        return self.refuses(error, lambda: self.run(*args, **settings))

    def refuses(self, error: type[Exception], act: Callable[[], Any]) -> Outcome:
        """Assert that `act`, a run of this case, raises that error before its first forward."""
        refused = None
        try:
            act()
        except Refused as raised:
            refused = raised
        assert refused is not None, f"{error.__name__} was to be raised, and nothing was"
        assert type(refused.error) is error, f"{type(refused.error).__name__}, not {error.__name__}: {refused}"
        assert refused.forwards == 0, f"refused after {refused.forwards} forwards: {refused}"
        assert getattr(refused.error, "hint", ""), f"says not what to do: {refused}"
        return Outcome("refused", error.__name__)

    def copied(self, what: str, make: Callable[[Any], Any]) -> Case:
        """The same on a changed copy of the model, made once per family: `make(copy)` gives it."""
        key = ("model", self.name, what)
        return replace(self, model=self.bench.once(key, lambda: make(copy.deepcopy(self.model))))

    def _generate(self, inputs: Any, processors: list[Any], attached: Any, settings: dict[str, Any]) -> Run:
        fixed = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        run: Any = self.model.generate
        output = run(**inputs, logits_processor=processors, **(fixed | settings))
        return Run(new_tokens(output.sequences, inputs), output, output.logits, attached)

    @contextmanager
    def _counted(self, attached: Any) -> Iterator[None]:
        """Makes a declared error inside a `Refused` with the number of forwards that the decoder had made."""
        forwards = [0]

        def count(_module: Any, _args: Any, _output: Any) -> None:
            forwards[0] += 1

        handle = adapter_for(self.model).decoder.register_forward_hook(count)
        try:
            yield
        except errors.SightlineError as error:
            raise Refused(error, forwards[0]) from error
        finally:
            handle.remove()


def new_tokens(sequences: torch.Tensor, inputs: dict[str, Any]) -> list[list[int]]:
    """New tokens of each sequence `[sequences, length]` up to its end token."""
    prompt = inputs.get("input_ids")
    width = 0 if prompt is None else prompt.shape[1]
    rows = sequences[:, width:].tolist()
    return [row[: row.index(2) + 1] if 2 in row else row for row in rows]


def same(found: Run, expected: Run, rows: Sequence[int] | None = None, tolerance: float = TOLERANCE) -> None:
    """Assert that tokens are equal, and the logits that led to them, up to each row's end.

    Args:
        rows: of `expected` that stand in `found`, in order; default: all.
    """
    rows = range(len(expected.tokens)) if rows is None else rows
    assert found.tokens == [expected.tokens[row] for row in rows], f"{found.tokens}, not {expected.tokens}"
    if len(found.logits[0]) != len(found.tokens):  # beams: logits are those of all beams
        return
    for place, row in enumerate(rows):
        for step in range(len(found.tokens[place])):
            torch.testing.assert_close(
                found.logits[step][place], expected.logits[step][row], atol=tolerance, rtol=tolerance
            )


def differs(found: Run, other: Run) -> bool:
    """Whether tokens, or logits up to the first other token, are others."""
    if found.tokens != other.tokens:
        return True
    return any(
        not torch.allclose(found.logits[step][row], other.logits[step][row], atol=1e-3, rtol=1e-3)
        for row, tokens in enumerate(found.tokens)
        for step in range(len(tokens))
    )


class Forced:
    """Lets nothing but the next given token of each row through."""

    def __init__(self, rows: Sequence[Sequence[int]]):
        self.rows, self.step = rows, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = [row[self.step] if self.step < len(row) else 2 for row in self.rows]
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, torch.tensor(tokens)[:, None], 0.0)


def yes_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of letters whose last token is "Yes", for the control that shifts yes-words."""
    words = tokenizer()
    last = words.convert_ids_to_tokens(95)
    raw = words.backend_tokenizer.to_str()
    quoted = f'"{last}":95'
    assert raw.count(quoted) == 1
    changed = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(raw.replace(quoted, '"Yes":95')))
    changed.add_tokens(["Yes"])
    assert changed.encode("Yes", add_special_tokens=False) == [95]
    return changed


def _with_k(decoder: Any, k: float) -> Any:
    """CG-VLM with a threshold of the family, alone or among others."""
    if decoder.key == "cgvlm":
        return replace(decoder, k=k)
    return replace(decoder, parts=tuple(replace(p, k=k) if p.key == "cgvlm" else p for p in decoder.parts))
