"""Draw masks over images."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from inference_server.executor import stop_if_cancelled
from inference_server.masks.mask import Mask
from inference_server.masks.placement import meet

RGB = NDArray[np.uint8]
"""`uint8[H, W, 3]`."""

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels, (x1, y1) exclusive."""

# The golden angle never repeats a hue. This start and these levels were chosen by trial: the first
# 32 colours are as far apart as with any others, and none is pale.
_FIRST_HUE, _HUE_STEP = 50.0, 137.50776
_LIGHTNESS = (0.62, 0.78)
_MOST_CHROMA = 0.25

_PIXELS_A_LINE = 480.0
"""Side of a square image in pixels, per pixel of line width."""

_DARK = (16, 16, 16)
_LONGEST_LABEL = 40


def colors(count: int) -> NDArray[np.uint8]:
    """Distinguishable colours, neither dark nor pale; consecutive ones differ most.

    Args:
        count: Number of colours; colour i is the same for every count.

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
    for _ in range(12):  # bisect the maximum chroma within sRGB
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
    """Convert OKLCH (Björn Ottosson) to linear sRGB, `[N, 3]`; outside 0 to 1 if out of gamut."""
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
    """Draw masks over an image, tinted and outlined, smaller ones on top.

    Mask i has colour i of `colors`. An outline is a light line inside the mask and a dark line
    outside it, so one of them is visible on any background. The cost follows the masks' boxes.

    Args:
        image: `uint8[H, W, 3]`, RGB; not modified.
        masks: Masks of this image.
        opacity: Opacity of the tint, 0 (outlines only) to 1; default 0.5.
        labels: A text per mask, truncated to 40 characters; empty texts are not drawn. The font
            covers ASCII: accents are removed, and other letters are drawn as boxes. None (the
            default) for no labels.

    Returns:
        `uint8[H, W, 3]`, RGB.

    Raises:
        ValueError: The masks have another size than the image, the number of labels differs from
            the number of masks, or the opacity is out of range.
    """
    size = image.shape[:2]
    if not 0 <= opacity <= 1:
        raise ValueError(f"the opacity must be 0 to 1, not {opacity}")
    if any(mask.size != size for mask in masks):
        raise ValueError(f"the masks must have the image's size, {size[0]} x {size[1]}")
    if labels is not None and len(labels) != len(masks):
        raise ValueError(f"{len(labels)} labels for {len(masks)} masks")
    drawn = np.array(image, order="C")
    palette = colors(len(masks))
    order = sorted(range(len(masks)), key=lambda i: -masks[i].area)
    order = [i for i in order if not masks[i].is_empty]
    for i in order:
        stop_if_cancelled()
        _tint(drawn, image, masks[i], palette[i], opacity)
    width = max(1, round(float(np.sqrt(size[0] * size[1])) / _PIXELS_A_LINE))
    for i in order:  # after all tints, so that no tint covers an outline
        stop_if_cancelled()
        _outline(drawn, masks[i], palette[i], width)
    if labels is not None:
        taken: list[Box] = []
        for i in reversed(order):
            if text := _plain(labels[i]):
                taken.append(_label(drawn, masks[i].box, text, palette[i], taken))
    return drawn


def _tint(drawn: RGB, image: RGB, mask: Mask, color: NDArray[np.uint8], opacity: float) -> None:
    """Blend the image's pixels with a colour.

    The pixels are desaturated with increasing opacity. Otherwise an orange mask on a red object
    would look like a red mask on an orange object.
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
    # Padded beyond the image too, so that the light line follows the image's border.
    plane = np.pad(mask.crop.view(np.uint8), width)
    grown: NDArray[np.uint8] = plane
    shrunk: NDArray[np.uint8] = plane
    for step in range(width):  # alternating shapes approximate a disc in far less time
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
    """A label as one line without accents, truncated to the maximum length."""
    letters = unicodedata.normalize("NFKD", label)
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    text = " ".join(letters.split())
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 3] + "..."


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _label(drawn: RGB, box: Box, text: str, color: NDArray[np.uint8], taken: Sequence[Box]) -> Box:
    """Draw a text above, in or below a mask's box, where it is free; return its box."""
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
    place = next((p for p in places if not any(meet(p, other) for other in taken)), places[0])
    left, top, right, bottom = place
    drawn[top:bottom, left:right] = np.asarray(sign)[: bottom - top, : right - left]
    return place
