"""Fit images into SAM 1's square input: resized to its longer side, padded at the bottom and right.

The other models stretch images to a square. `SamProcessor` of `transformers` and Meta's predictor
do what is done here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name
from torch import Tensor

from inference_server.engines.base import Prepared, RGBImage
from inference_server.engines.resize import Normalizer, resize_to

_SCALE = 4
"""Pixels of the model's input per pixel of a mask's logits."""


def fitted_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Size of an image in the model's input.

    Args:
        size: (height, width) of the original image in pixels.
        side: Side of the model's square input in pixels.

    Returns:
        (height, width), one of them `side` and neither of them 0, as which `SamProcessor` rounds
        the shorter side of an image of 2,049 x 1 pixels.
    """
    scale = side / max(size)
    height, width = (max(1, int(length * scale + 0.5)) for length in size)
    return height, width


def prepare(
    pixels: RGBImage,
    side: int,
    size: tuple[int, int] | None = None,
    extent: tuple[float, float] | None = None,
) -> Prepared:
    """Resize an image, keeping its aspect ratio.

    Args:
        pixels: `uint8[h, w, 3]`, RGB, the image or a reduced version of it.
        side: Side of the model's square input in pixels.
        size: (height, width) of the original image in pixels; default: that of `pixels`.
        extent: Rows and columns of `pixels` that the image covers, perhaps fractional; default:
            all.

    Returns:
        The image as `uint8[3, h, w]` of its `fitted_size`, not padded.
    """
    original = size or (pixels.shape[0], pixels.shape[1])
    return Prepared(resize_to(pixels, fitted_size(original, side), extent), original)


def padded(images: Sequence[Tensor], side: int, normalize: Normalizer) -> Tensor:
    """Normalise images, then pad them with zeros at the bottom and on the right.

    Args:
        images: `uint8[3, h, w]` from `prepare`, of any sizes.
        side: Side of the model's square input in pixels.
        normalize: Normalises pixels on the model's device.

    Returns:
        `float32[N, 3, side, side]` on the model's device.
    """
    parts = [normalize([image])[0] for image in images]
    batch = parts[0].new_zeros(len(parts), 3, side, side)
    for square, part in zip(batch, parts, strict=True):
        square[:, : part.shape[1], : part.shape[2]] = part
    return batch


def without_padding(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut off the padding, so that the planes cover the image.

    `SamProcessor.post_process_masks` enlarges logits to the model's input, cuts off the padding,
    and resizes the rest to the image. The padding may begin within a pixel of the logits, and near
    the edge they are interpolated with the padding's. So this does the first two steps, and the
    third to twice the density of the logits, or to the image's pixels if those are fewer, which is
    exact. An axis without padding and with more pixels is left as it is. All rows of the model's
    input would always be exact, but up to sixteen times as large.

    Args:
        logits: `float32[M, s, s]`, the model's masks.
        size: (height, width) of the original image in pixels.

    Returns:
        `float32[M, h, w]`, `h` and `w` at most `2 s`.
    """
    side = _SCALE * logits.shape[-1]
    height, width = fitted_size(size, side)
    planes = _sampled(logits, height, size[0])
    return _sampled(planes.transpose(1, 2), width, size[1]).transpose(1, 2).contiguous()


def _sampled(planes: Tensor, length: int, pixels: int) -> Tensor:
    """Rows `[M, n, columns]` of `[M, s, columns]` that cover the image.

    Args:
        planes: Logits.
        length: Rows of the model's input that the image covers, at most `4 s`.
        pixels: Rows of the original image.
    """
    rows, columns = planes.shape[1:]
    count = max(2 * length // _SCALE, rows // 2)
    if pixels <= count:
        count = pixels
    elif length == _SCALE * rows:
        return planes
    # No row beyond these contributes.
    needed = planes[:, None, : length // _SCALE + 2]
    enlarged = F.interpolate(
        needed, scale_factor=(_SCALE, 1), mode="bilinear", align_corners=False
    )[:, :, :length]
    sampled: Tensor = F.interpolate(
        enlarged, (count, columns), mode="bilinear", align_corners=False
    )
    return sampled[:, 0]
