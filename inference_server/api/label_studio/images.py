"""Images of tasks: fetched once, and then found in the caches by their digest."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from cachetools import TTLCache

from inference_server.api.label_studio.host import LabelStudioHost
from inference_server.errors import UnknownImageError
from inference_server.images import could_not_load, read_header
from inference_server.observability.metrics import Timings
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.types import ImageRef, StoredImage
from inference_server.settings import Settings
from schemas.label_studio import LabelStudioTask

T = TypeVar("T")

Size = tuple[int, int]
"""(height, width) of an upright image in pixels."""

Work = Callable[[ImageRef, Size], Awaitable[T]]
"""Uses an image of a known size."""


class TaskImages:
    """Loads images of tasks, and remembers their digests.

    A click on an image whose embedding is cached needs neither the file nor its encoding.

    Args:
        settings: Label Studio's URL and token, and the bounds of the memory.
        now: returns the time in seconds. Default: a monotonic clock.
    """

    def __init__(self, settings: Settings, now: Callable[[], float] = time.monotonic) -> None:
        self._host = LabelStudioHost(settings.label_studio_url, settings.label_studio_api_key, now)
        self._max_address = settings.label_studio_max_address_length
        # By the digest of its address, so that an entry takes the same few bytes whatever is sent.
        self._known: TTLCache[tuple[str, bytes], tuple[str, Size]] = TTLCache(
            settings.label_studio_images, settings.label_studio_image_seconds, now
        )

    async def use(
        self,
        segmenter: SegmentationService,
        tenant: str,
        task: LabelStudioTask,
        column: str,
        work: Work[T],
        timings: Timings,
    ) -> T:
        """Load the image of a task, and use it.

        Args:
            segmenter: loads files.
            tenant: owner of the image.
            task: the task.
            column: column of its data that has the image.
            work: uses the image; called again with the file if its embedding is no longer cached.
            timings: receives the duration of each step.

        Returns:
            The result of `work`.

        Raises:
            ImageError: the image cannot be fetched or decoded.
            ImageTooLargeError: the image exceeds a limit.
        """
        value = _value(task.data, column)
        is_data = value[:5].lower() == "data:"
        if not is_data and len(value) > self._max_address:
            raise could_not_load(
                f"The address of the task's image has {len(value)} characters; at most "
                f"{self._max_address} are accepted.",
                "Shorten it, or raise INFERENCE_LABEL_STUDIO_MAX_ADDRESS_LENGTH on the server.",
            )
        # A data URL is read anyway, and may be large: it is not remembered.
        key = tenant, b"" if is_data else _digest(value)
        known = None if is_data else self._known.get(key)
        if known is not None:
            digest, size = known
            try:
                return await work(ImageRef(digest=digest), size)
            except UnknownImageError:
                self._known.pop(key, None)
        if is_data:
            stored = await segmenter.read(tenant, ImageRef(base64=value), timings)
        else:
            location = self._host.locate(value, task.id)
            stored = await self._host.fetch(segmenter.image_loader, tenant, location, timings)
        size = await segmenter.in_thread(partial(_size, stored))
        result = await work(ImageRef(file=stored), size)
        if not is_data:
            self._known[key] = stored.digest, size
        return result


def _value(data: dict[str, Any], column: str) -> str:
    found = data.get(column)
    value = found.strip() if isinstance(found, str) else ""
    if not value:
        raise could_not_load(
            f"The task has no image in its column {column[:64]!r}.",
            "Check the column that the Image tag names.",
        )
    return value


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()


def _size(image: StoredImage) -> Size:
    return read_header(image.data).upright_size
