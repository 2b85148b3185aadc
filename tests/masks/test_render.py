"""Images with masks drawn on them."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from inference_server.demo.scenes import make_scene
from inference_server.masks.mask import Mask
from inference_server.masks.render import _PIXELS_A_LINE, colors, overlay

GREY = np.full((80, 120, 3), 90, np.uint8)
DARK = 20
"""Pixels darker than this belong to a dark line; no tint of `GREY` is as dark."""


def lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert RGB to CIE L*a*b*."""
    scaled = rgb[None].astype(np.float32) / 255
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB)[0], np.float32)


def distances(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIE76 distances between all pairs of colours."""
    places = lab(rgb)
    return np.asarray(np.linalg.norm(places[:, None] - places[None], axis=2), np.float32)


def mask_of(*boxes: tuple[int, int, int, int], image: NDArray[np.uint8] = GREY) -> Mask:
    """Whether a pixel is in one of the boxes (x0, y0, x1, y1)."""
    plane = np.zeros(image.shape[:2], np.bool_)
    for x0, y0, x1, y1 in boxes:
        plane[y0:y1, x0:x1] = True
    return Mask.from_plane(plane)


def changed(drawn: NDArray[np.uint8], image: NDArray[np.uint8] = GREY) -> NDArray[np.bool_]:
    return np.asarray((drawn != image).any(axis=2))


def tint(index: int, opacity: float = 0.5, below: int = 90) -> NDArray[np.float64]:
    return np.asarray(colors(index + 1)[index] * opacity + below * (1 - opacity))


class TestColors:
    def test_can_be_told_apart(self) -> None:
        between = distances(colors(32))
        assert between.shape == (32, 32)
        assert between[~np.eye(32, dtype=bool)].min() > 14
        assert between[:8, :8][~np.eye(8, dtype=bool)].min() > 25

    def test_neighbours_are_far_apart(self) -> None:
        between = distances(colors(200))
        assert np.diag(between, 1)[:32].min() > 70
        assert np.diag(between, 1).min() > 50
        assert np.diag(between, 2)[:32].min() > 25

    def test_are_neither_dark_nor_pale(self) -> None:
        lightness, a, b = lab(colors(200)).T
        assert lightness.min() > 40
        assert lightness.max() < 85
        assert np.hypot(a, b).min() > 25  # greys have 0

    def test_do_not_depend_on_how_many_there_are(self) -> None:
        many = colors(1000)
        assert many.shape == (1000, 3)
        assert many.dtype == np.uint8
        for count in (0, 1, 7, 32):
            assert colors(count).tolist() == many[:count].tolist()

    def test_do_not_change_from_one_version_to_the_next(self) -> None:
        assert colors(3).tolist() == [[209, 97, 0], [1, 211, 199], [203, 54, 214]]


class TestTint:
    def test_inside_and_outside(self) -> None:
        drawn = overlay(GREY, [mask_of((20, 10, 60, 50))])
        assert drawn.shape == GREY.shape
        assert drawn.dtype == np.uint8
        inside = drawn[11:49, 21:59].reshape(-1, 3)
        assert np.abs(inside - tint(0)).max() <= 1
        outside = changed(drawn)
        outside[9:51, 19:61] = False
        assert not outside.any()

    @pytest.mark.parametrize("opacity", [0.0, 0.25, 1.0])
    def test_opacity(self, opacity: float) -> None:
        drawn = overlay(GREY, [mask_of((20, 10, 60, 50))], opacity=opacity)
        assert np.abs(drawn[11:49, 21:59].reshape(-1, 3) - tint(0, opacity)).max() <= 1
        assert changed(drawn)[10, 20:60].all()  # the outline does not depend on the opacity

    def test_each_mask_has_its_own_color(self) -> None:
        boxes = [(x, 10, x + 16, 30) for x in range(4, 110, 20)]
        drawn = overlay(GREY, [mask_of(box) for box in boxes])
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            assert np.abs(drawn[(y0 + y1) // 2, (x0 + x1) // 2] - tint(i)).max() <= 1

    def test_the_hue_below_does_not_show_through(self) -> None:
        """The tint is visible on objects of any colour."""
        image = np.empty((80, 120, 3), np.uint8)
        image[:, :60], image[:, 60:] = (230, 40, 40), (40, 40, 230)
        masks = [mask_of((10, 10, 50, 60), image=image), mask_of((70, 10, 110, 60), image=image)]
        drawn = overlay(image, masks).astype(int)
        for (x, y), color in zip(((30, 30), (90, 30)), colors(2).astype(int), strict=True):
            grey = 2 * drawn[y, x] - color
            assert np.ptp(grey) <= 3
        assert (overlay(image, masks, opacity=0.0)[12:58, 12:48] == image[12:58, 12:48]).all()

    def test_the_smaller_mask_is_on_top_whatever_the_order(self) -> None:
        small, large = mask_of((30, 30, 50, 50)), mask_of((10, 10, 100, 70))
        for masks in ([small, large], [large, small]):
            drawn = overlay(GREY, masks)
            assert np.abs(drawn[40, 40] - tint(masks.index(small))).max() <= 1
            assert np.abs(drawn[20, 20] - tint(masks.index(large))).max() <= 1

    def test_holes_are_left_alone(self) -> None:
        plane = mask_of((20, 10, 90, 70)).to_plane()
        plane[30:50, 40:70] = False
        drawn = overlay(GREY, [Mask.from_plane(plane)])
        assert not changed(drawn)[32:48, 42:68].any()
        assert changed(drawn)[12:68, 22:38].all()


class TestOutline:
    def test_a_light_line_within_a_dark_one(self) -> None:
        drawn = overlay(GREY, [mask_of((20, 10, 60, 50))]).astype(int)
        assert (drawn[9, 20:60] < DARK).all()
        assert (drawn[10:50, 60] < DARK).all()
        assert (drawn[10, 20:60] >= 190).all()
        assert (drawn[10:50, 59] >= 190).all()

    @pytest.mark.parametrize("shade", [0, 128, 255])
    @pytest.mark.parametrize("opacity", [0.0, 0.5])
    def test_is_seen_on_any_ground(self, shade: int, opacity: float) -> None:
        image = np.full((60, 60, 3), shade, np.uint8)
        drawn = overlay(image, [mask_of((20, 20, 40, 40), image=image)], opacity=opacity)
        ring = np.concatenate([drawn[19, 20:40], drawn[20, 20:40]]).astype(int)
        assert np.abs(ring - shade).max(axis=1).max() > 100

    @pytest.mark.parametrize("side", [100, 480, 960, 2000])
    def test_width_follows_the_image(self, side: int) -> None:
        image = np.full((side, side, 3), 90, np.uint8)
        quarter = side // 4
        mask = mask_of((quarter, quarter, 3 * quarter, 3 * quarter), image=image)
        column = overlay(image, [mask])[:, side // 2].astype(int)
        width = max(1, round(side / _PIXELS_A_LINE))
        assert (column.max(axis=1) < DARK).sum() == 2 * width
        assert (column.min(axis=1) >= 190).sum() == 2 * width

    def test_of_a_mask_below_another_can_be_followed(self) -> None:
        left, right = mask_of((10, 10, 60, 70)), mask_of((40, 20, 80, 60))
        drawn = overlay(GREY, [left, right]).astype(int)
        assert (drawn[22:58, 60] < DARK).all()

    def test_at_the_border(self) -> None:
        """Along the image's border, only the light line is drawn."""
        whole = mask_of((0, 0, 120, 80))
        drawn = overlay(GREY, [whole]).astype(int)
        edges = np.ones((80, 120), np.bool_)
        edges[1:-1, 1:-1] = False
        assert (drawn[edges] >= 190).all()
        assert np.abs(drawn[1:-1, 1:-1].reshape(-1, 3) - tint(0)).max() <= 1

    @pytest.mark.parametrize("x", [0, 1, 60, 118, 119])
    @pytest.mark.parametrize("y", [0, 40, 79])
    def test_one_pixel(self, x: int, y: int) -> None:
        drawn = overlay(GREY, [mask_of((x, y, x + 1, y + 1))]).astype(int)
        assert (drawn[y, x] >= 190).all()
        ring = changed(drawn.astype(np.uint8))
        assert ring[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].sum() == ring.sum()
        assert ring.sum() == 5 - (x in (0, 119)) - (y in (0, 79))


class TestLabels:
    def test_stand_above_the_mask(self) -> None:
        mask = mask_of((40, 40, 80, 70))
        drawn = overlay(GREY, [mask], labels=["cat"])
        sign = changed(drawn, overlay(GREY, [mask]))
        ys, xs = np.nonzero(sign)
        assert ys.max() == 39
        assert abs((xs.min() + xs.max()) / 2 - 60) <= 1
        block = drawn[ys.min() : 40, xs.min() : xs.max() + 1].reshape(-1, 3)
        # The label is a box in the mask's colour with dark letters.
        assert 0.4 < (block == colors(1)[0]).all(axis=1).mean() < 0.95
        assert (block.max(axis=1) < 60).any()

    @pytest.mark.parametrize(
        "box",
        [(0, 0, 9, 9), (111, 0, 120, 9), (0, 71, 9, 80), (111, 71, 120, 80), (0, 0, 120, 80)],
    )
    def test_at_the_border_stay_in_the_image(self, box: tuple[int, int, int, int]) -> None:
        mask = mask_of(box)
        sign = changed(overlay(GREY, [mask], labels=["a cat"]), overlay(GREY, [mask]))
        middle = changed(
            overlay(GREY, [mask_of((50, 40, 60, 50))], labels=["a cat"]),
            overlay(GREY, [mask_of((50, 40, 60, 50))]),
        )

        def extent(plane: NDArray[np.bool_]) -> tuple[int, int]:
            ys, xs = np.nonzero(plane)
            return int(np.ptp(ys)), int(np.ptp(xs))

        assert extent(sign) == extent(middle)

    def test_larger_than_the_image_are_cut_off(self) -> None:
        image = np.full((6, 10, 3), 90, np.uint8)
        drawn = overlay(image, [mask_of((2, 2, 8, 5), image=image)], labels=["much too long"])
        assert drawn.shape == image.shape

    def test_do_not_hide_one_another(self) -> None:
        masks = [mask_of((40, 30, 80, 50)), mask_of((42, 31, 78, 49))]
        both = overlay(GREY, masks, labels=["first", "other"])
        for i in range(2):
            alone = overlay(GREY, masks, labels=["first" * (i == 0), "other" * (i == 1)])
            count = (alone == colors(2)[i]).all(axis=2).sum()
            assert (both == colors(2)[i]).all(axis=2).sum() == count

    def test_empty_ones_are_not_drawn(self) -> None:
        mask = mask_of((40, 40, 80, 70))
        for label in ("", " \n\t"):
            drawn = overlay(GREY, [mask], labels=[label])
            assert np.array_equal(drawn, overlay(GREY, [mask]))

    def test_in_any_letters(self) -> None:
        image = np.full((200, 900, 3), 90, np.uint8)
        mask = mask_of((400, 100, 500, 150), image=image)

        def draw(label: str) -> bytes:
            return overlay(image, [mask], labels=[label]).tobytes()

        assert draw("café") == draw("cafe")
        assert draw("two\nlines") == draw("two lines")
        assert draw("x" * 100) == draw("x" * 1000) == draw("x" * 37 + "...")
        assert draw("x" * 40) != draw("x" * 41)
        assert draw("猫 \x00 \ud800") != draw("")


class TestOverlay:
    def test_nothing_to_draw(self) -> None:
        for masks in ([], [Mask.empty((80, 120))], [Mask.empty((80, 120))] * 3):
            drawn = overlay(GREY, masks, labels=["label"] * len(masks))
            assert np.array_equal(drawn, GREY)
            assert not np.shares_memory(drawn, GREY)

    def test_never_changes_its_input(self) -> None:
        image = GREY.copy()
        image.flags.writeable = False
        expected = overlay(GREY, [mask_of((20, 10, 60, 50))], labels=["cat"])
        for given in (image, image[::-1, ::-1], np.asfortranarray(image)):
            drawn = overlay(given, [mask_of((20, 10, 60, 50))], labels=["cat"])
            assert np.array_equal(drawn, expected)
            drawn[:] = 0
        assert (image == 90).all()

    def test_is_the_same_each_time(self) -> None:
        scene = make_scene(3, (320, 240), count=(6, 8))
        masks = [Mask.from_plane(item.mask) for item in scene.objects]
        labels = [item.color for item in scene.objects]
        first, second = (overlay(scene.image, masks, labels=labels) for _ in range(2))
        assert np.array_equal(first, second)

    def test_a_scene(self) -> None:
        """Each object is tinted at its centre, and most of the background is unchanged."""
        scene = make_scene(3, (640, 480), count=(6, 8))
        masks = [Mask.from_plane(item.mask) for item in scene.objects]
        drawn = overlay(scene.image, masks, opacity=1.0)
        for color, item in zip(colors(len(masks)), scene.objects, strict=True):
            x, y = item.click()
            assert drawn[int(y), int(x)].tolist() == color.tolist()
        covered = np.any([item.mask for item in scene.objects], axis=0)
        grown = cv2.dilate(covered.view(np.uint8), np.ones((3, 3), np.uint8)).view(np.bool_)
        assert not changed(drawn, scene.image)[~grown].any()

    def test_cost_follows_the_masks(self) -> None:
        image = np.full((4000, 4000, 3), 90, np.uint8)
        spots = [
            (x, y, x + 12, y + 12) for x in range(100, 3900, 190) for y in range(100, 3900, 190)
        ]
        runs = [
            Mask(np.array([[x * 4000 + y0, x * 4000 + y1] for x in range(x0, x1)]), (4000, 4000))
            for x0, y0, x1, y1 in spots
        ]
        begin = time.thread_time()  # excludes other threads and processes
        drawn = overlay(image, runs)
        assert len(spots) == 400
        # Processing 400 planes of this size would take a minute.
        assert time.thread_time() - begin < 10
        assert all((drawn[y0 + 6, x0 + 6] != 90).any() for x0, y0, _, _ in spots)

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ({"masks": [Mask.empty((80, 121))]}, "80 x 120"),
            ({"masks": [], "labels": ["one"]}, "1 labels for 0 masks"),
            ({"masks": [], "opacity": 1.01}, "not 1.01"),
            ({"masks": [], "opacity": -0.1}, "not -0.1"),
            ({"masks": [], "opacity": float("nan")}, "not nan"),
        ],
    )
    def test_what_cannot_be_drawn(self, arguments: dict[str, object], told: str) -> None:
        with pytest.raises(ValueError, match=told):
            overlay(GREY, **arguments)  # type: ignore[arg-type]
