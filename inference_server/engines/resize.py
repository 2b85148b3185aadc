"""Convert pixels to a model's input, in two steps.

Resizing is CPU work for worker threads, and its result is 3 MB of bytes whatever the image's size.
Normalising runs on the device, so that bytes are transferred and not floats, which are four times
as large.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from inference_server.engines.base import RGBImage
from inference_server.engines.transfer import to_device

_TALL = 8
"""Height, in heights of the result, above which a narrow image is resized vertically first."""


def resize(pixels: RGBImage, side: int, extent: tuple[float, float] | None = None) -> Tensor:
    """Resize an image to a square, without keeping its aspect ratio; see `resize_to`.

    Args:
        pixels: `uint8[h, w, 3]`, RGB; copied if not contiguous or not writable.
        side: Side of the square in pixels.
        extent: Rows and columns of `pixels` that the image covers, perhaps fractional (see
            `Picture.extent`); default: all.

    Returns:
        `uint8[3, side, side]` on the CPU, contiguous.
    """
    return resize_to(pixels, (side, side), extent)


def resize_to(
    pixels: RGBImage, target: tuple[int, int], extent: tuple[float, float] | None = None
) -> Tensor:
    """Resize an image.

    Antialiased bilinear, as all SAM models resize. The result equals torchvision's for bytes, which
    the processors of SAM 1 and SAM 3 use. SAM 2's transforms resize floats; rounding to bytes
    changes the result by 0.3 of 255 on average and by 1 at most.

    PyTorch's kernel for bytes runs on the calling thread only and releases the interpreter lock.
    From 12 MP to 1024 x 1024 on one core it takes 17 ms, Pillow 92, OpenCV's `INTER_AREA` 64 (a
    different filter, off by up to 20), SAM 3's processor 91, SAM 2's transforms 293. OpenCV's
    `INTER_LINEAR` takes 5, but skips most pixels and is off by up to 54.

    Args:
        pixels: `uint8[h, w, 3]`, RGB; copied if not contiguous or not writable.
        target: (height, width) of the result in pixels.
        extent: Rows and columns of `pixels` that the image covers, perhaps fractional (see
            `Picture.extent`); default: all.

    Returns:
        `uint8[3, height, width]` on the CPU, contiguous.
    """
    new_height, new_width = target
    height, width = extent or pixels.shape[:2]
    # PyTorch warns about arrays that are not writable.
    planes = torch.from_numpy(np.require(pixels, np.uint8, ["C", "W"])).permute(2, 0, 1)[None]
    with torch.inference_mode():
        rows, columns = pixels.shape[:2]
        if columns < new_width and rows > _TALL * new_height:
            # The kernel resizes horizontally first: `new_width` columns for every row of the image,
            # which is gigabytes for an image of one column. This order may round differently by 1.
            planes = _resized(planes, (new_height, columns), (new_height / height, 1.0))
            height = new_height
        planes = _resized(planes, target, (new_height / height, new_width / width))
    return planes[0].contiguous()


def _resized(planes: Tensor, size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
    """Resize `[1, 3, h, w]` to `size`; `scale` is exact where the size is rounded."""
    # `interpolate` would derive the size from fractional factors and round it down.
    resized: Tensor = torch.ops.aten._upsample_bilinear2d_aa(planes, size, False, *scale)
    return resized


class Normalizer:
    """Normalises images on the model's device.

    Args:
        mean: Mean of red, green and blue, 0 to 1.
        std: Standard deviation of red, green and blue, 0 to 1.
        device: Device of the model; default: CPU.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu"
    ) -> None:
        self._mean = (torch.tensor(mean) * 255).to(device)[:, None, None]
        self._std = (torch.tensor(std) * 255).to(device)[:, None, None]

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Stack and normalise images.

        Args:
            images: `uint8[3, h, w]` tensors of one size, from `resize` or `resize_to`.

        Returns:
            `float32[N, 3, h, w]` on the device, contiguous.
        """
        batch = to_device(torch.stack(list(images)), self._mean.device)
        return batch.float().sub_(self._mean).div_(self._std)
