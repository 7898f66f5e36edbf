"""The playground: answers stream as the model speaks, equal those of `generate`, and are harmless; the page where
gradio is installed (`pip install sightline[play]`)."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise

import pytest
import sightline
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from sightline.eval.cli import main
from sightline.eval.errors import UsageError
from sightline.eval.play import command, stage, view
from sightline.eval.scenes import draw_scene

QUESTION = "Please describe this image in detail."
HOSTILE = (
    "<img src=x onerror='window.harmed=1'><script>window.harmed=1</script> {{7*7}} ${window.harmed=1} \u202e\x00 end"
)
CHROMIUM = os.environ.get("SIGHTLINE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
GRADIO = importlib.util.find_spec("gradio") is not None


def needs_page(test):
    """Skips a test where the page cannot be served or opened."""
    reason = "needs Chromium, and gradio (pip install sightline[play])"
    return pytest.mark.skipif(CHROMIUM is None or not GRADIO, reason=reason)(test)


@pytest.fixture(scope="module")
def tiny():
    return sightline.load("tiny-llava")


@pytest.fixture(scope="module")
def asked():
    return stage.Asked(QUESTION, draw_scene("test", 3).image(), max_new_tokens=16)


def test_answers_grow_and_end_as_generate_has_them(tiny, asked):
    strategies = [sightline.Greedy(), sightline.VCD(alpha=3.0, noise_step=900)]
    seen = list(stage.perform(tiny, strategies, asked))
    inputs = tiny.processor(images=asked.image, text=f"USER: <image>\n{QUESTION} ASSISTANT:", return_tensors="pt")
    for place, strategy in enumerate(strategies):
        grown = [each[place].text for each in seen if each[place].state == "speaking"]
        ids = sightline.generate(tiny.model, strategy, inputs, max_new_tokens=16, do_sample=False)
        whole = tiny.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        last = seen[-1][place]
        assert last.state == "done"
        assert last.text == whole == last.told.answer
        assert len(grown) >= len(last.told.steps), "it was told at every token"
        assert all(longer.startswith(shorter) for shorter, longer in pairwise(grown))
    assert seen[-1][0].text != seen[-1][1].text


def test_a_decoder_that_fails_ends_its_own_answer_alone(tiny, asked):
    said = list(stage.perform(tiny, [sightline.CAD(), sightline.Greedy()], asked))[-1]
    assert [each.state for each in said] == ["failed", "done"]
    assert said[0].problem
    assert said[1].text


def test_who_stops_listening_stops_the_model(tiny, asked):
    talk = stage.perform(tiny, [sightline.Greedy()], stage.Asked(QUESTION, asked.image, max_new_tokens=1000))
    for _ in range(4):
        next(talk)
    talk.close()
    again = list(stage.perform(tiny, [sightline.Greedy()], asked))[-1][0]
    assert again.state == "done", "the model is free again"


def test_parameters_are_read_line_by_line():
    vcd, greedy = stage.chosen(["vcd", "greedy"], "vcd.alpha=2\n\nvcd.noise_step=300")
    assert (vcd.alpha, vcd.noise_step, greedy.key) == (2.0, 300, "greedy")
    for keys, text in (([], ""), (["vcd"], "alpha=2"), (["vcd"], "decore.alpha=2"), (["vcd"], "vcd.alpha")):
        with pytest.raises(UsageError):
            stage.chosen(keys, text)
    with pytest.raises(sightline.SightlineError, match="sharpness"):
        stage.chosen(["vcd"], "vcd.sharpness=2")


def test_models_are_offered_what_they_can_use(tiny):
    assert "cad" not in stage.fitting(tiny)
    assert stage.fitting(tiny)[0] == "greedy"
    assert "vcd" not in stage.fitting(sightline.load("tiny-llama"))


def test_answers_are_text_whatever_they_hold():
    said = stage.Said("vcd", "VCD", HOSTILE, "done"), stage.Said("greedy", HOSTILE, state="failed", problem=HOSTILE)
    html = view.answers(said) + view.problem(HOSTILE)
    assert "<script" not in html
    assert "<img" not in html
    assert not set("{}$`\x00\u202e") & set(html)
    assert html.count("&lt;script&gt;") == 5, "text, two titles, two problems"


def test_it_listens_on_this_machine_alone(monkeypatch, capsys):
    heard = {}

    class Page:
        def block_thread(self):
            heard["waited"] = True

    class App:
        House = staticmethod(dict)

        @staticmethod
        def launch(house, first, host, port):
            heard.update(first=first, host=host, port=port, models=list(house))
            return f"http://{host}:1/", Page()

    monkeypatch.setattr(command, "_app", lambda: App)
    assert main(["play"]) == 0
    assert heard["host"] == "127.0.0.1"
    assert heard["waited"]
    assert heard["first"] == heard["models"][0] == "tiny-llava"
    assert capsys.readouterr().err == ""
    assert main(["play", "--host", "0.0.0.0", "model=tiny-llama"]) == 0
    assert heard["first"] == "tiny-llama"
    assert "no password" in capsys.readouterr().err
    assert main(["play", "decoder=vcd"]) == 2


def test_without_gradio_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "sightline.eval.play.app", raising=False)
    assert main(["play"]) == 2
    assert 'pip install "sightline[play]"' in capsys.readouterr().err


@pytest.fixture
def address(tmp_path):
    """A playground that is served as a user serves it, and stopped with Ctrl+C."""
    where = {"GRADIO_TEMP_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "sightline.eval.cli", "play"]
    with subprocess.Popen(command, env=os.environ | where, stdout=subprocess.PIPE, text=True) as served:
        yield served.stdout.readline().strip()
        served.send_signal(signal.SIGINT)
        served.stdout.read()
        assert served.wait(30) == 0


@needs_page
def test_a_picture_that_is_put_in_is_answered_word_by_word(address, tiny, tmp_path):
    image = draw_scene("test", 7).image()
    image.save(tmp_path / "mine.png")
    inputs = tiny.processor(images=image, text=f"USER: <image>\n{QUESTION} ASSISTANT:", return_tensors="pt")
    ids = tiny.model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = tiny.processor.decode(ids, skip_special_tokens=True).strip()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = started.new_page()
        page.goto(address)
        shown = page.get_by_alt_text("The image that is asked about")
        before = shown.get_attribute("src")
        page.set_input_files("input[type=file]", tmp_path / "mine.png")
        page.wait_for_function("([image, before]) => image.src !== before", arg=[shown.element_handle(), before])
        page.wait_for_load_state("networkidle")
        page.evaluate("""() => {
            window.seen = new Set();
            const look = () => window.seen.add(document.querySelector("#answers .sl-said")?.textContent);
            new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
        }""")
        page.get_by_role("button", name="Answer").click()
        page.wait_for_selector("text=All answers are there", timeout=60_000)
        seen = [text for text in page.evaluate("[...window.seen]") if text]
        assert page.locator("#answers .sl-said").first.inner_text() == expected
        started.close()
    assert len(seen) > 3, "it streams"
    assert all(expected.startswith(text.strip()) for text in seen)


@needs_page
def test_the_page_answers_in_a_browser(address):
    assert address.startswith("http://127.0.0.1:")
    said, elsewhere = [], []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in ((1440, "light"), (390, "dark")):
            page = started.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: elsewhere.append(request.url))
            page.goto(address)
            page.get_by_label("Question").fill(HOSTILE.replace("\x00", ""))
            page.get_by_role("button", name="Answer").click()
            page.wait_for_selector("text=All answers are there", timeout=60_000)
            shown = page.inner_text("#answers")
            assert "Greedy" in shown
            assert "VCD" in shown
            assert page.evaluate("window.harmed") is None
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.locator("#answers summary").nth(1).click()
            assert page.locator("#answers table").first.is_visible()
            found = Axe().run(page).response["violations"]
            assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
            page.close()
        started.close()
    assert said == []
    local = re.compile(rf"^({re.escape(address)}|data:|blob:)")
    assert [url for url in elsewhere if not local.match(url)] == []
