"""The pages and their files over HTTP, without a browser."""

from __future__ import annotations

import gzip
import re
from importlib.resources import files

import cv2
import httpx
import numpy as np
import pytest

from inference_server.playground import NAMES, SCENES
from tests.api.serving import RunningHere


@pytest.fixture(scope="session")
def server(listening: RunningHere) -> RunningHere:
    """A server behind a socket."""
    return listening


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
STATIC = files("inference_server.playground") / "static"


def test_browsers_get_the_page_and_others_json(server: RunningHere) -> None:
    html = (BROWSER, "text/html", "TEXT/HTML;q=0.5", "application/json, text/html")
    json = (
        *("*/*", "application/json", "application/json, text/html;q=0.9"),
        *("text/html;q=0, */*", "text/html;q=much", "text/*", ""),
    )
    for accept in (*html, *json):
        response = server.get("/", key=None, accept=accept)
        assert response.status_code == 200, accept
        assert "accept" in response.headers["vary"], accept
        if accept in html:
            assert response.headers["content-type"] == "text/html; charset=utf-8", accept
            assert response.text.startswith("<!doctype html>"), accept
        else:
            assert response.json()["links"]["docs"] == "/docs", accept


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_security_policy_allows_own_files_only(server: RunningHere, path: str) -> None:
    response = server.get(path, key=None, accept=BROWSER)
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in response.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert not re.search(r"https?:|\*|unsafe-eval", " ".join(policy.values()))
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    loaded = re.findall(r'(?:src|href)="(playground/[^"]+)"', response.text)
    assert len(loaded) >= 4
    for name in loaded:
        assert server.get(f"/{name}", key=None).status_code == 200, name


def test_the_playground_has_no_inline_code(server: RunningHere) -> None:
    policy = server.get("/", key=None, accept=BROWSER).headers["content-security-policy"]
    assert "unsafe" not in policy
    page = (STATIC / "index.html").read_text()
    assert not re.search(r'style="|\son\w+="|<style|<script(?! type="module" src=)', page)


def test_scripts_refer_to_existing_modules_and_elements() -> None:
    page = (STATIC / "index.html").read_text()
    scripts = [file for file in STATIC.iterdir() if file.name.endswith(".js")]
    assert len(scripts) > 10
    for script in scripts:
        code = script.read_text()
        for name in re.findall(r'from "\./([^"]+)"', code):
            assert name in NAMES, f"{script.name} imports {name}"
        for name in re.findall(r'byId\("([\w-]+)"\)', code):
            assert f'id="{name}"' in page, f"{script.name} refers to #{name}"


def test_text_files_are_compressed_and_revalidated(server: RunningHere) -> None:
    for name in ("main.js", "theme.css", "swagger-ui-bundle.js", "icon.svg"):
        path = f"/playground/{name}"
        plain = server.get(path, key=None, accept_encoding="identity")
        zipped = server.get(path, key=None, accept_encoding="gzip")
        assert "content-encoding" not in plain.headers
        assert zipped.headers["content-encoding"] == "gzip"
        assert zipped.content == plain.content
        assert len(gzip.compress(plain.content)) == int(zipped.headers["content-length"])
        assert plain.headers["cache-control"] == "no-cache"
        again = server.get(path, key=None, if_none_match=plain.headers["etag"])
        assert (again.status_code, again.content) == (304, b"")
        other = server.get(path, key=None, if_none_match='W/"another"')
        assert other.content == plain.content


def test_the_samples_are_the_scenes(server: RunningHere) -> None:
    for name, make in SCENES.items():
        response = server.get(f"/playground/{name}", key=None)
        assert response.headers["content-type"] == "image/jpeg"
        assert len(response.content) < 200_000
        pixels = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR_RGB)
        scene = make()
        assert pixels is not None
        assert pixels.shape == scene.image.shape
        assert np.abs(pixels.astype(int) - scene.image).mean() < 4


def test_unknown_files_are_not_found(server: RunningHere) -> None:
    for name in (
        *("nothing.js", "..%2fassets.py", "%2e%2e%2fassets.py", "..%5cassets.py"),
        *("static%2fmain.js", "__init__.py", "swagger-ui.js", "scene-1.jpg", "main.js%00"),
        *("%2fetc%2fpasswd", ""),
    ):
        # `raw_path`, because httpx would normalise the path.
        address = httpx.URL(server.url).copy_with(raw_path=f"/playground/{name}".encode())
        response = server.http.get(address)
        assert response.status_code == 404, name
        assert "/openapi.json" in response.json()["message"], name
