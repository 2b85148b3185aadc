"""The pages and their files as HTTP answers them, without a browser."""

from __future__ import annotations

import gzip
import re
from importlib.resources import files

import cv2
import httpx
import numpy as np
import pytest

from inference_server.playground import NAMES, SCENES
from tests.http.serving import RunningHere

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
STATIC = files("inference_server.playground") / "static"


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML;q=0.5", True),
        ("application/json, text/html", True),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/html;q=0.9", False),
        ("text/html;q=0, */*", False),
        ("text/html;q=much", False),
        ("text/*", False),
        ("", False),
    ],
)
def test_browsers_get_the_page_and_others_json(
    server: RunningHere, accept: str, is_page: bool
) -> None:
    answer = server.get("/", key=None, accept=accept)
    assert answer.status_code == 200
    assert "accept" in answer.headers["vary"]
    if is_page:
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.text.startswith("<!doctype html>")
    else:
        assert answer.json()["links"]["docs"] == "/docs"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_may_load_nothing_from_elsewhere(server: RunningHere, path: str) -> None:
    answer = server.get(path, key=None, accept=BROWSER)
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert not re.search(r"https?:|\*|unsafe-eval", " ".join(policy.values()))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    loaded = re.findall(r'(?:src|href)="(playground/[^"]+)"', answer.text)
    assert len(loaded) >= 4
    for name in loaded:
        assert server.get(f"/{name}", key=None).status_code == 200, name


def test_the_styles_of_the_playground_are_its_own_files_alone(server: RunningHere) -> None:
    policy = server.get("/", key=None, accept=BROWSER).headers["content-security-policy"]
    assert "unsafe" not in policy
    page = (STATIC / "index.html").read_text()
    assert not re.search(r'style="|\son\w+="|<style|<script(?! type="module" src=)', page)


def test_every_module_that_a_script_imports_is_there() -> None:
    scripts = [file for file in STATIC.iterdir() if file.name.endswith(".js")]
    assert len(scripts) > 10
    for script in scripts:
        for name in re.findall(r'from "\./([^"]+)"', script.read_text()):
            assert name in NAMES, f"{script.name} imports {name}"


@pytest.mark.parametrize("name", ["main.js", "theme.css", "swagger-ui-bundle.js", "icon.svg"])
def test_texts_are_compressed_and_asked_for_once(server: RunningHere, name: str) -> None:
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


@pytest.mark.parametrize("name", sorted(SCENES))
def test_the_samples_are_the_scenes(server: RunningHere, name: str) -> None:
    answer = server.get(f"/playground/{name}", key=None)
    assert answer.headers["content-type"] == "image/jpeg"
    assert len(answer.content) < 200_000
    shown = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR_RGB)
    scene = SCENES[name]()
    assert shown is not None
    assert shown.shape == scene.image.shape
    assert np.abs(shown.astype(int) - scene.image).mean() < 4


@pytest.mark.parametrize(
    "name",
    [
        *(
            "nothing.js",
            "..%2fassets.py",
            "%2e%2e%2fassets.py",
            "..%5cassets.py",
            "static%2fmain.js",
        ),
        *("__init__.py", "swagger-ui.js", "scene-1.jpg", "main.js%00", "%2fetc%2fpasswd", ""),
    ],
)
def test_there_is_nothing_else(server: RunningHere, name: str) -> None:
    # httpx would tidy the path up.
    address = httpx.URL(server.url).copy_with(raw_path=f"/playground/{name}".encode())
    answer = server.http.get(address)
    assert answer.status_code == 404
    assert "/openapi.json" in answer.json()["message"]
