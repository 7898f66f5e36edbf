"""Makes the README's picture: the top of a report, from its headline to the first rows of its first leaderboard; of
several tasks the findings and the chart of the first one, without the prose between them.

    python tests/picture.py runs/demo docs/images/leaderboard.png
    python tests/picture.py runs/vcd docs/images/vcd.png --rows 5 --width 1200

DIR is a folder with a `report.html` (`sightline report DIR` writes it). Chromium or Chrome has to be installed; where
it is not, nothing is written and the exit code is 2. The page is cut by its marks, so that the picture ends with a
whole row whatever the report says; laid out wide enough for the whole leaderboard; and saved with 128 colours.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
LAYOUT, HEIGHT = 1440, 3000
"""The window in pixels of the page, at which a leaderboard fits; the picture is scaled to its width."""
MARGIN = 32
COLOURS = 128
_BOARD = re.compile(r'<table class="board.*?</table>', re.DOTALL)
_ROW = re.compile(r"<tr class=\"(?:strategy|control|reference)\">.*?</tr>", re.DOTALL)
_OVERVIEW = '<nav class="overview"'
_GAINS = re.compile(r'<div class="scroll helps".*?</table>\s*</div>', re.DOTALL)
_PROSE = re.compile(r'<p class="(?:lead|prose choices|prose|claim|data)">.*?</p>|<dl class="facts">.*?</dl>', re.DOTALL)
_SCRIPT = re.compile(r"<script>.*?</script>", re.DOTALL)


def top(page: str, rows: int) -> str:
    """The page up to its first leaderboard, of which the first rows are left; of several tasks findings and gains.

    Args:
        page: a `report.html`.
        rows: how many rows of the leaderboard stay.
    """
    gains = _GAINS.search(page)
    if _OVERVIEW in page and gains is not None:
        return _SCRIPT.sub("", _PROSE.sub("", page[: gains.end()])) + "</section></main></body></html>"
    board = _BOARD.search(page)
    if board is None:
        raise SystemExit("picture: this report has no leaderboard")
    found = list(_ROW.finditer(board[0]))
    end = found[min(rows, len(found)) - 1].end() if found else len(board[0])
    kept = page[: board.start()] + board[0][:end]
    return _SCRIPT.sub("", kept) + "</tbody></table></div></section></main></body></html>"


def shoot(browser: str, page: str, out: Path, width: int) -> None:
    """A picture of a page, cut below the last thing on it."""
    with tempfile.TemporaryDirectory() as place:
        html, png = Path(place) / "top.html", Path(place) / "top.png"
        html.write_text(page, encoding="utf-8")
        size = (f"--window-size={LAYOUT},{HEIGHT}", f"--force-device-scale-factor={width / LAYOUT}")
        command = [browser, *FLAGS, f"--user-data-dir={place}/profile", f"--screenshot={png}", *size, html.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        image = Image.open(png).convert("RGB")
        paper = Image.new("RGB", image.size, image.getpixel((image.width - 1, image.height - 1)))
        box = ImageChops.difference(image, paper).getbbox() or (0, 0, *image.size)
        bottom = min(image.height, box[3] + MARGIN)
        out.parent.mkdir(parents=True, exist_ok=True)
        image.crop((0, 0, image.width, bottom)).quantize(COLOURS).save(out, optimize=True)


def main(arguments: Sequence[str]) -> int:
    """Read the command line and make the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dir", type=Path, metavar="DIR", help="a folder with report.html")
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("--rows", type=int, default=4, help="rows of the leaderboard; default: %(default)s")
    parser.add_argument("--width", type=int, default=1200, help="pixels; default: %(default)s")
    given = parser.parse_args(arguments)
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.stderr.write("picture: no Chromium or Chrome was found\n")
        return 2
    shoot(browser, top((given.dir / "report.html").read_text(encoding="utf-8"), given.rows), given.out, given.width)
    sys.stdout.write(f"{given.out}: {given.out.stat().st_size // 1024} KB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
