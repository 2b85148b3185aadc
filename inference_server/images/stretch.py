"""Stretch values of more than eight bits to 0 to 255."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_PIXELS = 1_000_000
"""Pixels that are enough to find the range of an image's values."""

_Array = NDArray[Any]


def value_range(bands: Sequence[_Array]) -> tuple[float, float]:
    """Return the values that become 0 and 255, the same for all bands, which keeps the hues.

    They are the lowest of the bands' 0.1st percentiles and the highest of their 99.9th; if these
    are equal, the minimum and maximum.

    Args:
        bands: the values of each band, `[n]` of any real dtype, n at least 1.
    """
    lows, highs = zip(*(_spread(band) for band in bands), strict=True)
    if min(lows) == max(highs):
        return float(min(map(np.min, bands))), float(max(map(np.max, bands)))
    return min(lows), max(highs)


def _spread(values: _Array) -> tuple[float, float]:
    """Return the 0.1st and 99.9th percentiles, as values that occur.

    Of 1000 or fewer values these are the minimum and maximum.

    Args:
        values: `[n]` of any real dtype, n at least 1.
    """
    beyond = (values.size - 1) // 1000
    ordered = np.partition(values, (beyond, values.size - 1 - beyond))
    return float(ordered[beyond]), float(ordered[values.size - 1 - beyond])


def to_bytes(
    values: _Array, *, low: float, high: float, negative: bool = False
) -> NDArray[np.uint8]:
    """Scale values to 0 to 255; NaN becomes 0.

    Args:
        values: any real dtype and shape.
        low: value that becomes 0.
        high: value that becomes 255; if not greater than `low`, values above it become 255.
        negative: whether to invert the result; default False.
    """
    with np.errstate(all="ignore"):  # values may be as large as their dtype allows
        if low < high:
            scaled: NDArray[np.floating[Any]] = values.astype(
                np.float32 if values.dtype == np.float32 else np.float64
            )
            scaled -= low
            scaled *= 255 / (high - low)
        else:
            scaled = np.where(values > high, np.float32(255), np.float32(0))
        np.nan_to_num(scaled, copy=False, posinf=255, neginf=0)
        np.rint(scaled.clip(0, 255, out=scaled), out=scaled)
        whole = scaled.astype(np.uint8)
    return np.subtract(255, whole) if negative else whole
