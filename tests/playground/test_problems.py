"""Keys, and errors in words with their remedies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.http.pictures import Picture, iou
from tests.http.serving import ALICE, RunningHere, serving, until
from tests.http.test_load import ask, gated
from tests.playground.desk import Desk, at_desk


def alert(desk: Desk) -> Locator:
    return desk.page.get_by_role("alert").first


def test_the_key_leaves_the_address_and_stays_in_the_tab(desk: Desk) -> None:
    page = desk.page
    expect(page.get_by_role("button", name="Key is set")).to_be_visible()
    expect(page.get_by_role("heading", name="Demo weights")).to_be_visible()
    assert page.url == f"{desk.url}/"
    assert ALICE not in str(page.evaluate("() => [history.state, location.href, document.cookie]"))
    assert page.evaluate("() => Object.values(sessionStorage)") == [ALICE]
    assert ALICE not in str(page.evaluate("() => Object.values(localStorage)"))
    page.reload()
    expect(page.get_by_role("button", name="Key is set")).to_be_visible()
    expect(alert(desk)).to_be_empty()
    # It goes in a header, and never in an address.
    assert not [request.url for request in desk.asked if ALICE in request.url]
    page.go_back()
    assert ALICE not in page.url


@pytest.mark.parametrize("key", [None, "inf_wrong"])
def test_a_missing_or_wrong_key_is_told_and_mended(
    browser: Browser, server: RunningHere, picture: Picture, key: str | None
) -> None:
    with at_desk(browser, server.url, key) as desk:
        expect(alert(desk)).to_contain_text("The server wants an API key")
        desk.upload(picture.data)
        item = picture.one("red square")
        desk.click(*item.click())
        expect(alert(desk)).to_contain_text("Enter a key that this server knows.")
        desk.page.get_by_role("button", name="Enter key").last.click()
        dialog = desk.page.get_by_role("dialog", name="API key")
        field = dialog.get_by_label("Key", exact=True)
        expect(field).to_be_focused()
        field.fill("two words")
        field.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("no spaces")
        field.fill(ALICE)
        field.press("Enter")
        expect(dialog).to_be_hidden()
        # What could not be asked is asked now.
        expect(desk.page.get_by_role("button", name="Object 1 1 click")).to_be_visible()
        expect(alert(desk)).to_be_empty()
        desk.settle()
        assert iou(desk.drawn(picture.size), item.mask) > 0.7
        desk.page.get_by_role("button", name="Key is set").click()
        dialog.get_by_role("button", name="Forget").click()
        expect(alert(desk)).to_contain_text("The server wants an API key")
        assert desk.page.evaluate("() => sessionStorage.length") == 0
        desk.check()


def test_a_file_that_is_no_picture(desk: Desk, picture: Picture) -> None:
    desk.page.locator("#file").set_input_files(
        {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture at all"}
    )
    expect(alert(desk)).to_contain_text("This browser cannot show the file")
    expect(alert(desk)).to_contain_text("notes.png")
    desk.upload(picture.data)
    expect(alert(desk)).to_be_empty()


def test_a_request_that_is_not_valid(desk: Desk, picture: Picture, server: RunningHere) -> None:
    """The server's own words, which name what is wrong."""
    desk.upload(picture.data)
    # Longer than the field takes: pasted by a script, as the server's bound may be lower.
    long = "x" * 300
    desk.page.get_by_role("textbox", name="Add a concept").evaluate(
        "(field, value) => { field.removeAttribute('maxlength'); field.value = value; }", long
    )
    desk.page.get_by_role("button", name="Add", exact=True).click()
    expect(alert(desk)).to_contain_text("The request is not valid")
    expect(alert(desk)).to_contain_text("256 characters")
    desk.settle()
    # What is taken back is asked no more.
    desk.page.get_by_role("button", name="Undo").click()
    desk.ask("red square")
    expect(alert(desk)).to_be_empty()
    expect(desk.status).to_have_text("red square: 1 mask.")


def test_a_busy_server_and_one_that_has_gone(browser: Browser, picture: Picture) -> None:
    with gated(queue_size=1) as (server, gate), ThreadPoolExecutor(4) as pool:
        first = ask(server, pool, 900)
        until(lambda: gate.arrived == 1)
        second = ask(server, pool, 901)
        until(lambda: server.waiting() == 1)
        with at_desk(browser, server.url) as desk:
            desk.upload(picture.data)
            expect(alert(desk)).to_contain_text("The server is busy")
            expect(alert(desk)).to_contain_text("INFERENCE_QUEUE_SIZE")
            expect(alert(desk)).to_contain_text("Try again in")
            gate.open()
            assert [each.result().status_code for each in (first, second)] == [200, 200]
            desk.page.get_by_role("button", name="Try again").click()
            desk.settle()
            item = picture.one("red square")
            desk.click(*item.click())
            expect(alert(desk)).to_be_empty()
            assert iou(desk.drawn(picture.size), item.mask) > 0.7

            desk.page.context.set_offline(True)
            desk.ask("red circle")
            expect(alert(desk)).to_contain_text("The server does not answer")
            expect(alert(desk)).to_contain_text(server.url)
            desk.page.context.set_offline(False)
            desk.page.get_by_role("button", name="Try again").click()
            expect(desk.chip("red circle")).to_contain_text("2")
            desk.check()


def test_without_keys_the_code_has_none(browser: Browser, picture: Picture) -> None:
    with serving(auth="off", api_keys="") as server, at_desk(browser, server.url, None) as desk:
        desk.upload(picture.data)
        desk.ask("red square")
        expect(alert(desk)).to_be_empty()
        expect(desk.status).to_have_text("red square: 1 mask.")
        for language in ("curl", "Python", "JavaScript"):
            desk.page.get_by_role("tab", name=language).click()
            expect(desk.page.locator("#code")).to_contain_text("concept_segment")
            expect(desk.page.locator("#code")).not_to_contain_text("x-api-key")
        desk.check()
