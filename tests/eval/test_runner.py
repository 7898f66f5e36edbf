"""Runs: the same bytes whatever the batch, the order or the interruption; what fails costs no more than it must."""

import json
import shutil

import pytest
from sightline.eval import preparing, worker
from sightline.eval.answering import Answerer
from sightline.eval.errors import ConfigError, DataError, RunFailed, RunFolderError
from sightline.eval.records import read_samples
from sightline.eval.runner import Interrupted
from sightline.eval.worker import out_of_memory, windows
from sightline.models.errors import InvalidParameter, SightlineError, UnknownDecoder, UnknownParameter

MODES = (("greedy", "generation=greedy"), ("vcd", "generation=greedy"), ("vcd", "generation=sample"))


def final(outcome):
    return outcome.folder / "samples" / "pope.jsonl"


def records(outcome):
    return read_samples(final(outcome))


def manifest(outcome):
    return json.loads((outcome.folder / "manifest.json").read_text())


@pytest.fixture
def asked(monkeypatch):
    """Counts requests that reach the model, batch by batch, and lets a test break them: `asked.spoil(function)`."""

    class Asked(list):
        spoil = staticmethod(lambda prompts: None)

    seen = Asked()
    original = Answerer.ask

    def ask(self, prompts, *rest):
        seen.spoil(prompts)
        answers = original(self, prompts, *rest)
        seen.append(len(prompts))
        return answers

    monkeypatch.setattr(Answerer, "ask", ask)
    return seen


def test_folder_holds_what_the_docs_promise(launch):
    outcome = launch("decoder=vcd", "run.cost_requests=3")
    assert (outcome.n_samples, outcome.n_error) == (54, 0)
    held = manifest(outcome)
    assert (held["status"], held["n_samples"], held["n_requests"], held["n_images"]) == ("complete", 54, 24, 6)
    assert held["decoder"]["params"]["alpha"] == 1.0
    assert [source["rows"] for source in held["task"]["data"]] == [18, 18, 18]
    cost = json.loads((outcome.folder / "timings" / "summary.json").read_text())
    assert (cost["requests"], cost["generated_tokens"]) == (24, 96)
    assert (cost["forwards_per_token"], cost["rows_per_token"]) == (1.0, 2.0)
    assert cost["beside_greedy"]["requests"] == 3
    assert (outcome.folder / "config.yaml").is_file()
    assert not list((outcome.folder / "samples").glob("*.part-*"))
    splits = [record.split for record in records(outcome)]
    assert splits == ["random"] * 18 + ["popular"] * 18 + ["adversarial"] * 18


@pytest.mark.parametrize(("decoder", "generation"), MODES)
def test_bytes_do_not_depend_on_batch_size_or_order(launch, monkeypatch, decoder, generation):
    one = launch(f"decoder={decoder}", generation, "run.batch_size=1", dir="one")
    many = launch(f"decoder={decoder}", generation, "run.batch_size=7", dir="many")
    monkeypatch.setattr(worker, "WINDOW", 1)
    original = preparing.make_plan

    def reversed_plan(*args):
        plan = original(*args)
        return type(plan)(plan.samples, plan.requests[::-1])

    monkeypatch.setattr(preparing, "make_plan", reversed_plan)
    other = launch(f"decoder={decoder}", generation, "run.batch_size=3", dir="other")
    assert final(one).read_bytes() == final(many).read_bytes() == final(other).read_bytes()
    assert len({record.output for record in records(one)}) > 5


@pytest.mark.parametrize(("decoder", "generation"), MODES[1:])
def test_killed_and_resumed_equals_uninterrupted(launch, asked, decoder, generation):
    whole = launch(f"decoder={decoder}", generation, dir="whole")
    del asked[:]

    def stop(prompts):
        if len(asked) == 2:
            raise KeyboardInterrupt

    asked.spoil = stop
    with pytest.raises(Interrupted) as stopped:
        launch(f"decoder={decoder}", generation, dir="killed")
    assert 0 < stopped.value.done < stopped.value.total == 54
    (part,) = (whole.folder.parent / "killed" / "samples").iterdir()
    torn = part.read_bytes()
    part.write_bytes(torn[:-25])  # a kill in the middle of a line
    asked.spoil = lambda prompts: None
    resumed = launch(f"decoder={decoder}", generation, "run.batch_size=5", dir="killed")
    assert final(resumed).read_bytes() == final(whole).read_bytes()
    assert resumed.answered_before == stopped.value.done - 1
    assert 24 - 8 <= sum(asked[2:]) < 24
    cost = json.loads((resumed.folder / "timings" / "summary.json").read_text())
    assert cost["attempts"] == 2


def test_finished_run_asks_nothing_again(launch, asked):
    first = launch()
    before = final(first).read_bytes()
    del asked[:]
    again = launch()
    assert (asked, again.answered_before) == ([], 54)
    assert final(again).read_bytes() == before
    assert manifest(again)["status"] == "complete"


def test_other_run_in_the_folder_is_refused(launch):
    launch("decoder=vcd")
    with pytest.raises(RunFolderError, match=r"decoder\.params\.alpha is 1\.0 there and 0\.5 here.*run\.resume=false"):
        launch("decoder=vcd", "decoder.alpha=0.5")
    replaced = launch("decoder=vcd", "decoder.alpha=0.5", "run.resume=false")
    assert manifest(replaced)["decoder"]["params"]["alpha"] == 0.5


def test_changed_data_are_refused(launch, pope):
    launch()
    file = pope / "coco_pope_random.json"
    file.write_text(file.read_text().replace("star", "moon"))
    with pytest.raises(RunFolderError, match=r"task\.data"):
        launch()


def test_samples_without_manifest_are_refused(launch):
    outcome = launch()
    (outcome.folder / "manifest.json").unlink()
    with pytest.raises(RunFolderError, match="no manifest"):
        launch()


def test_folder_in_use_is_refused(launch, asked):
    def inside(prompts):
        asked.spoil = lambda prompts: None
        with pytest.raises(RunFolderError, match="Another process"):
            launch()

    asked.spoil = inside
    assert launch().n_error == 0


def test_identical_requests_run_once_and_answer_alike(launch, asked):
    outcome = launch("decoder=sample")
    assert sum(asked) == 24
    by_request = {}
    for record in records(outcome):
        by_request.setdefault((record.image_id, record.prompt), set()).add((record.output, record.margin, record.seed))
    assert len(by_request) == 24
    assert all(len(answers) == 1 for answers in by_request.values())


def test_decoders_share_their_draws(launch):
    sample = launch("decoder=sample", dir="sample")
    vcd = launch("decoder=vcd", "generation=sample", dir="vcd")
    assert [record.seed for record in records(sample)] == [record.seed for record in records(vcd)]
    neutral = launch("decoder=vcd", "decoder.alpha=0", "decoder.beta=0", "generation=sample", dir="neutral")
    assert [record.output for record in records(sample)] == [record.output for record in records(neutral)]
    assert [record.output for record in records(sample)] != [record.output for record in records(vcd)]


def test_other_seed_other_answers(launch):
    first, second = (launch("decoder=sample", f"run.seed={seed}", dir=str(seed)) for seed in (1, 2))
    assert [record.output for record in records(first)] != [record.output for record in records(second)]


def test_reference_controls_fix_their_mode(launch):
    greedy = launch("decoder=greedy", "generation=sample", dir="greedy")
    assert manifest(greedy)["generation"] == {"mode": "greedy", "max_new_tokens": 4}
    sample = launch("decoder=sample", "generation=greedy", dir="sample")
    assert manifest(sample)["generation"]["mode"] == "sample"


def test_beams(launch):
    one, many = (launch("generation=beam", f"run.batch_size={n}", "decoder=vcd", dir=str(n)) for n in (1, 6))
    assert final(one).read_bytes() == final(many).read_bytes()
    greedy = launch("decoder=vcd", dir="greedy")
    margins = [[record.margin for record in records(outcome)] for outcome in (one, greedy)]
    assert margins[0] == pytest.approx(margins[1], abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        "decoder.alpha=0.5",
        "decoder.beta=0.2",
        "decoder.noise_step=300",
        "decoder.noise_schedule=constant_gamma",
        "decoder.seed=1",
        "generation.max_new_tokens=3",
        "prompt=one_word",
        "generation=sample",
    ],
)
def test_key_changes_with_every_setting(launch, change):
    base = launch("decoder=vcd", "run.limit=1", dir="base")
    other = launch("decoder=vcd", "run.limit=1", change, dir="other")
    keys = [{record.key for record in records(outcome)} for outcome in (base, other)]
    assert len(keys[0]) == len(records(base)) == 9
    assert not keys[0] & keys[1]


def test_limit_keeps_images_whole(launch):
    two, four = (launch(f"run.limit={n}", dir=str(n)) for n in (2, 4))
    chosen = [{record.image_id for record in records(outcome)} for outcome in (two, four)]
    assert [len(images) for images in chosen] == [2, 4]
    assert chosen[0] < chosen[1]
    assert len(records(two)) == 2 * 9
    other = launch("run.limit=2", "run.seed=3", dir="seeded")
    assert {record.image_id for record in records(other)} != chosen[0]


def test_bad_images_cost_their_samples(launch, pope):
    images = pope / "images"
    (images / "image_00.png").unlink()
    whole = (images / "image_01.png").read_bytes()
    (images / "image_01.png").write_bytes(whole[: len(whole) // 2])
    (images / "image_02.png").write_bytes(b"no image at all")
    outcome = launch()
    assert (outcome.n_samples, outcome.n_error) == (54, 27)
    failed = [record for record in records(outcome) if record.status == "error"]
    assert {record.image_id for record in failed} == {"image_00", "image_01", "image_02"}
    assert all(record.output == "" and record.error.startswith("ImageError") for record in failed)
    assert outcome.first_error is not None
    assert "image_00.png" in outcome.first_error
    held = manifest(outcome)
    assert (held["n_ok"], held["n_error"]) == (27, 27)


def test_failures_are_tried_again(launch, pope):
    image = pope / "images" / "image_00.png"
    away = shutil.move(image, pope / "away.png")
    assert launch().n_error == 9
    shutil.move(away, image)
    assert launch().n_error == 0


def test_memory_running_out_halves_the_batch(launch, asked):
    whole = launch("run.batch_size=8", dir="whole")
    del asked[:]

    def spoil(prompts):
        if len(prompts) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    asked.spoil = spoil
    halved = launch("run.batch_size=8", dir="halved")
    assert max(asked) == 2
    assert final(halved).read_bytes() == final(whole).read_bytes()


def test_one_failing_request_costs_its_samples(launch, asked):
    def spoil(prompts):
        if any("kite" in prompt for prompt in prompts):
            raise ValueError("no kites\nsecond line")

    asked.spoil = spoil
    outcome = launch()
    failed = [record for record in records(outcome) if record.status == "error"]
    assert failed
    assert all("kite" in record.prompt for record in failed)
    assert {record.error for record in failed} == {"ValueError: no kites"}


def test_a_broken_model_stops_the_run(launch, asked):
    def spoil(prompts):
        raise ValueError("weights of the wrong shape")

    asked.spoil = spoil
    with pytest.raises(RunFailed, match=r"The first 16 requests all failed.*wrong shape"):
        launch()


def test_errors_of_the_library_stop_the_run(launch, asked):
    def spoil(prompts):
        raise SightlineError("cannot be attached.")

    asked.spoil = spoil
    with pytest.raises(SightlineError, match="cannot be attached"):
        launch()


def test_settings_are_refused_before_the_model_is_asked(launch):
    with pytest.raises(UnknownDecoder, match="vcd"):
        launch("decoder.key=vdc")
    with pytest.raises(UnknownParameter, match="alpha"):
        launch("decoder=vcd", "+decoder.alpah=1")
    with pytest.raises(InvalidParameter, match="noise_step"):
        launch("decoder=vcd", "decoder.noise_step=1000")
    with pytest.raises(ConfigError, match=r"task\.split"):
        launch("+task.split=test")
    with pytest.raises(DataError, match=r"task\.data"):
        launch("task.data=null")


def test_windows_are_cut_between_images():
    class Fake:
        def __init__(self, image):
            self.image = image

    cut = [[r.image for r in window] for window in windows([Fake(name) for name in "aaabbbccd"], 2)]
    assert cut == [["a", "a", "a"], ["b", "b", "b"], ["c", "c"], ["d"]]


def test_out_of_memory_is_told_apart():
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not out_of_memory(RuntimeError("shape mismatch"))
    assert not out_of_memory(ValueError("out of memory"))
