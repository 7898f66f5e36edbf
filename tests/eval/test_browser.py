"""Report, gallery and explanation in a real browser: no complaint, overflow or barrier; hostile answers harmless.

Needs Chromium (Debian: apt-get install chromium) or the name of one in SIGHTLINE_CHROMIUM.
"""

import json
import os
import shutil

import pytest
import sightline
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from scored_runs import question, write_run, yes_no_run
from sightline.eval.config import compose_settings
from sightline.eval.gallery.write import write_gallery
from sightline.eval.report import write_report
from sightline.eval.runner import run
from sightline.eval.scenes import draw_scene
from sightline.eval.score import score_run

CHROMIUM = os.environ.get("SIGHTLINE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
HOSTILE = {
    "markup": "<img src=x onerror='window.harmed=1'><script>window.harmed=1</script></script>No & <b>bold</b>",
    "closing": '"]}</script><script>window.harmed=1</script>',
    "control": "No\x00\x07\x1b[31m red \u2028 line",
    "right to left": "\u202eon \u05d0\u05d1\u05d2 No\u202c \u0645\u0631\u062d\u0628\u0627",
    "long": "No " + "x" * 10_000,
    "braces": "{{ 7 * 7 }} ${window.harmed=1} <!--",
}
IMAGES = 500


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A board of 3,000 samples in three runs, some of whose answers are hostile."""
    made = tmp_path_factory.mktemp("board") / "runs"
    asked = [
        ("random", f"scene{image:04d}", f"Is there a thing {k} in the image?", "yes" if k % 2 else "no")
        for image in range(IMAGES)
        for k in range(6)
    ]
    for seed, (key, control, turn) in enumerate((("greedy", True, 3), ("shift", True, 5), ("vcd", False, 7))):
        answers = {}
        for place, (split, image, text, label) in enumerate(asked):
            right = place % turn != 0
            said = label if right else {"yes": "no", "no": "yes"}[label]
            odd = list(HOSTILE.values())[place] if key == "vcd" and place < len(HOSTILE) else said.capitalize()
            answers[split, image, text] = (label, odd)
        params = {"delta": -1.0} if key == "shift" else {"alpha": 1.0} if key == "vcd" else {}
        score_run(yes_no_run(made / key, key, answers, control=control, params=params, seed=seed))
    write_report(made)
    write_gallery([made], traced=0)
    write_report(made)  # now with a link to the gallery
    tiny = sightline.load("tiny-llava")
    image = draw_scene("test", 3).image()
    inputs = tiny.processor(images=image, text="USER: <image>\nDescribe the image. ASSISTANT:", return_tensors="pt")
    strategy = sightline.VCD(alpha=3.0, noise_step=900)
    told = sightline.explain(tiny.model, strategy, inputs, processor=tiny.processor, image=image, max_new_tokens=12)
    told.save(made / "explain.html")
    return made


@pytest.fixture(scope="module")
def traced(folder):
    """The name of a gallery of four captions by two decoders, two of them decoded again."""
    for choice in (["decoder=greedy"], ["decoder=vcd", "decoder.alpha=3", "decoder.noise_step=900"]):
        small = ["run.limit=4", "run.cost_requests=0", "run.progress=false"]
        where = f"run.dir={folder.parent / 'captions' / choice[0].partition('=')[2]}"
        score_run(run(*compose_settings(["task=chair_scenes", *choice, *small, where])).folder)
    write_gallery([folder.parent / "captions"], folder / "traced.html", traced=2)
    return "traced.html"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def visit(browser, folder):
    """Opens a page from disk; whatever it says on the console fails the test."""
    opened, said = [], []

    def go(name, width=1440, **context):
        held = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **context)
        opened.append(held)
        page = held.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((folder / name).as_uri())
        page.wait_for_timeout(200)
        return page

    yield go
    for context in opened:
        context.close()
    assert said == []


PAGES = ("report.html", "gallery.html", "explain.html")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_it_fits_and_has_no_barriers(visit, name, width, scheme):
    page = visit(name, width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page).response["violations"]
    serious = [
        (each["id"], each["nodes"][0]["html"][:120]) for each in found if each["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_captions_of_wide_tables_are_whole_on_a_phone(visit):
    page = visit("report.html", 390)
    held = page.evaluate("""[...document.querySelectorAll("main > section > .scroll, .helps")].map((box) => {
        const words = box.querySelector("caption span").getBoundingClientRect();
        return [box.scrollWidth > box.clientWidth, words.left >= 0 && words.right <= innerWidth];
    })""")
    assert any(wide for wide, _ in held)
    assert all(whole for _, whole in held)


def test_tables_of_the_report_sort_by_mouse_and_keyboard(visit):
    page = visit("report.html")
    column = page.locator("table.board thead button").nth(1)
    values = page.locator("table.board tbody:not(.references) tr td:nth-of-type(1)")

    def shown():
        return [float(text.split()[0].replace("\u2212", "-")) for text in values.all_inner_texts()]

    column.click()
    first = shown()
    column.focus()
    page.keyboard.press("Enter")
    assert shown() == first[::-1] != first
    assert sorted(first) in (first, first[::-1])
    assert page.locator("th[aria-sort]").count() == 1


def test_the_report_filters(visit):
    page = visit("report.html")
    rows = page.locator("table.board tbody:not(.references) tr:visible")
    everything = rows.count()
    page.fill("#filter-name", "vcd")
    assert 0 < rows.count() < everything
    assert f"{rows.count()} of" in page.inner_text("#filter-count")
    page.fill("#filter-name", "no decoder is called so")
    assert rows.count() == 0


def test_the_report_leads_to_the_gallery(visit):
    page = visit("report.html")
    page.click("text=Every sample side by side")
    page.wait_for_selector("article")
    assert "Answers side by side" in page.inner_text("h1")


def test_the_gallery_filters_and_makes_few_cards_at_a_time(visit):
    page = visit("gallery.html")
    assert 0 < page.locator("article").count() < 200, "3,000 samples are not drawn at once"
    counts = {}
    for kind in ("all", "fixed", "broken", "wrong"):
        button = page.locator(f"#filters button[value={kind}]")
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        counts[kind] = int(button.locator("span").inner_text().replace(",", ""))
        assert page.locator("article").count() == min(counts[kind], page.locator("article").count()) > 0
    assert counts["all"] == 6 * IMAGES
    page.select_option("#decoder", label="VCD")
    right = {
        (k, name): place % turn != 0
        for name, turn in (("greedy", 3), ("vcd", 7))
        for k, place in enumerate(range(3000))
    }
    fixed = sum(not right[place, "greedy"] and right[place, "vcd"] for place in range(len(HOSTILE), 3000))
    page.click("#filters button[value=fixed]")
    shown = int(page.locator("#filters button[value=fixed] span").inner_text().replace(",", ""))
    assert abs(shown - fixed) <= len(HOSTILE)
    page.fill("#search", "scene0123")
    page.wait_for_timeout(400)
    page.click("#filters button[value=all]")
    assert page.locator("article").count() == 6


def test_hostile_answers_are_harmless_and_whole(visit):
    page = visit("gallery.html")
    page.select_option("#decoder", label="VCD")
    page.fill("#search", "scene0000")
    page.wait_for_timeout(400)
    assert page.evaluate("window.harmed") is None
    assert page.locator("article img[src=x], article script, article b:not(.token)").count() == 0
    texts = page.evaluate("[...document.querySelectorAll('article bdi.words')].map((each) => each.textContent)")
    for name in ("markup", "closing", "braces"):
        assert HOSTILE[name] in texts, name
    assert any("x" * 10_000 in text for text in texts)
    assert any("\u05d0\u05d1\u05d2" in text for text in texts)
    assert not any("\x00" in text or "\x1b" in text for text in texts)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("button:has-text('Show all')").first.click()
    assert page.locator("button:has-text('Show less')").count() == 1


def test_a_decoder_with_a_hostile_name_is_harmless(visit, folder, tmp_path, browser):
    told = json.loads((folder / "vcd" / "manifest.json").read_text())
    lines = [
        json.loads(line) for line in (folder / "vcd" / "samples" / "pope_scenes.jsonl").read_text().splitlines()[6:60]
    ]
    told["model"]["name"] = "<script>window.harmed=1</script>" + "m" * 200
    made = write_run(tmp_path / "odd", told, lines)
    assert question("x") != lines[0]["prompt"]
    score_run(made)
    write_report(tmp_path)
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("window.harmed") is None
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


def test_an_explanation_answers_to_clicks(visit):
    page = visit("explain.html")
    before = page.inner_text("#trace")
    page.locator("#trace button, #trace .token").first.click()
    assert page.inner_text("#trace") != before


def test_the_gallery_says_why_and_where_the_model_looked(visit, traced):
    page = visit(traced, 390)
    assert page.locator("canvas").count() == 0
    answers = page.locator("article").first.locator(".answer")
    for place in (0, 1):
        name = ("Greedy", "VCD")[place]
        answers.nth(place).get_by_role("button", name=f"Why these words ({name})", exact=True).click()
        assert page.locator("article canvas").count() == 1
        assert page.locator(".trace").count() - page.locator("[hidden] .trace").count() == 1, "one at a time"
    tokens = answers.nth(1).locator(".tokens button")
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert tokens.nth(1).get_attribute("aria-pressed") == "true"
    assert "entropy of the base" in answers.nth(1).inner_text()
    assert "of attention on the image" in answers.nth(1).inner_text()
    assert page.evaluate("""() => {
        const canvas = document.querySelector("article canvas"), image = document.querySelector("article img");
        const [a, b] = [canvas, image].map((each) => each.getBoundingClientRect());
        const depths = new Set(canvas.getContext("2d").getImageData(0, 0, 8, 8).data.filter((_, at) => at % 4 === 3));
        return depths.size > 5 && Math.abs(a.x - b.x) < 2 && Math.abs(a.width - b.width) < 4;
    }""")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page).response["violations"]
    assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
    tokens.last.scroll_into_view_if_needed()
    page.mouse.wheel(0, 400)
    page.wait_for_timeout(200)
    box = page.locator("article canvas").bounding_box()
    assert box["y"] >= 0, "the image stays in sight while one reads"
    page.locator("label.tick", has_text="only samples with reasons").click()
    assert page.locator("article").count() == 2


@pytest.mark.parametrize("name", PAGES)
def test_it_prints_in_dark_ink_on_white(visit, name):
    page = visit(name, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("h1").is_visible()
    colour, ground = page.evaluate(
        "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    assert (colour, ground) == ("rgb(0, 0, 0)", "rgb(255, 255, 255)")


def test_paper_has_whole_answers_and_says_how_many(visit):
    page = visit("gallery.html")
    page.select_option("#decoder", label="VCD")
    page.pdf()
    assert page.locator("article").count() == 240
    assert page.text_content("#printed") == "The first 240 are printed; filter for others."
    page.fill("#search", "scene0000")
    page.wait_for_timeout(400)
    long = page.locator("p.said.long").first
    assert long.evaluate("(box) => box.scrollHeight > box.clientHeight + 1"), "folded on a screen"
    page.pdf()
    assert page.text_content("#printed") == ""
    page.emulate_media(media="print")
    assert page.locator("#printed").evaluate("(line) => getComputedStyle(line).display") == "block"
    assert long.evaluate("(box) => box.scrollHeight <= box.clientHeight + 1"), "whole on paper"
    assert not page.get_by_text("Show all").first.is_visible()


def test_a_caption_without_objects_is_not_praised(visit, traced, folder):
    made = folder.parent / "captions" / "vcd"
    file = made / "samples" / "chair_scenes.jsonl"
    kept = file.read_text()
    lines = [json.loads(line) for line in kept.splitlines()]
    file.write_text("".join(json.dumps({**line, "output": "I see."}) + "\n" for line in lines))
    score_run(made)
    write_gallery([made.parent], folder / "silent.html", traced=0)
    file.write_text(kept)
    score_run(made)
    page = visit("silent.html")
    verdicts = page.locator("article .chosen .verdict").all_text_contents()
    assert len(verdicts) == len(lines)
    assert all("names no object" in each for each in verdicts)
    assert "names no object" not in "".join(page.locator("article li:first-child .verdict").all_text_contents())
