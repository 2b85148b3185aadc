"""Tasks: what a request asks for, however it came: to be answered at once, or as a job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from inference_server.auth import Tenant, Work
from inference_server.observability.metrics import Metrics, Timings
from inference_server.observability.tracing import Traces
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.types import EncodedImage
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
        traces: exporter of spans; None if tracing is off.
    """

    segmenter: SegmentationService
    limits: Limits
    settings: Settings
    metrics: Metrics
    traces: Traces | None = None


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file that a task made.

    Attributes:
        name: of the file, such as `preview.png`; made by the server, never by a client.
        media_type: of the content.
        content: the file.
    """

    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task answers: JSON, or files.

    Attributes:
        image: that was segmented, for the headers that tell about it.
        body: what `orjson` can write, with numpy arrays; None where the answer is files.
        files: the answer; empty where it is JSON.
        in_base64: the files' contents are asked for in the answer itself, not their addresses.
    """

    image: EncodedImage | None
    body: dict[str, Any] | None = None
    files: tuple[ResultFile, ...] = ()
    in_base64: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of request.

    Attributes:
        request: type of the body, which a request is checked against before it is accepted.
        run: does it. Raises `InferenceServerError` for what the client should know.
        work: what a request asks for, which it is paid for by.
    """

    request: type[BaseModel]
    run: Callable[[TaskContext, Tenant, Any, Timings], Awaitable[TaskResult]]
    work: Callable[[Any], Iterable[Work]]
