"""The world of scenes: frozen, reproducible, and with the statistics it promises."""

import numpy as np
import pytest
from sightline.eval.scenes import KINDS, PAIRS, PARTNER, PLURAL, draw_scene, world, world_hash


def test_the_world_is_the_one_that_models_were_trained_in():
    """Another hash is another world: give it a new version and train the small models again."""
    assert world.VERSION == "1"
    assert world_hash() == "ab24ac95a4c54150"


def test_kinds_are_distinct_words_with_partners_and_shapes():
    assert len(KINDS) == len(set(KINDS)) == 12
    assert len({PLURAL[kind] for kind in KINDS} | set(KINDS)) == 24
    assert all(PARTNER[PARTNER[kind]] == kind != PARTNER[kind] for kind in KINDS)
    shapes = [world.SHAPES[kind] for kind in KINDS]
    for i, one in enumerate(shapes):
        for other in shapes[:i]:
            assert (one != other).sum() >= 24


def test_the_same_name_gives_the_same_scene_and_pixels():
    once, again = draw_scene("test", 7, pairs="broken"), draw_scene("test", 7, pairs="broken")
    assert once == again
    assert np.array_equal(once.pixels(), again.pixels())
    assert once != draw_scene("test", 8, pairs="broken")
    assert once.objects != draw_scene("test", 7, pairs="broken", seed=1).objects


def test_splits_share_no_scene():
    seen = {}
    for split in ("train", "validation", "test"):
        for pairs in ("intact", "broken") if split != "train" else ("intact",):
            for index in range(100):
                scene = draw_scene(split, index, pairs=pairs)
                assert seen.setdefault(scene.name, scene) is scene
    assert len({scene.pixels().tobytes() for scene in list(seen.values())[::5]}) == len(list(seen.values())[::5])
    assert len({scene.objects for scene in seen.values()}) == len(seen)


@pytest.mark.parametrize(("split", "pairs", "chance"), [("train", "intact", 0.9), ("test", "broken", 0.25)])
def test_partners_are_beside_each_other_as_often_as_promised(split, pairs, chance):
    scenes = [draw_scene(split, index, pairs=pairs) for index in range(1500)]
    together = [PARTNER[kind] in scene.kinds for scene in scenes for kind in scene.kinds]
    assert np.mean(together) == pytest.approx(chance, abs=0.03)
    for place in (0, 1):
        of_one = [
            PARTNER[kind] in s.kinds for s in scenes for kind in s.kinds if kind in {pair[place] for pair in PAIRS}
        ]
        assert np.mean(of_one) == pytest.approx(chance, abs=0.04)


def test_some_kinds_are_more_frequent_than_others():
    scenes = [draw_scene("train", index) for index in range(1000)]
    shares = [np.mean([pair[0] in scene.kinds for scene in scenes]) for pair in PAIRS]
    assert shares[0] > 0.5 > 0.3 > shares[-1] > 0.15
    assert shares[0] > shares[1] > shares[3]


@pytest.mark.parametrize("pairs", ["intact", "broken"])
def test_scenes_keep_to_their_limits(pairs):
    for index in range(200):
        scene = draw_scene("validation", index, pairs=pairs)
        assert 3 <= len(scene.kinds) <= 6
        assert sum(scene.counts.values()) == len(scene.objects) <= world.MAX_OBJECTS
        assert all(1 <= count <= 3 for count in scene.counts.values())
        cells = [(item.row, item.col) for item in scene.objects]
        assert cells == sorted(set(cells))
        assert all(len({item.colour for item in scene.of(kind)}) == 1 for kind in scene.kinds)
        assert all(20 <= item.contrast <= 100 for item in scene.objects)
        assert set(scene.kinds) | set(scene.absent) == set(KINDS)
        assert all(PARTNER[kind] in scene.kinds for kind in scene.missing_partners)


def test_pixels_show_the_facts():
    scene = draw_scene("test", 3, pairs="broken")
    clean = scene.pixels(noise=False)
    cells = {(item.row, item.col): item for item in scene.objects}
    for row in range(4):
        for col in range(4):
            cell = clean[row * 16 : row * 16 + 16, col * 16 : col * 16 + 16]
            drawn = (cell != scene.background).any(axis=-1)
            if (row, col) not in cells:
                assert not drawn.any()
                continue
            item = cells[row, col]
            assert np.array_equal(drawn[1:15, 1:15], world.SHAPES[item.kind])
            colour, full = cell[drawn][0].astype(int), np.array(world.COLOURS[item.colour])
            expected = scene.background + item.contrast * (full - scene.background) / 100
            assert np.abs(colour - expected).max() <= 1


def test_noise_is_even_and_as_strong_as_stated():
    scene = draw_scene("test", 3, pairs="broken")
    empty = (scene.pixels(noise=False) == scene.background).all(axis=-1)
    noise = scene.pixels()[empty].astype(float) - scene.background
    assert abs(noise.mean()) < 6
    assert noise.std() == pytest.approx(np.hypot(world.FINE_NOISE, world.COARSE_NOISE), rel=0.12)


def test_image_is_small_rgb():
    image = draw_scene("train", 0).image()
    assert (image.size, image.mode) == ((64, 64), "RGB")


@pytest.mark.parametrize(
    ("split", "index", "pairs"),
    [("dev", 0, "intact"), ("train", -1, "intact"), ("train", 0, "broken"), ("test", 0, "odd")],
)
def test_scenes_that_do_not_exist_are_refused(split, index, pairs):
    with pytest.raises(ValueError, match=r"pairs intact|no scene"):
        draw_scene(split, index, pairs=pairs)
