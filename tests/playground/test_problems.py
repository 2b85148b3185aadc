"""API keys, and errors with their remedies."""

from __future__ import annotations

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from playwright.sync_api import BrowserContext, Locator, Route, expect

from tests.api.pictures import Picture, encoded, iou
from tests.api.serving import ALICE, RunningHere, serving, until
from tests.api.test_load import ask, gated
from tests.playground.desk import Desk, at_desk


def alert(desk: Desk) -> Locator:
    return desk.page.get_by_role("alert").first


def test_the_key_moves_from_the_url_to_the_tab(desk: Desk) -> None:
    page = desk.page
    expect(page.get_by_role("button", name="API key set")).to_be_visible()
    expect(page.get_by_role("heading", name="Demo weights")).to_be_visible()
    assert page.url == f"{desk.url}/"
    assert ALICE not in str(page.evaluate("() => [history.state, location.href, document.cookie]"))
    assert page.evaluate("() => Object.values(sessionStorage)") == [ALICE]
    assert ALICE not in str(page.evaluate("() => Object.values(localStorage)"))
    page.reload()
    expect(page.get_by_role("button", name="API key set")).to_be_visible()
    expect(alert(desk)).to_be_empty()
    # The key is sent in a header, never in a URL.
    assert not [request.url for request in desk.requests if ALICE in request.url]
    page.go_back()
    assert ALICE not in page.url


def test_a_missing_or_wrong_key(
    context: BrowserContext, server: RunningHere, picture: Picture
) -> None:
    with at_desk(context, server.url, None) as desk:
        expect(alert(desk)).to_contain_text("API key required")
        desk.upload(picture.data)
        item = picture.one("red square")
        desk.click(*item.click())
        expect(alert(desk)).to_contain_text("Enter a valid API key")
        desk.page.get_by_role("button", name="Enter API key").last.click()
        dialog = desk.page.get_by_role("dialog", name="API key")
        field = dialog.get_by_label("Key", exact=True)
        expect(field).to_be_focused()
        field.fill("two words")
        field.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("without spaces")
        field.fill(ALICE)
        held: list[Route] = []
        desk.page.route("**/sam3/visual_segment", lambda route: held.append(route))
        with desk.page.expect_request("**/sam3/visual_segment"):
            field.press("Enter")
        expect(dialog).to_be_hidden()
        # The failed requests are repeated with the new key, and the page says so.
        expect(desk.status).to_have_text("Segmenting Object 1…")
        expect(desk.page.locator("#progress")).to_be_visible()
        held[0].continue_()
        desk.page.unroute("**/sam3/visual_segment")
        expect(desk.page.get_by_role("button", name="Object 1 1 click")).to_be_visible()
        expect(alert(desk)).to_be_empty()
        desk.settle()
        assert iou(desk.drawn(picture.size), item.mask) > 0.7

        button = desk.page.get_by_role("button", name="API key set")
        button.click()
        dialog.get_by_role("button", name="Remove key").click()
        expect(alert(desk)).to_contain_text("API key required")
        assert desk.page.evaluate("() => sessionStorage.length") == 0
        desk.check()
    with at_desk(context, server.url, "inf_wrong") as desk:
        expect(alert(desk)).to_contain_text("Wrong API key")
        dialog = desk.page.get_by_role("dialog", name="API key")
        expect(dialog.get_by_role("alert")).to_contain_text("does not accept this key")
        # A link with a key replaces the wrong one.
        desk.page.goto(f"{server.url}/#key={ALICE}")
        expect(alert(desk)).to_be_empty()
        desk.check()


def test_a_file_that_is_not_an_image(desk: Desk, picture: Picture) -> None:
    desk.page.locator("#file").set_input_files(
        {"name": "notes.png", "mimeType": "image/png", "buffer": b"not an image"}
    )
    expect(alert(desk)).to_contain_text("The browser cannot decode the file")
    expect(alert(desk)).to_contain_text("notes.png")
    expect(desk.page.get_by_role("button", name="Retry")).to_have_count(0)
    desk.upload(picture.data)
    expect(alert(desk)).to_be_empty()


def test_a_picture_that_is_too_large(desk: Desk, picture: Picture) -> None:
    """A smaller copy is sent; prompts and masks keep the coordinates of the picture."""
    limit = 60_000
    posted: list[int] = []

    def answer(route: Route) -> None:
        body = json.loads(route.request.post_data or "null")
        posted.append(len(base64.b64decode(body["image"]["value"])))
        if posted[-1] <= limit:
            route.continue_()
        else:
            route.fulfill(status=413, json={"message": "The image file is larger than 60 kB."})

    assert len(picture.data) > 2 * limit
    desk.page.route("**/sam3/embed_image", answer)
    desk.upload(picture.data)
    expect(alert(desk)).to_contain_text("Image too large")
    expect(alert(desk)).to_contain_text("60 kB")
    expect(desk.page.get_by_role("button", name="Retry")).to_have_count(0)
    desk.page.get_by_role("button", name="Send a smaller copy").click()
    expect(alert(desk)).to_be_empty()
    desk.settle()
    assert posted == sorted(posted, reverse=True)
    assert posted[-1] <= limit < posted[-2]
    item = picture.one("red square")
    desk.click(*item.click())
    assert iou(desk.drawn(picture.size), item.mask) > 0.7


def test_the_progress_of_an_upload(desk: Desk) -> None:
    """The status and the progress bar tell the share that was sent."""
    page = desk.page
    page.evaluate(
        """() => {
            globalThis.seen = [];
            const look = () => seen.push([
                document.getElementById("status").textContent,
                document.getElementById("progress").ariaValueNow,
            ]);
            new MutationObserver(look).observe(document.body, { subtree: true, childList: true });
        }"""
    )
    network = page.context.new_cdp_session(page)
    speed = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 400_000}
    network.send("Network.emulateNetworkConditions", speed)
    rng = np.random.default_rng(1)
    desk.upload(encoded(rng.integers(0, 256, (300, 300, 3), np.uint8)))
    seen = [text for text, _ in page.evaluate("() => seen")]
    shares = [int(match[1]) for text in seen if (match := re.search(r"image… (\d+) %", text))]
    assert len(set(shares)) > 1
    assert shares == sorted(shares)
    assert {str(share) for share in shares} & {now for _, now in page.evaluate("() => seen")}


def test_an_invalid_request(desk: Desk, picture: Picture) -> None:
    """The page shows the server's message."""
    desk.upload(picture.data)
    # The field limits the length, but a server may be configured with a lower limit.
    long = "x" * 300
    desk.page.get_by_role("textbox", name="Add a concept").evaluate(
        "(field, value) => { field.removeAttribute('maxlength'); field.value = value; }", long
    )
    desk.page.get_by_role("button", name="Add", exact=True).click()
    expect(alert(desk)).to_contain_text("Invalid request")
    expect(alert(desk)).to_contain_text("256 characters")
    desk.settle()
    # After undo, the invalid prompt is not sent again.
    desk.page.get_by_role("button", name="Undo").click()
    desk.ask("red square")
    expect(alert(desk)).to_be_empty()
    expect(desk.status).to_have_text("red square: 1 mask.")


def test_a_busy_and_an_unreachable_server(context: BrowserContext, picture: Picture) -> None:
    with gated(queue_size=1) as (server, gate), ThreadPoolExecutor(4) as pool:
        first = ask(server, pool, 900)
        until(lambda: gate.arrived == 1)
        second = ask(server, pool, 901)
        until(lambda: server.waiting() == 1)
        with at_desk(context, server.url) as desk:
            desk.upload(picture.data)
            expect(alert(desk)).to_contain_text("Server busy")
            expect(alert(desk)).to_contain_text("INFERENCE_QUEUE_SIZE")
            expect(alert(desk)).to_contain_text("Retry in")
            gate.open()
            assert [each.result().status_code for each in (first, second)] == [200, 200]
            desk.page.get_by_role("button", name="Retry").click()
            desk.settle()
            item = picture.one("red square")
            desk.click(*item.click())
            expect(alert(desk)).to_be_empty()
            assert iou(desk.drawn(picture.size), item.mask) > 0.7

            context.set_offline(True)
            desk.ask("red circle")
            expect(alert(desk)).to_contain_text("Server unreachable")
            expect(alert(desk)).to_contain_text(server.url)
            context.set_offline(False)
            desk.page.get_by_role("button", name="Retry").click()
            expect(desk.chip("red circle")).to_contain_text("2")
            desk.check()


def test_the_code_has_no_key_if_the_server_needs_none(
    context: BrowserContext, picture: Picture
) -> None:
    with serving(auth="off", api_keys="") as server, at_desk(context, server.url, None) as desk:
        desk.upload(picture.data)
        desk.ask("red square")
        expect(alert(desk)).to_be_empty()
        expect(desk.status).to_have_text("red square: 1 mask.")
        for language in ("curl", "Python", "JavaScript"):
            desk.page.get_by_role("tab", name=language).click()
            expect(desk.page.locator("#code")).to_contain_text("concept_segment")
            expect(desk.page.locator("#code")).not_to_contain_text("x-api-key")
        desk.check()
