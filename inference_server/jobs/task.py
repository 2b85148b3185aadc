"""Tasks: the work behind a request, run by an endpoint at once or by a job worker later."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from inference_server.auth import Tenant, Work
from inference_server.engines.catalog import Catalog
from inference_server.images.raster_source import RasterSource
from inference_server.jobs.progress import Attempt
from inference_server.observability.metrics import Metrics, Timings
from inference_server.observability.tracing import Traces
from inference_server.segmentation.raster_files import RasterFiles
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.types import EncodedImage, StoredImage
from inference_server.settings import Settings
from schemas.common import Limits


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a task needs from the process that runs it.

    Attributes:
        segmenter: turns images and prompts into masks.
        limits: bounds that request bodies are validated against.
        settings: the server's settings.
        metrics: where job outcomes and timings are recorded.
        rasters: opens rasters by URL, or in the administrator's directory.
        traces: exporter of spans; None if tracing is off.
        image: file of the image that a job's request names by its id alone, as it was when the job
            was accepted. Default: None, the id is looked up in the caches.
        upload: file that the request sent beside its fields, as a form does. Default: None, the
            fields name the image.
        raster: file that a form sent and that is too large to be read as a whole; its owner closes
            it. Default: none.
        attempt: the attempt of the job. Default: None, the request is answered at once.
        by_windows: entered while a raster is segmented by windows; it may give the work more time,
            and limit how much of it there is. Default: does nothing.
    """

    segmenter: SegmentationService
    limits: Limits
    settings: Settings
    metrics: Metrics
    rasters: RasterFiles
    traces: Traces | None = None
    image: StoredImage | None = None
    upload: StoredImage | None = None
    raster: RasterSource | None = None
    attempt: Attempt | None = None
    by_windows: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file that a task produced.

    Attributes:
        name: file name such as `preview.png`; chosen by the server, never by a client.
        media_type: media type of the content.
        content: the file's bytes.
    """

    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The result of a task, not rendered yet: exactly one of `body` and `files` is set.

    Encoding masks takes CPU time. Both callables are therefore called once, in a worker thread,
    by the code that serialises the result: the endpoint or the job worker.

    Attributes:
        image: the image that was segmented, for the response headers; None if there is none.
        body: returns the JSON value, for `orjson` with numpy arrays.
        files: returns the files.
    """

    image: EncodedImage | None
    body: Callable[[], object] | None = None
    files: Callable[[], tuple[ResultFile, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of request that an endpoint and a job worker can both run.

    Attributes:
        request: model that validates the request body.
        run: runs the task; raises `InferenceServerError` with a message for the client.
        work: returns the units of work of a request body, which determine its price in credits.
        image_id: returns the id of the image that a request body names without sending it; None if
            it sends the image. Default: requests always send it.
        check: refuses a request body whose model this server does not have, before it is accepted
            as a job. Default: none is refused.
    """

    request: type[BaseModel]
    run: Callable[[TaskContext, Tenant, Any, Timings], Awaitable[TaskResult]]
    work: Callable[[Any], Iterable[Work]]
    image_id: Callable[[Any], str | None] = lambda body: None
    check: Callable[[Catalog, Any], object] = lambda catalog, body: None
