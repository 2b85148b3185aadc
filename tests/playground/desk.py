"""Drives the playground in a real browser and reads what it draws."""

from __future__ import annotations

import ast
import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    FilePayload,
    Locator,
    Page,
    Request,
    expect,
)

from tests.api.pictures import Plane
from tests.api.serving import ALICE, until

TIMEOUT = 180_000.0
_FILL = range(90, 236)
"""Alpha of one mask and of two overlapping masks; outlines are more opaque."""
_WATCH = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
});
"""


def union(masks: Sequence[Plane]) -> Plane:
    """Union of masks."""
    return np.asarray(np.logical_or.reduce(masks), bool)


_LANGUAGES: dict[str, tuple[list[str], Callable[[str], Any]]] = {
    "curl": (["bash", "-c"], json.loads),
    "Python": ([sys.executable, "-c"], ast.literal_eval),
    "JavaScript": (["node", "--input-type=module", "-e"], json.loads),
}
"""Per language: command that runs the code, parser of its output."""


class Desk:
    """A page with its requests and errors.

    Attributes:
        page: The page.
        url: Base URL of the server.
        requests: All requests of the page.
        errors: JavaScript errors, console errors and violations of the Content-Security-Policy.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.requests: list[Request] = []
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT)
        page.add_init_script(_WATCH)
        page.on("request", lambda request: self.requests.append(request))
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _on_console(self, message: ConsoleMessage) -> None:
        # Chromium itself logs every response with an error status.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    @property
    def calls(self) -> list[str]:
        """Paths of all POST requests."""
        return [r.url.removeprefix(self.url) for r in self.requests if r.method == "POST"]

    def sent(self, path: str) -> list[Any]:
        """Bodies of the POST requests to a path."""
        posted = [r for r in self.requests if r.method == "POST" and r.url == self.url + path]
        return [json.loads(r.post_data or "null") for r in posted]

    def settle(self) -> None:
        """Wait until all requests are answered and rendered."""
        frames = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
        self.page.evaluate(frames)
        expect(self.page.locator("#progress")).to_be_hidden(timeout=TIMEOUT)
        expect(self.page.locator("#saved")).not_to_have_text("Saving…")
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

    def open(self, files: Mapping[str, bytes]) -> None:
        """Open several files at once, such as images or labels."""
        types = {".png": "image/png", ".jpg": "image/jpeg", ".json": "application/json"}
        self.page.locator("#file").set_input_files(
            [
                FilePayload(name=name, mimeType=types[Path(name).suffix], buffer=data)
                for name, data in files.items()
            ]
        )

    def sample(self, about: str) -> None:
        self.page.get_by_role("button", name=f"Sample: {about}").click()
        self._opened("scene")

    def _opened(self, name: str) -> None:
        # Settle first: the previous image may have the same name.
        self.settle()
        label = re.compile(f"^Image {re.escape(name)}")
        expect(self.page.get_by_role("application", name=label)).to_be_visible()

    def ask(self, *concepts: str) -> None:
        field = self.page.get_by_role("textbox", name="Add a concept")
        field.fill(", ".join(concepts))
        field.press("Enter")
        self.settle()

    def chip(self, concept: str) -> Locator:
        return self.page.get_by_role("button", name=f"Show {concept},")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Screen coordinates of an image pixel."""
        self.stage.scroll_into_view_if_needed()
        box = self.stage.bounding_box()
        assert box is not None
        width, height = self.page.evaluate(
            "async () => { const i = document.getElementById('base'); await i.decode();"
            " return [i.naturalWidth, i.naturalHeight]; }"
        )
        return box["x"] + x / width * box["width"], box["y"] + y / height * box["height"]

    def click(self, x: float, y: float, *, holding: str | None = None) -> None:
        """Click on an image pixel while the whole image is shown.

        Args:
            x: Column.
            y: Row.
            holding: Key that is held, such as `Shift`.
        """
        at = self.place(x, y)
        if holding:
            self.page.keyboard.down(holding)
        self.page.mouse.click(*at)
        if holding:
            self.page.keyboard.up(holding)
        self.settle()

    def press(self, *keys: str) -> None:
        """Press keys while the image has the focus."""
        for key in keys:
            self.stage.press(key)
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
        """The drawn masks without outlines, resized to the image's (height, width)."""
        alpha = self.overlay()[..., 3]
        filled = np.isin(alpha, np.array(_FILL)).astype(np.uint8)
        return cv2.resize(filled, size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)

    def download(self, name: str) -> bytes:
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=name, exact=True).click()
        return Path(download.value.path()).read_bytes()

    def code(self, *languages: str, directory: Path) -> list[Any]:
        """Copy the request as code and run it.

        Args:
            languages: Names of the tabs.
            directory: Working directory with the image file.

        Returns:
            The parsed output, per language.
        """
        texts = [self._copy(language) for language in languages]
        with ThreadPoolExecutor(len(languages)) as pool:
            return list(pool.map(_run, languages, texts, [directory] * len(languages)))

    def _copy(self, language: str) -> str:
        self.page.get_by_role("tab", name=language).click()
        # Clear the result of the previous copy.
        self.page.evaluate("() => navigator.clipboard.writeText('')")
        # By id: for a moment after a copy, the label is "Copied".
        self.page.locator("#copy").click()
        until(lambda: self.page.evaluate("() => navigator.clipboard.readText()"))
        expect(self.status).to_have_text("Copied.")
        text = str(self.page.evaluate("() => navigator.clipboard.readText()"))
        assert text == self.page.locator("#code").text_content()
        return text

    def check(self) -> None:
        """Assert that the page had no errors and sent requests to its own server only."""
        assert self.errors == []
        own = (self.url, "blob:", "data:")
        assert [r.url for r in self.requests if not r.url.startswith(own)] == []


def _run(language: str, code: str, directory: Path) -> Any:
    """Run code and parse its output."""
    command, parse = _LANGUAGES[language]
    done = subprocess.run(
        [*command, code], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return parse(done.stdout)


def read_image(data: bytes) -> NDArray[np.uint8]:
    """Decode a PNG as BGR or BGRA."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image, np.uint8)


def new_context(browser: Browser, **options: Any) -> BrowserContext:
    """Create a browser context.

    Args:
        browser: The browser.
        options: Options of the context that differ from those of a desktop.
    """
    options = {
        "viewport": {"width": 1280, "height": 900},
        "reduced_motion": "reduce",
        "permissions": ["clipboard-read", "clipboard-write"],
        **options,
    }
    return browser.new_context(**options)


@contextmanager
def at_desk(
    context: BrowserContext, url: str, key: str | None = ALICE, path: str = "/"
) -> Iterator[Desk]:
    """Open a page of the server in a new tab, without pictures of earlier tests.

    Args:
        context: The browser context.
        url: Base URL of the server.
        key: API key in the URL's fragment; None for no key.
        path: Path of the page.
    """
    with context.new_page() as page:
        forgotten = {"origin": url, "storageTypes": "indexeddb"}
        context.new_cdp_session(page).send("Storage.clearDataForOrigin", forgotten)
        desk = Desk(page, url)
        address = url + path + (f"#key={key}" if key else "")
        if path == "/":
            # The response moves parts of the page, so that earlier clicks could miss.
            with page.expect_response(f"{url}/models"):
                page.goto(address)
            desk.settle()
        else:
            page.goto(address)
        yield desk
