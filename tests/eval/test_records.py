"""Sample lines and their files."""

import pytest
from sightline.eval.errors import RecordError
from sightline.eval.records import (
    SampleFiles,
    SampleRecord,
    digest,
    parse_line,
    read_part,
    read_samples,
    sample_seed,
    write_atomic,
)


def record(key="k", **changes):
    base = {
        "task": "pope", "task_version": 1, "split": "random", "doc_id": "1", "image_id": "a", "prompt": "p\u2028q",
        "label": "yes", "output": " Ja — 是\n", "n_prompt_tokens": 3, "n_output_tokens": 2, "finish": "eos",
        "margin": -0.25, "seed": 2**48 - 1, "status": "ok", "error": None,
    }  # fmt: skip
    return SampleRecord(key, **(base | changes))


def test_a_line_and_back():
    line = record().line()
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert "是" in line
    assert parse_line(line) == record()
    with pytest.raises(ValueError, match="JSON compliant"):
        record(margin=float("nan")).line()


@pytest.mark.parametrize("torn", [b'{"key": "b"', b'{"key": "b"}\n{"ke', '{"key": "é'.encode()[:-1], b""])
def test_torn_lines_are_dropped(tmp_path, torn):
    part = tmp_path / "x.part-0001.jsonl"
    part.write_bytes(record("a").line().encode() + torn)
    assert read_part(part) == [record("a")]


def test_a_whole_line_without_its_end_is_torn_too(tmp_path):
    part = tmp_path / "x.part-0001.jsonl"
    part.write_bytes(record("a").line().encode() + record("b").line().encode()[:-1])
    assert read_part(part) == [record("a")]


def test_a_finished_file_may_hold_nothing_else(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text(record("a").line() + "oops\n", encoding="utf-8")
    with pytest.raises(RecordError, match=r"x\.jsonl, line 2"):
        read_samples(file)


def test_parts_of_several_attempts(tmp_path):
    for keys in ("ab", "c"):
        files = SampleFiles(tmp_path / "samples", "pope")
        files.append([record(key) for key in keys])
        files.append([record("bad", status="error", error="x")])
        files.close()
    assert [part.name for part in files.parts()] == ["pope.part-0001.jsonl", "pope.part-0002.jsonl"]
    assert set(files.answered()) == {"a", "b", "c"}
    files.finish([record("c"), record("a")])
    assert [r.key for r in read_samples(files.final)] == ["c", "a"]
    assert files.parts() == []


def test_writing_is_atomic(tmp_path):
    path = tmp_path / "f.json"
    write_atomic(path, "one")
    write_atomic(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_digests_and_seeds():
    assert digest({"a": 1, "b": 2.0}) == digest({"b": 2.0, "a": 1}) != digest({"a": 1, "b": 2})
    seeds = {sample_seed(run, image, prompt) for run in (0, 1) for image in "ab" for prompt in "pq"}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**48 for seed in seeds)
    assert sample_seed(0, "a", "p") == sample_seed(0, "a", "p")
