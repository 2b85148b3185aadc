"""An encoded image whose redundant bytes are still being compared."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from inference_server.segmentation.types import EncodedImage


@dataclass(frozen=True, slots=True)
class PendingImage:
    """An encoded image whose redundant bytes may still be compared with the cached ones.

    Attributes:
        image: the image; its `mismatch` is not known yet while `check` runs.
        check: result is True if the request sent other bytes than those cached; None if nothing
            is left to compare.
    """

    image: EncodedImage
    check: asyncio.Task[bool] | None = None

    async def checked(self) -> EncodedImage:
        """Wait for the comparison and return the image with its final `mismatch`."""
        if self.check is None:
            return self.image
        return replace(self.image, mismatch=await self.check)
