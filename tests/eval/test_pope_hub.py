"""POPE in the hub's layout: both configurations, the `datasets` library's copies, pins, and hostile rows."""

import json

import huggingface_hub.constants as constants
import pytest
from hub_files import COMMIT, cached, noted, parquet, picture, saved
from sightline.eval.errors import ConfigError, DataError
from sightline.eval.images import open_image
from sightline.eval.plan import Conditions, make_plan
from sightline.eval.tasks import hub, registry
from sightline.eval.tasks.pope import SPLITS

NAMES = ("COCO_val2014_000000000042", "COCO_val2014_000000000073")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))


def rows(split, **changes):
    found = []
    for number, (name, thing) in enumerate((name, thing) for name in NAMES for thing in ("cat", "dog")):
        held = {"bytes": picture(NAMES.index(name) * 50, "JPEG"), "path": None}
        found.append(
            {
                "id": str(SPLITS.index(split) * 4 + number),
                "question_id": str(number + 1),
                "question": f"Is there a {thing} in the image?",
                "answer": "yes" if thing == "cat" else "no",
                "image_source": name,
                "image": held,
                "category": split,
                **changes,
            }
        )
    return found


def default(folder):
    """All splits together, the adversarial ones first, in two files."""
    every = [row for split in reversed(SPLITS) for row in rows(split)]
    parquet(folder / "data" / "test-00000-of-00002.parquet", every[:7])
    parquet(folder / "data" / "test-00001-of-00002-0123abcd.parquet", every[7:])
    return folder


def full(folder):
    for split in SPLITS:
        parquet(folder / "Full" / f"{split}-00000-of-00001.parquet", rows(split))
    return folder


def load(folder, **options):
    return registry.load(registry.get("pope"), {"data": str(folder), **options})


def as_files(folder):
    """The same questions as POPE's own files and a folder of images."""
    (folder / "images").mkdir(parents=True)
    for place, name in enumerate(NAMES):
        (folder / "images" / f"{name}.jpg").write_bytes(picture(place * 50, "JPEG"))
    for split in SPLITS:
        lines = [
            {"question_id": int(r["question_id"]), "image": f"{r['image_source']}.jpg", "text": r["question"]}
            | {"label": r["answer"]}
            for r in rows(split)
        ]
        (folder / f"coco_pope_{split}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("layout", ["default", "full", "both", "save_to_disk"])
def test_every_layout_gives_the_questions_of_the_files(tmp_path, layout):
    folder = tmp_path / "copy"
    if layout in ("default", "both"):
        default(folder)
    if layout in ("full", "both"):
        full(folder)
    if layout == "save_to_disk":
        saved(folder, {split: rows(split) for split in SPLITS})
    found = load(folder)
    files = as_files(tmp_path / "files")
    wanted = load(files, images=str(files / "images"))
    assert found.documents == wanted.documents
    assert sum(source.rows for source in found.sources) == 12
    assert found.images is not None
    conditions = Conditions(("pope", 1), {}, {}, {}, None)
    keys = [[s.key for s in make_plan(d, d.documents, str, conditions).samples] for d in (found, wanted)]
    assert keys[0] == keys[1]  # the same bytes of images: answers are shared with the files' runs
    assert open_image(found.images / found.documents[0].image).size == (12, 8)
    names = {"default": "data/test", "full": "Full/random", "both": "Full/random", "save_to_disk": "random/data"}
    assert found.sources[0].file.startswith(names[layout])


def test_a_part_of_the_splits_reads_their_files_alone(tmp_path):
    found = load(full(tmp_path), splits=["popular"])
    assert [source.file for source in found.sources] == ["Full/popular-00000-of-00001.parquet"]
    assert {document.split for document in load(default(tmp_path / "d"), splits=["popular"]).documents} == {"popular"}


def test_images_are_unpacked_once(tmp_path, monkeypatch):
    first = load(default(tmp_path / "copy"))
    monkeypatch.setattr(hub, "_write", None)  # would fail if it were called again
    assert load(tmp_path / "copy") == first
    assert sorted(path.name for path in first.images.iterdir()) == [f"{name}.jpg" for name in NAMES]


def test_hostile_rows_cost_one_sample_each(tmp_path):
    odd = [
        {"image_source": "../../../etc/passwd"},
        {"image_source": "/etc/passwd"},
        {"image_source": "C:\\x"},
        {"image_source": "a\nb"},
        {"image_source": "x" * 5000},
        {"image": {"bytes": None, "path": "gone.jpg"}},
        {"image": {"bytes": picture(7), "path": None}},  # another image under a name that is taken
        {"answer": "maybe"},
        {"question": " "},
        {"question": None},
    ]
    hostile = [{**rows("random")[0], "question_id": str(50 + place), **each} for place, each in enumerate(odd)]
    parquet(tmp_path / "copy" / "Full" / "random-00000-of-00001.parquet", [*rows("random"), *hostile])
    found = load(tmp_path / "copy", splits=["random"])
    assert [document.error is None for document in found.documents] == [True] * 4 + [False] * len(odd)
    assert found.sources[0].broken == len(odd)
    said = [str(document.error) for document in found.documents[4:]]
    assert all("leaves its folder" in text for text in said[:5])
    assert "has no image in it" in said[5]
    assert "another image" in said[6]
    assert "label 'maybe'" in said[7]
    assert all("no readable 'text'" in text for text in said[8:])
    assert not (tmp_path / "etc").exists()
    assert all(len(path.name) < 60 for path in found.images.rglob("*"))


def test_what_is_refused(tmp_path):
    twice = rows("random") + rows("random")
    parquet(tmp_path / "twice" / "Full" / "random-00000-of-00001.parquet", twice)
    with pytest.raises(DataError, match=r"lmms-lab/POPE holds '1' of random twice"):
        load(tmp_path / "twice", splits=["random"])
    with pytest.raises(DataError, match="no questions of popular"):
        load(parquet(tmp_path / "part" / "data" / "test-00000-of-00001.parquet", rows("random")).parents[1])
    bare = [{"question": "?"}]
    with pytest.raises(DataError, match=r"no column 'question_id'.*It has question"):
        load(parquet(tmp_path / "bare" / "data" / "test-00000-of-00001.parquet", bare).parents[1])
    (tmp_path / "torn" / "data").mkdir(parents=True)
    (tmp_path / "torn" / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "torn")
    with pytest.raises(ConfigError, match="no task"):
        load(default(tmp_path / "d"), dataset="cocoa")


def test_the_commit_of_a_copy(tmp_path, monkeypatch):
    copy = default(tmp_path / "copy")
    assert load(copy).revision is None
    with pytest.raises(DataError, match=r"of no known commit.*hf download --repo-type dataset --revision aaaa"):
        load(copy, revision=COMMIT)
    noted(copy)
    assert load(copy, revision=COMMIT).revision == COMMIT
    with pytest.raises(DataError, match="is of commit aaaa"):
        load(copy, revision="b" * 40)


def test_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(DataError, match=r"lmms-lab/POPE cannot be had from the hub.*task\.data=FOLDER"):
        load("hub")
    files = {f"Full/{split}-00000-of-00001.parquet": b"" for split in SPLITS}
    for split in SPLITS:
        files[f"Full/{split}-00000-of-00001.parquet"] = parquet(tmp_path / "x.parquet", rows(split)).read_bytes()
    cached(tmp_path, "lmms-lab/POPE", files)
    found = load("hub")
    assert found.revision == COMMIT
    assert len(found.documents) == 12
