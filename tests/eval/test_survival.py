"""Runs that are killed, cut off in the middle of a line, or out of room: they go on to the same bytes."""

import contextlib
import errno
import json
import os
import random
import resource
import signal
import threading
import time

import pytest
from sightline.eval import preparing, records, worker
from sightline.eval.answering import Answerer
from sightline.eval.errors import DeviceLost, DiskFull
from sightline.eval.records import SampleFiles
from sightline.eval.score import score_run

KILLS = 20


def scored(folder):
    """The bytes that must not depend on what a run went through."""
    score_run(folder)
    return (folder / "samples" / "pope.jsonl").read_bytes(), (folder / "metrics.json").read_bytes()


def in_a_child(work):
    """Forks; the child does the work and ends without cleaning up. Returns its process id."""
    child = os.fork()
    if child:
        return child
    with contextlib.suppress(BaseException):
        work()
    os._exit(0)


def bytes_of_parts(folder):
    found = 0
    for part in (folder / "samples").glob("*.part-*"):
        with contextlib.suppress(FileNotFoundError):  # merged meanwhile
            found += part.stat().st_size
    return found


def killed(child, folder, written, later):
    """Kills a process once a run's parts hold so many bytes, and so many seconds later; its status, killed or not."""
    while bytes_of_parts(folder) < written:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.002)
    time.sleep(later)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def cut_a_line(folder, chance):
    """What a kill in the middle of a write leaves: the newest part ends anywhere within its last line."""
    parts = sorted((folder / "samples").glob("*.part-*"))
    whole = parts[-1].read_bytes() if parts else b""
    if whole.count(b"\n") > 1:
        last = len(whole) - whole[:-1].rfind(b"\n") - 1
        os.truncate(parts[-1], len(whole) - chance.randrange(1, last + 1))


@pytest.fixture
def other_order(monkeypatch):
    """Makes the next run ask its requests in another order: `other_order(seed)`."""
    original = preparing.make_plan

    def shuffle(seed):
        def shuffled(*args):
            plan = original(*args)
            images = {request.image: random.Random(f"{seed} {request.image}").random() for request in plan.requests}
            order = sorted(plan.requests, key=lambda request: images[request.image])
            return type(plan)(plan.samples, tuple(order))

        monkeypatch.setattr(preparing, "make_plan", shuffled)

    return shuffle


@pytest.mark.parametrize("setting", [("decoder=vcd", "generation=sample"), ("decoder=greedy",)])
def test_twenty_kills_and_the_same_bytes(launch, tmp_path, monkeypatch, other_order, setting):
    """Ten for each setting: SIGKILL at random moments, each run going on with another batch size and order."""
    whole = launch(*setting, dir="whole")
    expected, total = scored(whole.folder), whole.n_samples
    room = len(expected[0])
    chance, kills, unfinished, folder = random.Random(7), 0, [], None
    while kills < KILLS // 2:
        if folder is None or _complete(folder):
            folder = tmp_path / f"killed-{kills}"
        size, window = chance.randrange(1, 8), chance.choice((1, 9, 128))
        monkeypatch.setattr(worker, "WINDOW", window)
        other_order(kills)
        child = in_a_child(lambda: launch(*setting, f"run.batch_size={size}", dir=folder.name))  # noqa: B023
        status = killed(child, folder, chance.uniform(0, 0.9) * room, chance.uniform(0, 0.01))
        if os.WIFSIGNALED(status):
            kills += 1
            unfinished.append(folder)
            if chance.random() < 0.5:
                cut_a_line(folder, chance)
    begun = 0
    for folder in dict.fromkeys(unfinished):
        begun += 0 < len(SampleFiles(folder / "samples", "pope").answered()) < total
        assert launch(*setting, "run.batch_size=3", dir=folder.name).n_error == 0
        assert scored(folder) == expected
    assert begun, "no kill met a run that had answered some of its questions"


def _complete(folder):
    file = folder / "manifest.json"
    return file.is_file() and json.loads(file.read_text())["status"] == "complete"


@pytest.mark.parametrize("room", [10, 9_000, 14_000])
def test_a_full_disk_loses_nothing(launch, tmp_path, room):
    """The kernel refuses to let any file grow beyond `room` bytes, in the middle of a line."""
    whole = scored(launch(dir="whole").folder)
    told = tmp_path / "told"

    def fill():
        said = os.open(told, os.O_WRONLY | os.O_CREAT)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            launch(dir="full")
        except DiskFull as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            os.write(said, str(error).encode()[: min(room, 400)])

    os.waitpid(in_a_child(fill), 0)
    folder = tmp_path / "full"
    kept = SampleFiles(folder / "samples", "pope").answered()
    if room > 10:
        assert "Cannot write to" in told.read_text()
        assert "What is answered is kept." in told.read_text()
        assert 0 < len(kept) < 54
        (part,) = (folder / "samples").iterdir()
        assert part.read_bytes().endswith(b"\n")
    assert not list(folder.rglob("*.tmp"))
    outcome = launch(dir="full")
    assert outcome.answered_before == len(kept)
    assert scored(folder) == whole


def test_a_write_that_fails_leaves_whole_lines(tmp_path):
    """After an error the same part goes on where it was, as when room was made meanwhile."""
    files = SampleFiles(tmp_path, "pope")
    one, two = (_record(key) for key in ("one", "two"))
    files.append([one])
    stream = files._stream
    limit = os.fstat(stream.fileno()).st_size + 20

    class Full:
        def write(self, data):
            taken = stream.write(data[: max(0, limit - stream.tell())])
            if not taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            return taken

        def __getattr__(self, name):
            return getattr(stream, name)

    files._stream = Full()
    with pytest.raises(OSError, match="No space left"):
        files.append([two])
    files._stream = stream
    files.append([two])
    files.close()
    assert (tmp_path / "pope.part-0001.jsonl").read_text() == one.line() + two.line()


def _record(key):
    named = {"task": "pope", "task_version": 1, "split": "random", "doc_id": "1", "image_id": "a", "prompt": "p"}
    said = {"label": "yes", "output": "Yes", "n_prompt_tokens": 3, "n_output_tokens": 2, "finish": "eos"}
    return records.SampleRecord(key, **named, **said, margin=None, seed=None, status="ok")


def test_an_image_that_changed_meanwhile_fails(launch, pope, monkeypatch):
    original = worker.Worker.answers

    def changed(self, requests):
        image = pope / "images" / "image_03.png"
        image.write_bytes((pope / "images" / "image_04.png").read_bytes())
        return original(self, requests)

    monkeypatch.setattr(worker.Worker, "answers", changed)
    outcome = launch()
    assert (outcome.n_error, outcome.n_samples) == (9, 54)
    assert "is not the file that the run was planned with" in outcome.first_error


def test_a_lost_gpu_ends_the_run_and_marks_no_sample(launch, monkeypatch):
    original, calls = Answerer.ask, []

    def ask(self, *args):
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
        return original(self, *args)

    monkeypatch.setattr(Answerer, "ask", ask)
    with pytest.raises(DeviceLost, match=r"illegal memory access was encountered\. Run the same command again"):
        launch()
    (part,) = (launch(dir="other").folder.parent / "run" / "samples").iterdir()
    assert {record.status for record in records.read_part(part)} == {"ok"}
    assert launch().n_error == 0


def test_images_are_decoded_ahead_and_off_the_main_thread(launch, monkeypatch):
    """The images of the next window are being opened while the model answers this one."""
    monkeypatch.setattr(worker, "WINDOW", 1)
    main, events = threading.get_ident(), []
    decode, ask = worker.open_image, Answerer.ask

    def opened(path):
        events.append(("open", threading.get_ident() != main))
        return decode(path)

    def asked(self, prompts, *rest):
        before = len(events)
        deadline = time.monotonic() + 5
        while sum(kind == "open" for kind, _ in events) < min(6, 2 + events.count(("asked", True))):
            assert time.monotonic() < deadline, events[before:]
            time.sleep(0.001)
        events.append(("asked", True))
        return ask(self, prompts, *rest)

    monkeypatch.setattr(worker, "open_image", opened)
    monkeypatch.setattr(Answerer, "ask", asked)
    launch()
    assert [aside for kind, aside in events if kind == "open"] == [True] * 6
