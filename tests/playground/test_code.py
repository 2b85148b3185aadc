"""The request as code: the copied snippets run and return what the page shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.api.pictures import Picture
from tests.api.serving import ALICE, RunningHere
from tests.playground.desk import Desk

LANGUAGES = ("curl", "Python", "JavaScript")
NAME = "it's $HOME.png"
"""A file name that needs quoting in shells."""


@pytest.fixture(autouse=True)
def _node() -> None:
    assert shutil.which("node"), "Node is missing"


def test_concepts_from_a_file(desk: Desk, picture: Picture, tmp_path: Path) -> None:
    """With the values of the sliders, in all languages, and with a concept that needs quoting."""
    (tmp_path / NAME).write_bytes(picture.data)
    desk.upload(picture.data, NAME)
    desk.ask("red circle", "shape")
    desk.page.get_by_role("textbox", name="Add a concept").fill('a "$(id)" \\ `id` – ✓')
    desk.page.keyboard.press("Enter")
    desk.settle()
    desk.slide("Minimum confidence", 0.3)
    desk.slide("Maximum overlap (NMS)", 0.4)
    shown = {
        concept: int(desk.chip(concept).locator(".number").text_content() or "")
        for concept in ("red circle", "shape")
    }
    assert shown["red circle"] + shown["shape"] >= 6
    expect(desk.page.locator("#code")).to_contain_text("YOUR_API_KEY")
    expect(desk.page.locator("#code")).not_to_contain_text(ALICE)
    desk.page.get_by_label("Show API key").check()
    for answer in (answers := desk.code(*LANGUAGES, directory=tmp_path)):
        results = answer["prompt_results"]
        assert [result["echo"]["text"] for result in results[:2]] == list(shown)
        assert results[2]["echo"]["text"] == 'a "$(id)" \\ `id` – ✓'
        assert [len(result["predictions"]) for result in results[:2]] == list(shown.values())
        assert results == answers[0]["prompt_results"]


def test_an_object_by_image_id(
    desk: Desk, picture: Picture, server: RunningHere, tmp_path: Path
) -> None:
    desk.upload(picture.data)
    desk.click(*picture.one("red square").click())
    desk.click(*picture.one("red square").click())
    desk.page.get_by_role("combobox", name="Image").select_option("By id")
    desk.page.get_by_label("Show API key").check()
    (last,) = desk.sent("/sam3/visual_segment")[-1:]
    shown = server.answer("/sam3/visual_segment", **last)["predictions"]
    for answer in desk.code(*LANGUAGES, directory=tmp_path):
        assert answer["predictions"] == shown


def test_which_request_is_shown(desk: Desk, picture: Picture) -> None:
    """The request of the latest prompt, unless another one is chosen."""
    code = desk.page.locator("#code")
    choice = desk.page.get_by_role("combobox", name="Request")
    expect(desk.page.get_by_role("button", name="Copy")).to_be_disabled()
    desk.sample("circles, crosses")
    # A sample is not a local file.
    expect(desk.page.get_by_role("combobox", name="Image")).to_have_value("id")
    desk.click(320, 280)
    expect(code).to_contain_text("/sam3/visual_segment")
    desk.ask("red circle")
    expect(code).to_contain_text("/sam3/concept_segment")
    expect(code).to_contain_text('"output_prob_thresh": 0.5')
    choice.select_option("Object 1")
    expect(code).to_contain_text('{"points": [{"x": 320, "y": 280, "positive": true}]}')
    desk.upload(picture.data)
    expect(desk.page.get_by_role("combobox", name="Image")).to_have_value("file")
    expect(code).to_contain_text("image=$(base64 < 'scene.png' | tr")
    # The arrow keys switch between the languages.
    desk.page.get_by_role("tab", name="curl").focus()
    for key, name, text in (
        ("ArrowRight", "Python", "import requests"),
        ("ArrowRight", "JavaScript", "await fetch("),
        ("ArrowRight", "curl", "curl -s "),
        ("ArrowLeft", "JavaScript", "await fetch("),
    ):
        desk.page.keyboard.press(key)
        tab = desk.page.get_by_role("tab", name=name)
        expect(tab).to_be_focused()
        expect(tab).to_have_attribute("aria-selected", "true")
        expect(desk.page.get_by_role("tabpanel", name=name)).to_contain_text(text)
