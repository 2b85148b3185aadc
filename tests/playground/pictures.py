"""The pictures of the playground in docs/: screenshots of the page in a real browser.

python -m tests.playground.pictures    regenerate docs/pictures/playground*.jpg
"""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.chromium import chromium
from tests.pictures import PICTURES
from tests.playground.desk import TIMEOUT, Desk, at_desk, new_context
from tests.readme import KEY, serving

VIEWPORT = {"width": 1280, "height": 1040}


def _save(desk: Desk, name: str) -> None:
    desk.page.mouse.move(0, 0)
    desk.page.evaluate("document.activeElement.blur()")
    data = desk.page.screenshot(type="jpeg", quality=80)
    (PICTURES / name).write_bytes(data)
    print(f"docs/pictures/{name}: {len(data)} bytes")


def several(browser: Browser, url: str) -> None:
    """Three classes, by words and a box, and the strip of open pictures."""
    with (
        new_context(browser, viewport=VIEWPORT, color_scheme="light") as context,
        at_desk(context, url, KEY) as desk,
    ):
        page = desk.page
        for about in ("stars, squares", "white and orange", "yellow crosses"):
            page.get_by_role("button", name=f"Sample: {about}").click()
            desk.settle()
        desk.sample("circles, crosses")
        desk.ask("circle=red circle", "cross")
        page.get_by_role("textbox", name="Add a class").fill("square")
        page.keyboard.press("Enter")
        desk.press("3")  # selects the class
        page.get_by_role("radio", name="Box").check(force=True)
        desk.drag((390, 304, 545, 460))
        page.get_by_role("radio", name="Include").check(force=True)
        desk.settle()
        _save(desk, "playground.jpg")


def dark(browser: Browser, url: str) -> None:
    """An object by a positive and a negative click, in the dark theme."""
    with (
        new_context(browser, viewport=VIEWPORT, color_scheme="dark") as context,
        at_desk(context, url, KEY) as desk,
    ):
        page = desk.page
        desk.sample("circles, crosses")
        page.get_by_role("textbox", name="Add a class").fill("square")
        page.keyboard.press("Enter")
        desk.click(408, 360)
        desk.click(305, 346, holding="Shift")
        _save(desk, "playground-dark.jpg")


def main() -> None:
    """Write all pictures."""
    expect.set_options(timeout=TIMEOUT)
    with serving(INFERENCE_API_KEYS=KEY) as (url, _), chromium() as browser:
        several(browser, url)
        dark(browser, url)


if __name__ == "__main__":
    main()
