"""CG-VLM's threshold: what is measured, what the file holds, and when it is refused."""

import json

import pytest
import sightline
import torch
from letters import asked, llava_processor, noise_image
from sightline.decoders.calibration import errors, fingerprint, threshold
from sightline.models import adapter_for

CGVLM = sightline.CGVLM
TEXTS = ["Is it?", "Is there a star in it?", "Why?"]


@pytest.fixture(scope="module")
def adapter(llava):
    return adapter_for(llava)


@pytest.fixture(scope="module")
def processor():
    return llava_processor()


@pytest.fixture(scope="module")
def batches(processor):
    rows = [asked(processor, [[noise_image(seed)]], [text]) for seed, text in enumerate(TEXTS)]
    return rows, [asked(processor, [[noise_image(seed)] for seed in range(3)], TEXTS)]


@pytest.fixture(scope="module")
def found(adapter, processor, batches):
    return threshold.measure(adapter, CGVLM(top_k_tokens=9), batches[0], processor, percentile=80, max_new_tokens=6)


def test_what_is_measured_is_what_the_gate_sees(llava, adapter, processor, batches):
    """Beside a gate that stays shut, the decoder's own numbers at each token up to the end token."""
    decoder = CGVLM(top_k_tokens=9, k=1e9)
    for inputs in batches[0]:
        heard = threshold.listen(adapter, decoder, inputs, processor, 6).tolist()
        plain = llava.generate(**inputs, max_new_tokens=6, do_sample=False)
        assert len(heard) == plain.shape[1] - inputs["input_ids"].shape[1]
        for value, k in [(value, value + shift) for value in heard[:1] for shift in (1e-9, -1e-9)]:
            strategy = CGVLM(top_k_tokens=9, k=k)
            with sightline.attach(llava, strategy, inputs, processor=processor) as attached:
                llava.generate(**inputs, logits_processor=[attached], max_new_tokens=1, do_sample=False)
            assert attached.gates[0].tolist() == [value > k]


def test_batches_change_nothing_and_ended_rows_do_not_count(llava, adapter, processor, batches, found):
    together = threshold.measure(adapter, CGVLM(top_k_tokens=9), batches[1], processor, percentile=80, max_new_tokens=6)
    assert (together.k, together.tokens) == (pytest.approx(found.k), found.tokens)
    lengths = [len(threshold.listen(adapter, CGVLM(), inputs, processor, 6)) for inputs in batches[0]]
    assert min(lengths) < 6
    assert sum(lengths) == found.tokens


def test_the_threshold_is_a_percentile(adapter, processor, batches, found):
    values = sorted(
        torch.cat([threshold.listen(adapter, CGVLM(top_k_tokens=9), inputs, processor, 6) for inputs in batches[0]])
    )
    assert found.quantiles["0"] == pytest.approx(float(values[0]), rel=1e-5)
    assert found.quantiles["100"] == pytest.approx(float(values[-1]), rel=1e-5)
    assert found.mean == pytest.approx(float(sum(values) / len(values)), rel=1e-5)
    assert abs(sum(value > found.k for value in values) / len(values) - 0.2) <= 1 / len(values)
    with pytest.raises(errors.CalibrationFailed, match="no token"):
        threshold.measure(adapter, CGVLM(), [], processor)


def test_a_checkpoint_s_own_is_found_and_a_number_wins(adapter, found, tmp_path, monkeypatch):
    used = CGVLM(top_k_tokens=9)
    assert used.level(adapter) == 1.0
    monkeypatch.setattr(adapter.model.config, "_name_or_path", str(tmp_path))
    assert used.level(adapter) == 1.0
    found.save(tmp_path / threshold.FILE)
    assert used.level(adapter) == found.k
    assert used.calibration(adapter) == f"k={found.k!r}"
    assert CGVLM(top_k_tokens=9, k=3).level(adapter) == 3
    assert CGVLM(top_k_tokens=9, k=3).calibration(adapter) is None
    assert CGVLM(gating="always").calibration(adapter) is None
    assert threshold.load(tmp_path / threshold.FILE) == found
    elsewhere = found.save(tmp_path / "made" / "here.json")
    monkeypatch.setattr(adapter.model.config, "_name_or_path", "")
    assert CGVLM(top_k_tokens=9, threshold=str(elsewhere)).level(adapter) == found.k


def test_a_threshold_serves_its_model_and_its_sensor_alone(adapter, processor, batches, found, tmp_path):
    held = json.loads(found.save(tmp_path / "k.json").read_text())
    assert held["fingerprint"] == fingerprint(adapter)
    source = str(tmp_path / "k.json")
    for fields in ({"absent_image": "drop", "top_k_tokens": 9}, {"top_k_tokens": 50}):
        with pytest.raises(errors.CalibrationMismatch, match=r"measured with (absent_image=noise|top_k_tokens=9)"):
            sightline.attach(adapter.model, CGVLM(threshold=source, **fields), batches[0][0], processor=processor)
    (tmp_path / "k.json").write_text(json.dumps(held | {"fingerprint": "0"}))
    with pytest.raises(errors.CalibrationMismatch, match="another model"):
        threshold.find(source, adapter)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema must be 1"), ({"what": "image"}, "what 'threshold'"), ({"k": "1"}, "a finite number"),
        ({"k": float("inf")}, "a finite number"), ({"sensor": {}}, "sensor must have"), ({"mean": None}, "'mean'"),
    ],
)  # fmt: skip
def test_damaged_files_say_so(found, tmp_path, change, said):
    path = found.save(tmp_path / "k.json")
    held = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in held.items() if value is not None}))
    with pytest.raises(errors.CalibrationInvalid, match=said):
        threshold.load(path)


def test_no_file_says_how_to_make_one(tmp_path):
    with pytest.raises(errors.CalibrationMissing, match="sightline calibrate"):
        threshold.load(tmp_path / "none.json")
    (tmp_path / "odd.json").write_text("[1, 2")
    with pytest.raises(errors.CalibrationInvalid, match="no calibration file"):
        threshold.load(tmp_path / "odd.json")
