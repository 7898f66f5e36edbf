"""The gallery: words marked as the scene says, verdicts as the scorer's, traces that are of these very answers."""

import json
import re

import pytest
from scored_runs import three_tasks
from sightline.eval.cli import main
from sightline.eval.config import compose_settings
from sightline.eval.gallery import GalleryError, columns, write, write_gallery
from sightline.eval.report.runs import find_runs
from sightline.eval.runner import run
from sightline.eval.scenes import draw_scene
from sightline.eval.scenes.world import KINDS
from sightline.eval.score import score_run

PARTS = re.compile(r'<script type="application/json" id="([^"]+)">(.*?)</script>', re.DOTALL)
PLURALS = {f"{kind}s": kind for kind in KINDS} | {"crosses": "cross"}


def held(page):
    """The data of a page: id -> content."""
    return {name: json.loads(text) for name, text in PARTS.findall(page.read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Captions and questions on real scenes by the small model, greedy and pushed hard by VCD."""
    folder = tmp_path_factory.mktemp("gallery")
    for task in ("chair_scenes", "pope_scenes"):
        for choice in (["decoder=greedy"], ["decoder=vcd", "decoder.alpha=3", "decoder.noise_step=900"]):
            small = ["run.limit=8", "run.cost_requests=0", "run.progress=false"]
            name = f"{task}-{choice[0].partition('=')[2]}"
            asked, tree = compose_settings([f"task={task}", *choice, *small, f"run.dir={folder / name}"])
            score_run(run(asked, tree).folder)
    return folder


@pytest.fixture(scope="module")
def page(runs):
    return write_gallery([runs], traced=2)


def section(page, kind):
    return next(part for part in held(page).values() if isinstance(part, dict) and part["kind"] == kind)


def words(text):
    return text if isinstance(text, str) else "".join(part[1] for part in text)


def records(folder):
    (file,) = (folder / "samples").glob("*.jsonl")
    return {each["image_id"] + each["prompt"]: each for each in map(json.loads, file.read_text().splitlines())}


def test_captions_are_marked_as_the_scenes_say(runs, page):
    found = section(page, "captions")
    said = {each["image_id"]: each["output"] for each in records(runs / "chair_scenes-vcd").values()}
    assert [name for name, *_ in found["decoders"]] == ["Greedy", "VCD"]
    assert len(found["samples"]) == 8
    kinds_seen = set()
    for _, name, _, question, truth, answers in found["samples"]:
        scene = draw_scene("test", int(name.removeprefix("scene_")), pairs="broken")
        assert words(found["texts"][truth]) == ", ".join(sorted(scene.kinds))
        assert found["texts"][question] == "Please describe this image in detail."
        text = found["texts"][answers[1][0]]
        assert words(text) == said[name]
        wrong = 0
        for kind, part in text:
            named = {PLURALS.get(word, word) for word in re.findall("[a-z]+", part)} & set(KINDS)
            assert named <= set(scene.kinds) if kind == 1 else not named & set(scene.kinds)
            assert bool(named) == bool(kind)
            wrong += kind == 2
            kinds_seen.add(kind)
        assert answers[1][1] == int(not wrong)
        assert ("absent" in answers[1][2]) == bool(wrong)
    assert kinds_seen == {0, 1, 2}, "a caption without a hallucinated word would prove little"


def test_questions_that_splits_share_are_one_sample(runs, page):
    found = section(page, "yes_no")
    asked = records(runs / "pope_scenes-greedy")
    assert len(found["samples"]) == len(asked)
    lines = [
        json.loads(line) for line in next((runs / "pope_scenes-greedy/samples").glob("*")).read_text().splitlines()
    ]
    assert sum(len(sample[2].split(", ")) for sample in found["samples"]) == len(lines) > len(asked)
    right = {(each["image_id"], each["prompt"]): each["output"].strip().lower() == each["label"] for each in lines}
    for _, name, _, question, truth, answers in found["samples"]:
        prompt = f"USER: <image>\n{found['texts'][question]} ASSISTANT:"
        assert answers[0][1] == int(right[name, prompt])
        assert found["texts"][truth] in ("yes", "no")


def test_images_are_there_once(page):
    content = held(page)
    assert len(content["images"]) == len({image[0] for image in content["images"]}) == 8
    places = [sample[0] for part in content.values() if isinstance(part, dict) for sample in part["samples"]]
    assert set(places) == set(range(8))


def test_traces_are_of_these_very_answers(page):
    for kind in ("captions", "yes_no"):
        found = section(page, kind)
        traced = [sample for sample in found["samples"] if any(answer[3] is not None for answer in sample[5])]
        assert len(traced) == 2
        assert traced == found["samples"][:2], "those with reasons come first"
        for sample in traced:
            for answer in sample[5]:
                trace = found["traces"][answer[3]]
                assert "".join(step[0] for step in trace["s"]).replace("</s>", "") == words(found["texts"][answer[0]])
                assert trace["g"][:2] == [8, 8]
                assert all(len(step[9]) == 88 for step in trace["s"]), "64 places in base64"
        assert all(not trace["b"] for trace in found["traces"] if not any(step[2] for step in trace["s"]))


def test_traces_are_kept_and_wrong_ones_are_not_shown(runs, page, monkeypatch):
    monkeypatch.setattr(write, "load_model", lambda _: pytest.fail("no model is needed"))
    again = write_gallery([runs], runs / "again.html", traced=0)
    assert again.read_bytes() == page.read_bytes()
    file = runs / "chair_scenes-vcd/traces/chair_scenes.json"
    kept = file.read_text()
    try:
        changed = json.loads(kept)
        for each in changed["traces"].values():
            each["output"] += "!"
        file.write_text(json.dumps(changed))
        found = section(write_gallery([runs], runs / "again.html", traced=0), "captions")
        assert all(sample[5][1][3] is None for sample in found["samples"])
        assert any(sample[5][0][3] is not None for sample in found["samples"])
        file.write_text("{")
        write_gallery([runs], runs / "again.html", traced=0)
    finally:
        file.write_text(kept)


def test_samples_that_tell_most_come_first(runs):
    (wall,) = (wall for wall in columns.walls(find_runs(runs)[0]) if wall.kind == "yes_no")
    order = columns.telling(wall, len(wall.units))
    assert sorted(order) == sorted(wall.units)
    changed = [any(c.right(unit) != wall.baseline.right(unit) for c in wall.columns) for unit in order]
    assert changed == sorted(changed, reverse=True)


def test_the_command_and_its_errors(tmp_path, capsys):
    three_tasks(tmp_path / "runs", images=4)
    assert main(["gallery", str(tmp_path / "runs"), "--trace", "0", "--out", str(tmp_path / "here.html")]) == 0
    assert "here.html" in capsys.readouterr().out
    titles = [part["title"] for part in held(tmp_path / "here.html").values() if isinstance(part, dict)]
    assert len(titles) == 3
    assert main(["gallery", str(tmp_path / "runs"), "--trace", "-1"]) == 2
    assert main(["gallery", str(tmp_path / "nowhere")]) == 2
    with pytest.raises(GalleryError, match="cannot be written"):
        write_gallery([tmp_path / "runs"], tmp_path / "runs", traced=0)
