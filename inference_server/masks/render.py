"""Pictures of masks: the one place where anything is drawn for people to look at."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from inference_server.masks.mask import Mask

RGB = NDArray[np.uint8]
"""`uint8[H, W, 3]`."""

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels, (x1, y1) exclusive."""

# The golden angle never comes back to a hue. Tried: with this start and these levels, the first 32
# colours are as far apart as with any, and none is pale.
_FIRST_HUE, _HUE_STEP = 50.0, 137.50776
_LIGHTNESS = (0.62, 0.78)
_MOST_CHROMA = 0.25

_PIXELS_A_LINE = 480.0
"""Side of a square image for each pixel of the width of its lines."""

_DARK = (16, 16, 16)
_LONGEST_LABEL = 40


def colors(count: int) -> NDArray[np.uint8]:
    """Colours that can be told apart, neighbours best of all, neither dark nor pale.

    Args:
        count: how many; colour i is the same for every count.

    Returns:
        `uint8[count, 3]`, RGB.

    Examples:
        >>> colors(2).tolist()
        [[209, 97, 0], [1, 211, 199]]
    """
    index = np.arange(count)
    hue = np.radians(_FIRST_HUE + _HUE_STEP * index)
    lightness = np.array(_LIGHTNESS)[index % len(_LIGHTNESS)]
    low: NDArray[np.float64] = np.zeros(count)
    high: NDArray[np.float64] = np.full(count, _MOST_CHROMA)
    for _ in range(12):  # the most chroma that a screen can show
        chroma = (low + high) / 2
        linear = _linear_rgb(lightness, chroma, hue)
        shown = ((linear >= 0) & (linear <= 1)).all(axis=1)
        low, high = np.where(shown, chroma, low), np.where(shown, high, chroma)
    linear = _linear_rgb(lightness, low, hue).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(encoded * 255), np.uint8)


def _linear_rgb(
    lightness: NDArray[np.float64], chroma: NDArray[np.float64], hue: NDArray[np.float64]
) -> NDArray[np.float64]:
    """From OKLCH (Björn Ottosson's) to linear sRGB, `[N, 3]`; below 0 or over 1 where no screen
    shows it.
    """
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    return np.asarray((to_rgb @ cones**3).T)


def overlay(
    image: RGB,
    masks: Sequence[Mask],
    *,
    opacity: float = 0.5,
    labels: Sequence[str] | None = None,
) -> RGB:
    """Draw masks over an image: tinted, with outlines, the smaller ones on top.

    Mask i has colour i of `colors`. An outline is a light line just inside of the mask and a dark
    one just outside, so that one of them can be seen on any background. Cost follows the masks'
    boxes.

    Args:
        image: `uint8[H, W, 3]`, RGB; it is not changed.
        masks: of this image.
        opacity: of the tint, 0 (outlines alone) to 1.
        labels: a short text for each mask, cut after 40 characters; an empty one is not drawn.
            The font has ASCII: accents are left out, and other letters are drawn as boxes.

    Returns:
        `uint8[H, W, 3]`, RGB.

    Raises:
        ValueError: if the masks are not of the image's size, the labels not as many as the masks,
            or the opacity is out of range.
    """
    size = image.shape[:2]
    if not 0 <= opacity <= 1:
        raise ValueError(f"an opacity is 0 to 1, not {opacity}")
    if any(mask.size != size for mask in masks):
        raise ValueError(f"masks of another size than the image, which is {size[0]} x {size[1]}")
    if labels is not None and len(labels) != len(masks):
        raise ValueError(f"{len(labels)} labels for {len(masks)} masks")
    drawn = np.array(image, order="C")
    palette = colors(len(masks))
    order = sorted(range(len(masks)), key=lambda i: -masks[i].area)
    order = [i for i in order if not masks[i].is_empty]
    for i in order:
        _tint(drawn, image, masks[i], palette[i], opacity)
    width = max(1, round(float(np.sqrt(size[0] * size[1])) / _PIXELS_A_LINE))
    for i in order:  # after all tints, so that a mask's outline can be followed below another one
        _outline(drawn, masks[i], palette[i], width)
    if labels is not None:
        taken: list[Box] = []
        for i in reversed(order):
            if text := _plain(labels[i]):
                taken.append(_label(drawn, masks[i].box, text, palette[i], taken))
    return drawn


def _tint(drawn: RGB, image: RGB, mask: Mask, color: NDArray[np.uint8], opacity: float) -> None:
    """Mix the image's own pixels with a colour, so that what is on top looks the same anywhere.

    Their brightness shows through, and less of their hue the more the tint covers: an orange mask
    on a red object and a red one on an orange object would look alike.
    """
    x0, y0, x1, y1 = mask.box
    below = np.ascontiguousarray(image[y0:y1, x0:x1])
    grey = cv2.cvtColor(cv2.cvtColor(below, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    share = min(1.0, 2 * opacity)
    below = np.asarray(cv2.addWeighted(below, 1 - share, grey, share, 0), np.uint8)
    paint = np.empty_like(below)
    paint[:] = color
    tinted = np.asarray(cv2.addWeighted(below, 1 - opacity, paint, opacity, 0), np.uint8)
    _put(drawn, tinted, mask.crop.view(np.uint8), x0, y0)


def _put(drawn: RGB, pixels: RGB, where: NDArray[np.uint8], x: int, y: int) -> None:
    """Copy the pixels where a plane is not 0; a tenth of the time that NumPy takes."""
    height, width = where.shape
    cv2.copyTo(pixels, where, drawn[y : y + height, x : x + width])


def _outline(drawn: RGB, mask: Mask, color: NDArray[np.uint8], width: int) -> None:
    x0, y0, x1, y1 = mask.box
    # With a margin, also beyond the image: where it cuts a mask off, there is a light line.
    plane = np.pad(mask.crop.view(np.uint8), width)
    grown: NDArray[np.uint8] = plane
    shrunk: NDArray[np.uint8] = plane
    for step in range(width):  # in turns, which is close to a disc and takes far less time
        shape = cv2.MORPH_CROSS if step % 2 == 0 else cv2.MORPH_RECT
        element = cv2.getStructuringElement(shape, (3, 3))
        grown = np.asarray(cv2.dilate(grown, element), np.uint8)
        shrunk = np.asarray(cv2.erode(shrunk, element), np.uint8)
    left, top = max(0, x0 - width), max(0, y0 - width)
    right, bottom = min(mask.size[1], x1 + width), min(mask.size[0], y1 + width)
    ys = slice(top - y0 + width, bottom - y0 + width)
    xs = slice(left - x0 + width, right - x0 + width)
    paint = np.empty((bottom - top, right - left, 3), np.uint8)
    for line, shade in ((grown, np.array(_DARK, np.uint8)), (shrunk, color // 4 + np.uint8(191))):
        paint[:] = shade
        _put(drawn, paint, (line ^ plane)[ys, xs], left, top)


def _plain(label: str) -> str:
    """A label in one line, without accents, and not longer than it may be."""
    letters = unicodedata.normalize("NFKD", label)
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    text = " ".join(letters.split())
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 3] + "..."


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _label(drawn: RGB, box: Box, text: str, color: NDArray[np.uint8], taken: Sequence[Box]) -> Box:
    """Write a text above, in or below a mask's box, where there is room; returns where."""
    height, width = drawn.shape[:2]
    font = _font(max(11, min(48, round((height * width) ** 0.5 / 40))))
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    _, ascent_top, _, descent = (round(edge) for edge in font.getbbox("Ág"))
    margin = max(2, (descent - ascent_top) // 5)
    w, h = right - left + 2 * margin, max(descent, bottom) - min(ascent_top, top) + 2 * margin
    sign = Image.new("RGB", (w, h), tuple(int(c) for c in color))
    ImageDraw.Draw(sign).text(
        (margin - left, margin - min(ascent_top, top)), text, fill=_DARK, font=font
    )
    x0, y0, x1, y1 = box
    x = max(0, min((x0 + x1 - w) // 2, width - w))
    places = []
    for y in (y0 - h, y0, y1, y1 - h, (y0 + y1 - h) // 2):
        y = max(0, min(y, height - h))
        places.append((x, y, min(x + w, width), min(y + h, height)))
    place = next((p for p in places if not any(_meet(p, other) for other in taken)), places[0])
    left, top, right, bottom = place
    drawn[top:bottom, left:right] = np.asarray(sign)[: bottom - top, : right - left]
    return place


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
