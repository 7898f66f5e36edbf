"""Image files of every odd kind: a picture, or an error that costs its own samples and no others."""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sightline.eval.config import compose_settings
from sightline.eval.errors import ImageError
from sightline.eval.images import MAX_RATIO, locate, open_image
from sightline.eval.report import write_report
from sightline.eval.runner import run
from sightline.eval.score import score_run

SIZE = (12, 8)
ORIENTATION = 0x0112


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that says it is so large and holds a thousand lines of it."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    pixels = (b"IDAT", zlib.compress(b"\0" * (width // 8 + 2) * min(height, 1000)))
    parts = (
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in (head, *chunks, pixels, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def noise(mode: str = "RGB") -> Image.Image:
    return Image.effect_noise(SIZE, 90).convert(mode)


def half(file: Path, **how) -> None:
    noise().resize((96, 64)).save(file, **how)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


BAD = {
    "bomb.png": lambda file: file.write_bytes(png(60_000, 60_000)),
    "large.png": lambda file: file.write_bytes(png(11_000, 11_000)),
    "text_bomb.png": lambda file: file.write_bytes(png(4, 4, (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 70_000_000)))),
    "no_pixels.png": lambda file: file.write_bytes(png(0, 0)),
    "half.png": lambda file: half(file),
    "half.jpg": lambda file: half(file),
    "half.webp": lambda file: half(file, lossless=True),
    "strip.png": lambda file: Image.new("RGB", (20_000, 1)).save(file),
    "tall.png": lambda file: Image.new("RGB", (1, MAX_RATIO + 1)).save(file),
    "whole_numbers.tif": lambda file: Image.new("I", SIZE, 70_000).save(file),
    "fractions.tif": lambda file: Image.new("F", SIZE, 0.5).save(file),
    "empty.png": lambda file: file.write_bytes(b""),
    "text.png": lambda file: file.write_text("a dog"),
    "markup.png": lambda file: file.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "script.png": lambda file: file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "folder.png": lambda file: file.mkdir(),
    "pipe.png": os.mkfifo,
    "loop.png": lambda file: file.symlink_to(file.name),
    "out.png": lambda file: file.symlink_to("/etc/hostname"),
    "missing.png": lambda file: None,
    "x" * 300 + ".png": lambda file: None,
    "lone\ud800.png": lambda file: None,
    "../up.png": lambda file: None,
}
"""Name -> makes a file that no model can be shown."""


@pytest.mark.parametrize("name", BAD)
def test_an_image_that_cannot_be_shown_says_why(name, tmp_path):
    BAD[name](tmp_path / name)
    with pytest.raises(ImageError) as caught:
        open_image(locate(tmp_path, name))
    assert caught.value.problem.startswith("image ")


def turned(file: Path, orientation: int) -> Image.Image:
    """Saves a picture with a blue corner and a note on how it is to be seen; gives it as it is stored."""
    image = Image.new("RGB", SIZE, "red")
    image.putpixel((0, 0), (0, 0, 255))
    note = Image.Exif()
    note[ORIENTATION] = orientation
    image.save(file, exif=note)
    return image


@pytest.mark.parametrize(
    ("orientation", "size", "corner"),
    [(1, (12, 8), (0, 0)), (3, (12, 8), (11, 7)), (6, (8, 12), (7, 0)), (8, (8, 12), (0, 11)), (99, (12, 8), (0, 0))],
)
def test_an_image_is_seen_as_its_camera_held_it(orientation, size, corner, tmp_path):
    turned(tmp_path / "a.png", orientation)
    seen = open_image(tmp_path / "a.png")
    assert seen.size == size
    assert seen.getpixel(corner) == (0, 0, 255)
    assert np.asarray(seen)[..., 2].sum() == 255


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_keep_their_greys(name, tmp_path):
    levels = np.linspace(0, 65_535, 96).reshape(8, 12).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / name)
    seen = np.asarray(open_image(tmp_path / name))
    assert (seen == np.rint(levels / 257).astype(np.uint8)[..., None]).all()


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_of_an_animation_the_first_frame_is_seen(name, tmp_path):
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue", "lime")]
    how = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **how)
    seen = open_image(tmp_path / name)
    assert {pixel for _, pixel in seen.getcolors()} == {(255, 0, 0)}


def test_colours_are_brought_to_red_green_and_blue(tmp_path):
    Image.new("CMYK", SIZE, (0, 255, 255, 0)).save(tmp_path / "ink.jpg", quality=95)
    red, green, blue = open_image(tmp_path / "ink.jpg").getpixel((5, 5))
    assert red > 240
    assert max(green, blue) < 15
    palette = Image.new("P", SIZE)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "clear.png", transparency=0)
    assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 0, 0)
    Image.new("LA", SIZE, (200, 0)).save(tmp_path / "hidden.png")
    assert open_image(tmp_path / "hidden.png").getpixel((0, 0)) == (200, 200, 200)


def test_a_single_pixel_is_a_picture(tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").size == (1, 1)


def test_a_run_goes_on_past_bad_images(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name, make in BAD.items():
        make(images / name)
    good = {
        "dot.png": Image.new("RGB", (1, 1)),
        "ink.jpg": noise("CMYK"),
        "deep.png": noise("I;16"),
        "grey.png": noise("L"),
    }
    for name, image in good.items():
        image.save(images / name)
    turned(images / "turned.png", 6)
    names = [*good, "turned.png", *(name for name in BAD if "\ud800" not in name)]
    rows = [
        {"question_id": number, "image": name, "text": "Is there a star in the image?", "label": "yes"}
        for number, name in enumerate(names)
    ]
    (tmp_path / "coco_pope_random.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = [f"task.data={tmp_path}", f"task.images={images}", f"run.dir={tmp_path / 'run'}"]
    small = ["generation.max_new_tokens=2", "run.cost_requests=0"]
    asked, tree = compose_settings(
        ["model=tiny-llava", "model.device=cpu", "decoder=vcd", "task=pope", "task.splits=[random]", *where, *small]
    )
    outcome = run(asked, tree, command=["sightline", "run"])
    assert (outcome.n_samples, outcome.n_error) == (len(names), len(names) - len(good) - 1)
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples" / "pope.jsonl").read_text().splitlines()]
    told = {
        row["image"]: line for row, line in zip(rows, sorted(lines, key=lambda line: int(line["doc_id"])), strict=True)
    }
    assert {name for name, line in told.items() if line["status"] == "ok"} == {*good, "turned.png"}
    assert all(line["error"].startswith("ImageError: image ") for line in told.values() if line["status"] == "error")
    score_run(tmp_path / "run")
    page = write_report(tmp_path / "run").markdown.read_text()
    assert f"{outcome.n_error}" in page
