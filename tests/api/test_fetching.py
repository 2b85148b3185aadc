"""Images by URL: each of the settings, through a running server."""

from __future__ import annotations

import base64
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.api.pictures import Gallery, noise
from tests.api.serving import SAM2_EMBED, Running, serving

PNG = base64.b64decode(noise(700)["value"])


@pytest.fixture(scope="module")
def images(gallery: Gallery) -> Any:
    """URLs of images by name, on a server that redirects `/n` to `/n-1`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            left = int(self.path.strip("/"))
            self.send_response(302)
            target = f"/{left - 1}" if left > 1 else gallery.url + "/end.png"
            self.send_header("location", target)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    gallery.hang("/end.png", PNG)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as redirecting:
        threading.Thread(target=redirecting.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{redirecting.server_port}"
        yield {"direct": gallery.url + "/end.png"} | {n: f"{base}/{n}" for n in range(1, 6)}
        redirecting.shutdown()


def error_message(server: Running, url: str, status: int = 400) -> str:
    response = server.post(SAM2_EMBED, {"image": {"type": "url", "value": url}})
    assert response.status_code == status, response.text
    message = response.json().get("message", "")
    assert isinstance(message, str)
    return message


def test_defaults_deny_this_machine_and_follow_three_redirects(
    server: Running, gallery: Gallery, images: Any
) -> None:
    error_message(server, images["direct"], 200)
    error_message(server, images[3], 200)
    assert "more than 3 times" in error_message(server, images[4])
    with serving(ready=False) as closed:
        gallery.visits.clear()
        assert "INFERENCE_FETCH_NETWORKS" in error_message(closed, images["direct"])
        assert "INFERENCE_FETCH_NETWORKS" in error_message(closed, images[1])
    assert gallery.visits == []


def test_https_only(gallery: Gallery, images: Any) -> None:
    with serving(ready=False, fetch_https_only=True, fetch_networks="127.0.0.0/8") as strict:
        gallery.visits.clear()
        assert "Only complete https URLs" in error_message(strict, images["direct"])
        # The gallery has no TLS; the connection attempt shows that https is allowed.
        assert "TLS failed" in error_message(strict, images["direct"].replace("http:", "https:"))
    assert gallery.visits == []


def test_allowed_hosts(gallery: Gallery, images: Any) -> None:
    with serving(
        ready=False, fetch_hosts="localhost, *.example.com", fetch_networks="127.0.0.0/8, ::1"
    ) as choosy:
        gallery.visits.clear()
        assert "does not fetch images from 127.0.0.1" in error_message(choosy, images["direct"])
        assert gallery.visits == []
        error_message(choosy, images["direct"].replace("127.0.0.1", "localhost"), 200)
        # A redirect to another host is refused as well.
        first = images[1].replace("127.0.0.1", "localhost")
        gallery.visits.clear()
        assert "does not fetch images from 127.0.0.1" in error_message(choosy, first)
    assert gallery.visits == []


def test_redirects_bytes_and_seconds(gallery: Gallery, images: Any) -> None:
    gallery.hang("/large.png", PNG + bytes(1 << 20))
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        serving(ready=False, fetch_timeout=0.001, fetch_networks="127.0.0.0/8") as hasty,
    ):
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/x.png"
        assert "within 0.001 seconds" in error_message(hasty, url)
    with serving(
        ready=False, fetch_redirects=0, max_image_mb=1, fetch_networks="127.0.0.0/8"
    ) as small:
        assert "more than 0 times" in error_message(small, images[1])
        assert "INFERENCE_MAX_IMAGE_MB" in error_message(small, gallery.url + "/large.png", 413)


def test_memory_of_a_tenant(gallery: Gallery) -> None:
    gallery.hang("/large.png", PNG + bytes(2 << 20))
    with serving(ready=False, fetch_tenant_memory_mb=1, fetch_networks="127.0.0.0/8") as small:
        url = {"type": "url", "value": gallery.url + "/large.png"}
        response = small.post(SAM2_EMBED, {"image": url})
        assert response.status_code == 429, response.text
        assert response.headers["retry-after"] == "1"
        assert "INFERENCE_FETCH_TENANT_MEMORY_MB" in response.json()["message"]


@pytest.mark.parametrize("name", ["page.html", "picture.svg", "paper.pdf"])
def test_the_format_is_detected_from_the_content(
    server: Running, gallery: Gallery, name: str
) -> None:
    contents = {
        "page.html": (b"<!doctype html><p>Hello", "web page"),
        "picture.svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        "paper.pdf": (b"%PDF-1.7\n", "PDF"),
    }
    content, guess = contents[name]
    gallery.hang("/" + name, content)
    assert guess in error_message(server, f"{gallery.url}/{name}")
    # An image is accepted whatever its name and media type.
    gallery.hang("/" + name, PNG)
    error_message(server, f"{gallery.url}/{name}", 200)


def test_a_url_with_a_password(server: Running, gallery: Gallery, images: Any) -> None:
    gallery.visits.clear()
    url = images["direct"].replace("://", "://user:s3cret@")
    message = error_message(server, url)
    assert "user name or password" in message
    assert "s3cret" not in message
    assert gallery.visits == []
