"""What the matrix is worth: an engine that is broken on purpose must make cells fail."""

import contextlib

import cells
import pytest
import torch
from every_cell import run_cell
from sightline.decoders import VCD, attachment, in_rows
from sightline.decoders.runner import Stream
from sightline.models.errors import UnsupportedMode


def base_rows_alone(reorder, streams):
    """Beam search's reorder that leaves the rows of branches where they are."""

    def broken(beam_idx):
        count = len(beam_idx)
        reorder(torch.cat([beam_idx, torch.arange(count, count * streams)]))

    return broken


def all_seen(self, rows, generated):
    """A mask that shows padding, too."""
    return torch.ones(rows, self.mask.shape[1] + generated, dtype=torch.long)


VOUCH = attachment.Attachment.__call__


def upside_down(self, input_ids, scores):
    """A processor that does not hand scores on as they came."""
    return -VOUCH(self, input_ids, scores)


FAULTS = {
    "branch rows are not reordered": (in_rows, "reordering", base_rows_alone, ("vcd", "llava", "beams")),
    "the contrast is left out": (VCD, "combine", lambda self, base, branches, step: base, ("vcd", "llava", "greedy")),
    "the processor changes scores": (
        attachment.Attachment, "__call__", upside_down, ("cut_only", "llama", "processors"),
    ),
    "branch rows stay in the cache": (
        in_rows.RowsRunner, "release", lambda self, cache, rows: None, ("vcd", "llava", "dynamic_cache"),
    ),
    "a branch sees padding": (Stream, "grown_mask", all_seen, ("cad", "llama", "padded_batch")),
    "drafted tokens are let through": (
        attachment, "guarded", lambda adapter, who: contextlib.nullcontext(), ("cut_only", "llama", "prompt_lookup"),
    ),
    "quantised caches are let through": (
        attachment, "check_cache", lambda *given: None, ("decore", "llama", "fp8_cache"),
    ),
    "a cache is not asked for": (
        attachment.Attachment, "_check_step", lambda self, cache, columns: None, ("cgvlm", "llava", "no_cache"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(monkeypatch, tmp_path, fault):
    where, name, broken, cell = FAULTS[fault]
    bench = cells.Bench(tmp_path)
    outcome = run_cell(bench, *cell)
    if outcome.kind == "n/a":
        pytest.skip(outcome.detail)
    assert outcome.kind in ("equal", "refused")
    monkeypatch.setattr(where, name, broken)
    with pytest.raises((AssertionError, RuntimeError)):
        run_cell(cells.Bench(tmp_path), *cell)


def test_a_refusal_after_the_first_forward_is_found(tmp_path):
    case = cells.Bench(tmp_path).case("cut_only", "llama")

    def late(input_ids, scores):
        raise UnsupportedMode("Too late.", "Say so earlier.")

    with pytest.raises(AssertionError, match="after 1 forwards"):
        case.refused(UnsupportedMode, after=[late])
    with pytest.raises(AssertionError, match="nothing was"):
        case.refused(UnsupportedMode)
