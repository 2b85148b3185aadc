"""Images of tasks: how long their addresses may be, and what is remembered of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from inference_server.api.label_studio.images import Size, TaskImages
from inference_server.errors import ImageError
from inference_server.observability.metrics import Timings
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.types import ImageRef, StoredImage
from inference_server.settings import Settings
from schemas.label_studio import LabelStudioTask
from tests.api.label_studio.projects import data_url
from tests.api.pictures import Picture

pytestmark = pytest.mark.anyio

URL = "https://example.com/a.png"


@dataclass
class Loader:
    """Scripted segmentation service and image loader.

    Attributes:
        data: content of every image.
        fetched: addresses that were fetched.
        read: data URLs that were read.
    """

    data: bytes
    fetched: list[str] = field(default_factory=list)
    read_urls: list[str] = field(default_factory=list)

    @property
    def image_loader(self) -> Loader:
        return self

    async def fetch(self, tenant: str, url: str, timings: Timings) -> StoredImage:
        self.fetched.append(url)
        return StoredImage.of(self.data)

    async def read(self, tenant: str, image: ImageRef, timings: Timings) -> StoredImage:
        self.read_urls.append(image.base64 or "")
        return StoredImage.of(self.data)

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        return work()


async def size_of(images: TaskImages, loader: Loader, address: str) -> Size:
    """Use an image of a task, and return its size."""

    async def work(image: ImageRef, size: Size) -> Size:
        return size

    service: SegmentationService = loader  # type: ignore[assignment]
    task = LabelStudioTask(id=1, data={"image": address})
    return await images.use(service, "alice", task, "image", work, Timings())


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_white_space_around_an_address_is_not_a_part_of_it(picture: Picture) -> None:
    images, loader = TaskImages(Settings()), Loader(picture.data)
    for address in (URL, " " * 1_000_000 + URL, f"{URL}\n"):
        assert await size_of(images, loader, address) == picture.scene.image.shape[:2]
    assert loader.fetched == [URL]
    inline = data_url(picture.data)
    await size_of(images, loader, f"\n {inline} ")
    assert loader.read_urls == [inline]


async def test_a_long_address_is_refused_and_a_long_data_url_is_not(picture: Picture) -> None:
    settings = Settings(label_studio_max_address_length=len(URL))
    images, loader = TaskImages(settings), Loader(picture.data)
    await size_of(images, loader, URL)
    with pytest.raises(ImageError, match=r"26 characters; at most 25 .*MAX_ADDRESS_LENGTH"):
        await size_of(images, loader, f"{URL}x")
    assert loader.fetched == [URL]
    await size_of(images, loader, data_url(picture.data))


async def test_what_is_remembered_of_an_address_has_one_size(picture: Picture) -> None:
    images, loader = TaskImages(Settings()), Loader(picture.data)
    for n in range(3):
        await size_of(images, loader, f"{URL}?{n}{'x' * 8000}")
        await size_of(images, loader, f"data:image/png;base64,{'x' * 8000}{n}")
    assert len(loader.fetched) == 3
    assert [len(digest) for _, digest in images._known] == [32, 32, 32]
