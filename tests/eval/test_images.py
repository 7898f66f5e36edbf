"""Image files: none outside the folder, none too large, none half read."""

import os

import pytest
from PIL import Image
from sightline.eval.errors import ImageError
from sightline.eval.images import locate, open_image


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "images"
    (inside / "sub").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(inside / "sub" / "a.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    return inside


def test_names_below_the_folder(folder):
    assert locate(folder, "sub/a.png") == (folder / "sub" / "a.png").resolve()


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "sub/../../secret.png", "/etc/passwd", "..\\secret.png", "C:\\x.png", "a\0.png", "", "."],
)
def test_names_that_leave_the_folder(folder, name):
    with pytest.raises(ImageError):
        locate(folder, name)


def test_links_out_of_the_folder(folder):
    os.symlink(folder.parent / "secret.png", folder / "link.png")
    with pytest.raises(ImageError, match="link out"):
        locate(folder, "link.png")
    os.symlink(folder.parent, folder / "up")
    with pytest.raises(ImageError, match="link out"):
        locate(folder, "up/secret.png")
    os.symlink(folder / "sub" / "a.png", folder / "fine.png")
    assert locate(folder, "fine.png").name == "a.png"


def test_missing_images(folder):
    with pytest.raises(ImageError, match="not in the image folder"):
        locate(folder, "b.png")
    with pytest.raises(ImageError, match="not in the image folder"):
        locate(folder, "sub")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_every_mode_becomes_rgb(folder, mode):
    path = folder / "x.png"
    Image.new(mode, (5, 4)).save(path)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (5, 4))


def test_damaged_images(folder):
    path = folder / "noise.png"
    Image.effect_noise((64, 64), 90).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_image(path)
    path.write_bytes(b"GIF89a but not really")
    with pytest.raises(ImageError):
        open_image(path)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="not an image"):
        open_image(path)


def test_bombs_are_not_decoded(folder, monkeypatch):
    with pytest.raises(ImageError, match="8 x 8 pixels, more than 63"):
        open_image(folder / "sub" / "a.png", max_pixels=63)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ImageError, match="DecompressionBombError"):
        open_image(folder / "sub" / "a.png")
