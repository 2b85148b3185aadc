"""As much of CVAT's API as its agents need: one task with one image, and queues of requests."""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

FUNCTION, TASK = 7, 1


@dataclass
class Cvat:
    """A stub of CVAT.

    Attributes:
        url: its address.
        image: the PNG file of the task's only frame.
        size: (height, width) of the image.
        labels: names of the task's labels.
        function: what a client created or the test set, as `GET /api/functions/ID` answers.
        waiting: parameters of requests that an agent can acquire.
        completed: results of requests, in order.
        failed: error messages of requests, in order.
        uploaded: annotations that were uploaded.
    """

    url: str
    image: bytes
    size: tuple[int, int]
    labels: list[str]
    function: dict[str, Any] = field(default_factory=dict)
    waiting: list[dict[str, Any]] = field(default_factory=list)
    completed: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    uploaded: list[dict[str, Any]] = field(default_factory=list)

    def get(self, path: str, query: dict[str, list[str]]) -> Any:
        """Return the answer to a GET request: JSON, or bytes."""
        if path == "/api/server/about":
            about = dict.fromkeys(("name", "description", "logo_url", "subtitle"), "x")
            return {**about, "version": "2.80.0"}
        if path == f"/api/functions/{FUNCTION}":
            return self.function
        if path == f"/api/tasks/{TASK}":
            return {
                "id": TASK,
                "name": "pictures",
                "jobs": {"count": 1, "completed": 0, "validation": 0, "url": "http://x"},
                "labels": {"url": "http://x/labels"},
                "size": 1,
                "organization": None,
                "mode": "annotation",
                "dimension": "2d",
                "data": 1,
                "data_chunk_size": 72,
                "data_compressed_chunk_type": "imageset",
                "data_original_chunk_type": "imageset",
                "created_date": "2026-01-01T00:00:00Z",
                "updated_date": "2026-01-01T00:00:00Z",
            }
        if path == f"/api/tasks/{TASK}/data/meta":
            height, width = self.size
            frame = {"name": "picture.png", "width": width, "height": height, "related_files": 0}
            return {
                "chunks_updated_date": "2026-01-01T00:00:00Z",
                "frames": [frame],
                "deleted_frames": [],
                "size": 1,
                "start_frame": 0,
                "stop_frame": 0,
                "frame_filter": "",
                "chunk_size": 72,
                "image_quality": 70,
            }
        if path == "/api/labels":
            found = [
                {"id": 100 + index, "name": name, "type": "any", "attributes": [], "sublabels": []}
                for index, name in enumerate(self.labels)
            ]
            return {"count": len(found), "next": None, "previous": None, "results": found}
        if path == f"/api/tasks/{TASK}/data/" or path == f"/api/tasks/{TASK}/data":
            if query["type"] == ["frame"]:
                return self.image
            chunk = BytesIO()
            with zipfile.ZipFile(chunk, "w") as archive:
                archive.writestr("000000.png", self.image)
            return chunk.getvalue()
        return None

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON that answers another request."""
        if path == "/api/functions":
            # An interactor without negative points has -1.
            defaults = {"min_neg_points": -1, "startswith_box": False}
            self.function = {
                "id": FUNCTION,
                **defaults,
                "startswith_box_optional": False,
                **body,
            }
            for label in self.function.get("labels_v2", []):
                label.setdefault("type", "any")
            return self.function
        if path.endswith("/requests/acquire"):
            batch = self.waiting and self.waiting[0]["type"] != "interact"
            if not self.waiting or (body["request_category"] == "batch") != bool(batch):
                return {"ar_assignment": None}
            number = len(self.completed) + len(self.failed)
            return {"ar_assignment": {"ar_id": f"r{number}", "ar_params": self.waiting.pop(0)}}
        if path.endswith("/complete"):
            self.completed.append(body)
        elif path.endswith("/fail"):
            self.failed.append(body["exc_info"])
        elif path == f"/api/tasks/{TASK}/annotations/":
            self.uploaded.append(body)
            return {"version": 0, "tags": [], "shapes": [], "tracks": []}
        elif not path.endswith("/update"):
            return None
        return {}


@contextmanager
def cvat(image: bytes, size: tuple[int, int], labels: list[str]) -> Iterator[Cvat]:
    """Run a stub of CVAT on 127.0.0.1.

    Args:
        image: the PNG file of the task's only frame.
        size: (height, width) of the image.
        labels: names of the task's labels.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            self._answer(stub.get(url.path, parse_qs(url.query)))

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length) or b"{}")
            self._answer(stub.post(urlsplit(self.path).path, body))

        do_PATCH = do_PUT = do_POST  # noqa: N815 - the server looks for these names

        def _answer(self, found: Any) -> None:
            is_file = isinstance(found, bytes)
            data = found if is_file else json.dumps(found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("content-type", "image/png" if is_file else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stub = Cvat(f"http://127.0.0.1:{server.server_port}", image, size, labels)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield stub
        server.shutdown()
