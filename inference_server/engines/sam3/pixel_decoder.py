"""SAM 3's pixel decoder, arranged so that a prompt pays only for itself.

A stage of `Sam3PixelDecoder` is `relu(norm(conv(enlarge(x) + skip)))`: `x` enlarged twice by
repetition, a skip connection of the image, a 3 x 3 convolution, a group norm. Up to the norm this
is linear, so

* `conv(skip)` with its bias belongs to the image and is done once;
* `conv(enlarge(x))` is taken on the small `x`. Along one axis, with kernel `a, b, c`, an even
  place sees `a x[i-1] + (b + c) x[i]` and an odd one `(a + b) x[i] + c x[i+1]`. With
  `s = a + b + c` and `d[i] = x[i] - x[i-1]` these are `s x[i] - a d[i]` and `s x[i] + c d[i+1]`:
  three products for two places. Along both axes 9 products with `[C, C]` make 4 places, instead
  of 36 of the plain convolution, or of 16 with a 2 x 2 kernel a place.

Pixels lie in rows of channels, and the four places of a stage's last result are left apart: only
finished mask planes are put in raster order.

Measured at SAM 3's size on one core: 2.1 s for the original, 0.8 s for this, with four planes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it
from torch import Tensor

_BAND = 2048
"""Small pixels that are enlarged at a time on a CPU. At SAM 3's size 512 to 8192 took as long,
within the noise; all 20736 at once a fifth longer, and ten times the memory for the products."""


class FastPixelDecoder:
    """`Sam3PixelDecoder` for inference, up to finished planes. May be used from several threads.

    Args:
        decoder: `Sam3PixelDecoder` with its weights.
        dtype: of everything that is as large as the image.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        self._stages = [
            _Stage(conv, norm, dtype)
            for conv, norm in zip(decoder.conv_layers, decoder.norms, strict=True)
        ]

    def prepare(self, levels: list[Tensor]) -> tuple[Tensor, ...]:
        """Do once for images what no prompt changes.

        Args:
            levels: `[B, C, h, w]` features, finest first.

        Returns:
            For every level but the last, coarse to fine, `[B, P, h, w, C]`, see `_Stage.prepare`.
        """
        finer = levels[-2::-1]
        return tuple(
            stage.prepare(skip, small.shape[-2:])
            for stage, skip, small in zip(self._stages, finer, levels[:0:-1], strict=False)
        )

    def __call__(self, pixels: Tensor, skips: tuple[Tensor, ...], weight: Tensor) -> Tensor:
        """Planes of one image.

        Args:
            pixels: `[h, w, C]`, what takes the place of the coarsest level.
            skips: of `prepare`, without the batch.
            weight: `float32[K, C]`, how much each channel of the finest result counts in a plane.

        Returns:
            `float32[K, H, W]`, without bias.
        """
        if not skips:
            return (
                (weight.to(pixels.dtype) @ pixels.flatten(0, 1).T)
                .float()
                .view(-1, *pixels.shape[:2])
            )
        *coarse, last = zip(self._stages, skips, strict=False)
        for stage, skip in coarse:
            found, scale, shift = stage(pixels, skip)
            pixels = _raster(torch.addcmul(shift, found, scale).relu_())
        stage, skip = last
        found, scale, shift = stage(pixels, skip)
        places, height, width, channels = found.shape
        weight = weight.to(found.dtype)
        planes = found.new_empty(len(weight), places, height * width)
        rows = found.view(places, -1, channels)
        step = rows.shape[1] if found.is_cuda else _BAND
        for place in range(places):
            for start in range(0, rows.shape[1], step):
                part = torch.addcmul(shift, rows[place, start : start + step], scale).relu_()
                planes[:, place, start : start + step] = weight @ part.T
        return (
            _raster(planes.view(-1, places, height, width).permute(1, 2, 3, 0))
            .permute(2, 0, 1)
            .float()
            .contiguous()
        )


class _Stage:
    """One enlargement; see the module."""

    def __init__(self, conv: Any, norm: Any, dtype: torch.dtype) -> None:
        self._conv = conv
        self._norm = norm
        self._dtype = dtype
        # [out, in, 3, 3] to what is applied to pixels themselves (their sum) and to differences,
        # at even and at odd places; first along columns, then along rows.
        a, b, c = conv.weight.float().unbind(3)
        plain, even, odd = a + b + c, -a, c
        kernels = []
        for kernel in (plain, even, odd):
            top, middle, bottom = kernel.unbind(2)
            kernels.append((top + middle + bottom, -top, bottom))
        (self._whole, *down), (left, *corners_left), (right, *corners_right) = (
            tuple(kernel.T.to(dtype).contiguous() for kernel in row) for row in kernels
        )
        self._down = torch.cat(down, dim=1)
        self._across = torch.cat([left, right], dim=1)
        self._corners = torch.cat(
            [corners_left[0], corners_right[0], corners_left[1], corners_right[1]], dim=1
        )

    def prepare(self, skip: Tensor, small: torch.Size) -> Tensor:
        """What the skip connection brings.

        Args:
            skip: `[B, C, H, W]`.
            small: (h, w) of what will be enlarged to its size.

        Returns:
            `[B, 4, h, w, C]`, the four places of every small pixel (upper left, upper right, lower
            left, lower right) apart; `[B, 1, H, W, C]` if the size does not double.
        """
        weight, bias = (each.to(self._dtype) for each in (self._conv.weight, self._conv.bias))
        brought = F.conv2d(skip.to(self._dtype), weight, bias, padding=1).permute(0, 2, 3, 1)
        batch, height, width, channels = brought.shape
        if (height, width) != (2 * small[0], 2 * small[1]):
            return brought[:, None].contiguous()
        split = brought.reshape(batch, small[0], 2, small[1], 2, channels)
        return split.permute(0, 2, 4, 1, 3, 5).reshape(batch, 4, *small, channels).contiguous()

    def __call__(self, pixels: Tensor, skip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Enlarge, convolve, add.

        Args:
            pixels: `[h, w, C]`.
            skip: `[4, h, w, C]` or `[1, H, W, C]`, of any dtype.

        Returns:
            What is to be normalised, of the shape of `skip`, and the norm's `scale[C]` and
            `shift[C]`: `found * scale + shift` is normalised.
        """
        if len(skip) == 4:
            found = self._enlarge(pixels, skip)
        else:
            planes = pixels.permute(2, 0, 1)[None]
            large = F.interpolate(planes, size=skip.shape[1:3], mode="nearest")
            weight = self._conv.weight.to(self._dtype)
            brought = F.conv2d(large, weight, padding=1)
            found = brought.permute(0, 2, 3, 1) + skip.to(self._dtype)
        return found, *self._normalise(found)

    def _enlarge(self, pixels: Tensor, skip: Tensor) -> Tensor:
        height, width, channels = pixels.shape
        padded = F.pad(pixels, (0, 0, 1, 1, 1, 1))
        step = height if pixels.is_cuda else max(1, _BAND // width)
        found = torch.empty_like(skip, dtype=self._dtype)
        for top in range(0, height, step):
            rows = min(step, height - top)
            band = padded[top : top + rows + 2]
            down = band[1:] - band[:-1]
            corner = (down[:, 1:] - down[:, :-1]) @ self._corners
            down = down[:, 1:-1] @ self._down
            band = band[1:-1]
            across = (band[:, 1:] - band[:, :-1]) @ self._across
            whole = band[:, 1:-1] @ self._whole
            for column in (0, 1):
                place = slice(column, column + width)
                own = slice(column * channels, (column + 1) * channels)
                beside = whole + across[:, place, own]
                for row in (0, 1):
                    out = found[2 * row + column, top : top + rows]
                    own = slice(row * channels, (row + 1) * channels)
                    torch.add(beside, down[row : row + rows, :, own], out=out)
                    at = 2 * row + column
                    own = slice(at * channels, (at + 1) * channels)
                    out += corner[row : row + rows, place, own]
                    out += skip[at, top : top + rows]
        return found

    def _normalise(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """The group norm of `[.., C]` as `scale[C]` and `shift[C]`."""
        norm = self._norm
        channels = found.shape[-1]
        rows = found.reshape(-1, channels)
        groups = (norm.num_groups, -1)
        # Sums of squares lose nothing in float64, and a group has as many channels as it takes
        # for its mean not to be far larger than its deviation.
        total = torch.stack([_sum(rows), _sum(rows, square=True)])
        mean, square = total.view(2, *groups).sum(dim=2) / (rows.numel() / norm.num_groups)
        deviation = (square - mean.square()).clamp(min=0).add(norm.eps).sqrt()
        scale = norm.weight.view(groups) / deviation[:, None]
        shift = norm.bias.view(groups) - mean[:, None] * scale
        return scale.flatten().to(found.dtype), shift.flatten().to(found.dtype)


def _sum(rows: Tensor, *, square: bool = False) -> Tensor:
    """Of `[n, C]` over n, in blocks; `float64[C]`."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    step = len(rows) if rows.is_cuda else _BAND
    for start in range(0, len(rows), step):
        wide = rows[start : start + step].float()
        total += (wide.square() if square else wide).sum(dim=0)
    return total


def _raster(places: Tensor) -> Tensor:
    """`[4, h, w, C]` to `[2 h, 2 w, C]`; `[1, H, W, C]` to `[H, W, C]`."""
    count, height, width, channels = places.shape
    if count == 1:
        return places[0]
    split = places.view(2, 2, height, width, channels).permute(2, 0, 3, 1, 4)
    return split.reshape(2 * height, 2 * width, channels)
