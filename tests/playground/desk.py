"""The playground as its user sees it: a page in a real browser, and what is drawn on it."""

from __future__ import annotations

import ast
import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect

from inference_server.demo.scenes import SceneObject
from tests.http.pictures import Plane
from tests.http.serving import ALICE, until

TIMEOUT = 60_000.0
_FILL = range(90, 236)
"""Alpha of a mask, and of two on top of each other; its outline has more."""
_WATCH = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
});
"""


def union(masks: Sequence[Plane]) -> Plane:
    """What any of the masks has."""
    return np.asarray(np.logical_or.reduce(masks), bool)


_LANGUAGES: dict[str, tuple[list[str], Callable[[str], Any]]] = {
    "curl": (["bash", "-c"], json.loads),
    "Python": ([sys.executable, "-c"], ast.literal_eval),
    "JavaScript": (["node", "--input-type=module", "-e"], json.loads),
}
"""What runs code, and what reads what it prints."""


class Desk:
    """A page, and all that it says and asks.

    Attributes:
        page: the page.
        url: of the server.
        asked: every request that the page has made.
        complaints: what the console says of errors and of the content security policy.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.asked: list[Request] = []
        self.complaints: list[str] = []
        page.set_default_timeout(TIMEOUT)
        page.add_init_script(_WATCH)
        page.on("request", lambda request: self.asked.append(request))
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        # The browser itself says of every refused request that it was refused.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    @property
    def calls(self) -> list[str]:
        """Paths of the API that the page has posted to."""
        return [r.url.removeprefix(self.url) for r in self.asked if r.method == "POST"]

    def sent(self, path: str) -> list[Any]:
        """Bodies of the requests to a path."""
        posted = [r for r in self.asked if r.method == "POST" and r.url == self.url + path]
        return [json.loads(r.post_data or "null") for r in posted]

    def settle(self) -> None:
        """Waits until everything that was asked is answered and drawn."""
        frames = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
        self.page.evaluate(frames)
        expect(self.page.locator("#progress")).to_be_hidden(timeout=TIMEOUT)
        self.page.evaluate(frames)

    @property
    def status(self) -> Locator:
        return self.page.get_by_role("status").first

    @property
    def stage(self) -> Locator:
        return self.page.locator("#stage")

    def upload(self, data: bytes, name: str = "scene.png") -> None:
        self.page.locator("#file").set_input_files(
            {"name": name, "mimeType": "image/png", "buffer": data}
        )
        self._opened(name)

    def sample(self, about: str) -> None:
        self.page.get_by_role("button", name=f"Sample: {about}").click()
        self._opened("scene")

    def _opened(self, name: str) -> None:
        # In this order: a picture before this one may have the same name.
        self.settle()
        label = re.compile(f"^Picture {re.escape(name)}")
        expect(self.page.get_by_role("application", name=label)).to_be_visible()

    def ask(self, *concepts: str) -> None:
        field = self.page.get_by_role("textbox", name="Add a concept")
        field.fill(", ".join(concepts))
        field.press("Enter")
        self.settle()

    def chip(self, concept: str) -> Locator:
        return self.page.get_by_role("button", name=f"Show {concept},")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the picture is on the screen."""
        self.stage.scroll_into_view_if_needed()
        box = self.stage.bounding_box()
        assert box is not None
        width, height = self.page.evaluate(
            "async () => { const i = document.getElementById('base'); await i.decode();"
            " return [i.naturalWidth, i.naturalHeight]; }"
        )
        return box["x"] + x / width * box["width"], box["y"] + y / height * box["height"]

    def click(self, x: float, y: float, *, shift: bool = False) -> None:
        at = self.place(x, y)
        if shift:
            self.page.keyboard.down("Shift")
        self.page.mouse.click(*at)
        if shift:
            self.page.keyboard.up("Shift")
        self.settle()

    def drag(self, box: tuple[float, float, float, float]) -> None:
        self.page.mouse.move(*self.place(*box[:2]))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(*box[2:]), steps=4)
        self.page.mouse.up()
        self.settle()

    def slide(self, name: str, value: float) -> None:
        self.page.get_by_role("slider", name=name).fill(str(value))
        self.settle()

    def overlay(self) -> NDArray[np.uint8]:
        """The canvas with the masks, as BGRA."""
        url = self.page.evaluate("() => document.getElementById('overlay').toDataURL()")
        return read_image(base64.b64decode(url.partition(",")[2]))

    def drawn(self, size: tuple[int, int]) -> Plane:
        """The masks on the screen, at the picture's (height, width), without their outlines."""
        alpha = self.overlay()[..., 3]
        filled = np.isin(alpha, np.array(_FILL)).astype(np.uint8)
        return cv2.resize(filled, size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)

    def download(self, name: str) -> bytes:
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=name, exact=True).click()
        return Path(download.value.path()).read_bytes()

    def code(self, language: str, directory: Path) -> Any:
        """What the copied code prints, run by its language beside the picture's file."""
        self.page.get_by_role("tab", name=language).click()
        # What was copied before says nothing of this time.
        self.page.evaluate("() => navigator.clipboard.writeText('')")
        self.page.get_by_role("button", name="Copy").click()
        until(lambda: self.page.evaluate("() => navigator.clipboard.readText()"))
        expect(self.status).to_have_text("Copied.")
        text = self.page.evaluate("() => navigator.clipboard.readText()")
        assert text == self.page.locator("#code").text_content()
        command, read = _LANGUAGES[language]
        done = subprocess.run(
            [*command, text],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return read(done.stdout)

    def check(self) -> None:
        """The page complains of nothing, and has asked nobody but its server."""
        assert self.complaints == []
        strangers = [
            r.url for r in self.asked if not r.url.startswith((self.url, "blob:", "data:"))
        ]
        assert strangers == []


def read_image(data: bytes) -> NDArray[np.uint8]:
    """A PNG as BGR or BGRA."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image, np.uint8)


@contextmanager
def at_desk(
    browser: Browser, url: str, key: str | None = ALICE, path: str = "/", **options: Any
) -> Iterator[Desk]:
    """Opens the page in a browser that knows nothing yet.

    Args:
        browser: the browser.
        url: of the server.
        key: to come along in the address.
        path: of the page.
        options: of the browser's context.
    """
    viewport = {"width": 1280, "height": 900}
    options = {"viewport": viewport, "reduced_motion": "reduce", **options}
    with browser.new_context(
        permissions=["clipboard-read", "clipboard-write"], **options
    ) as context:
        desk = Desk(context.new_page(), url)
        address = url + path + (f"#key={key}" if key else "")
        if path == "/":
            # What the page learns of the server moves what is below: nobody clicks before that.
            with desk.page.expect_response(f"{url}/models"):
                desk.page.goto(address)
            desk.settle()
        else:
            desk.page.goto(address)
        yield desk


def box_around(item: SceneObject, margin: float = 3) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = item.box
    return x0 - margin, y0 - margin, x1 + margin, y1 + margin
