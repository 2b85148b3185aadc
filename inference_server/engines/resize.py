"""Pixels to a model's input.

In two halves. Resizing is CPU work for worker threads, several at a time: 3 MB of bytes come out of
it, whatever the image's size. Normalising belongs to the device, which takes those bytes over and
makes numbers of them; as floats they would be four times as many to carry.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from inference_server.engines.base import RGBImage


def resize(pixels: RGBImage, side: int, extent: tuple[float, float] | None = None) -> Tensor:
    """Resizes an image to a square, its sides each by their own factor.

    Antialiased bilinear, as SAM 2 and SAM 3 resize. The numbers are those of torchvision's resizing
    of bytes, which SAM 3's processor does, exactly. SAM 2's transforms resize floats: rounded to
    bytes here, the result is off by 0.3 of 255 in the mean and by 1 at most.

    PyTorch's kernel for bytes runs on the calling thread alone and without the interpreter's lock.
    From 12 MP to 1024 x 1024, on one core: this 17 ms, Pillow 92, OpenCV's `INTER_AREA` 64 (and it
    is another filter, off by up to 20), SAM 3's processor 91, SAM 2's transforms 293. OpenCV's
    `INTER_LINEAR` takes 5, but skips most pixels, and is off by up to 54.

    Args:
        pixels: `uint8[h, w, 3]`; copied if not contiguous or not writable.
        side: of the square, in pixels.
        extent: rows and columns of `pixels` that the image covers, where the last ones are only
            partly image (see `Picture.extent`); all of them by default.

    Returns:
        `uint8[3, side, side]` on the CPU, contiguous.
    """
    height, width = extent or pixels.shape[:2]
    # PyTorch has no arrays that must not be written to, and warns of them.
    planes = torch.from_numpy(np.require(pixels, np.uint8, ["C", "W"])).permute(2, 0, 1)[None]
    with torch.inference_mode():
        # `interpolate` would derive the square's side from fractional factors, and round it down.
        resized: Tensor = torch.ops.aten._upsample_bilinear2d_aa(
            planes, [side, side], False, side / height, side / width
        )
    return resized[0].contiguous()


class Normalizer:
    """Turns bytes into the numbers that a model takes, on its device.

    Args:
        mean: of red, green and blue, where 0 is no light and 1 is full.
        std: likewise.
        device: where the model is.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu"
    ) -> None:
        self._mean = (torch.tensor(mean) * 255).to(device)[:, None, None]
        self._std = (torch.tensor(std) * 255).to(device)[:, None, None]

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Stacks and normalises.

        Args:
            images: `uint8[3, side, side]` each, as `resize` returns them.

        Returns:
            `float32[N, 3, side, side]` on the device, contiguous.
        """
        batch = torch.stack(list(images)).to(self._mean.device)
        return batch.float().sub_(self._mean).div_(self._std)
