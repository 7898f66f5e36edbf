"""Makes the pictures of the pages in docs/images/: report, gallery, explain and play.

    python tests/screenshots.py runs/full docs/images

The folder holds a `report.html` and a `gallery.html` with traces (`sightline leaderboard full`, `sightline gallery
runs/full`). Chromium has to be installed; the playground's picture is made where gradio is.
"""

from __future__ import annotations

import importlib.util
import io
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sightline
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from sightline.eval.scenes import draw_scene

WIDTH, COLOURS, LARGEST = 1280, 192, 200_000
QUESTION = "Please describe this image in detail."


def main(arguments: Sequence[str]) -> None:
    """Write the pictures."""
    folder, out = map(Path, arguments)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        report(browser, folder, out / "report.png")
        gallery(browser, folder, out / "gallery.png")
        explain(browser, out / "explain.png")
        if importlib.util.find_spec("gradio"):
            play(browser, out / "play.png")


def report(browser: Browser, folder: Path, file: Path) -> None:
    """The overview: which decoder helps on which task, and gain against cost."""
    with opened(browser, (folder / "report.html").resolve().as_uri()) as page:
        page.evaluate("document.querySelector('.panels, main').scrollIntoView()")
        keep(page, file, ".panels" if page.locator(".panels").count() else "main > section")


def gallery(browser: Browser, folder: Path, file: Path) -> None:
    """The first sample of captions, with the reasons of the second answer open."""
    with opened(browser, (folder / "gallery.html").resolve().as_uri()) as page:
        page.evaluate(
            """() => {
                const select = document.getElementById("section");
                select.value = [...select.options].find((each) => /CHAIR/.test(each.text))?.value ?? 0;
                select.dispatchEvent(new Event("change"));
            }"""
        )
        page.click("#filters button[value=fixed]")
        card = page.locator("article").first
        card.get_by_role("button", name="Why these words").nth(1).click()
        card.locator(".tokens button.changed").first.click()
        keep(page, file, "article", most=820)


def explain(browser: Browser, file: Path) -> None:
    """The page of one explanation, down to the first rows of its table."""
    tiny, image = sightline.load("tiny-llava"), draw_scene("test", 3).image()
    inputs = tiny.processor(images=image, text=f"USER: <image>\n{QUESTION} ASSISTANT:", return_tensors="pt")
    told = sightline.explain(
        tiny.model, sightline.VCD(alpha=3.0, noise_step=900), inputs, processor=tiny.processor, image=image,
        name="tiny-llava", max_new_tokens=48,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        with opened(browser, told.save(Path(folder) / "explain.html").as_uri()) as page:
            page.locator(".tokens button.changed").first.click()
            keep(page, file, "body", most=900)


def play(browser: Browser, file: Path) -> None:
    """The playground with two answers, one of them with its picture open."""
    command = [sys.executable, "-u", "-m", "sightline.eval.cli", "play"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        try:
            with opened(browser, served.stdout.readline().strip()) as page:
                page.get_by_role("button", name="More choices").click()
                page.get_by_label("Parameters").fill("vcd.alpha=3\nvcd.noise_step=900")
                page.get_by_role("button", name="More choices").click()
                page.get_by_role("button", name="Answer").click()
                page.wait_for_selector("text=All answers are there", timeout=120_000)
                page.locator("#answers details").nth(2).locator("summary").click()
                keep(page, file, "body", most=1400)
        finally:
            served.send_signal(signal.SIGINT)
            served.stdout.read()


@contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """A page in its light colours."""
    context = browser.new_context(viewport={"width": WIDTH, "height": 1000}, color_scheme="light")
    page = context.new_page()
    page.goto(address)
    page.wait_for_timeout(1500)
    yield page
    context.close()


def keep(page: Page, file: Path, selector: str, most: int = 10_000) -> None:
    """Save a part of the page, at most so high, with few colours."""
    page.wait_for_timeout(400)
    shot = Image.open(io.BytesIO(page.locator(selector).first.screenshot())).convert("RGB")
    shot = shot.crop((0, 0, shot.width, min(shot.height, most)))
    shot.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    size = file.stat().st_size
    sys.stdout.write(f"{file}: {shot.width} x {shot.height}, {size:,} bytes\n")
    if size > LARGEST:
        raise SystemExit(f"{file} is larger than {LARGEST:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
