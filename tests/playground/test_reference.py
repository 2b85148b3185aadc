"""The API reference: Swagger UI, served by this server, sends requests to this server."""

from __future__ import annotations

import json

from playwright.sync_api import BrowserContext, expect

from tests.api.pictures import Picture
from tests.api.serving import ALICE, RunningHere
from tests.playground.desk import at_desk


def test_try_it_out(context: BrowserContext, server: RunningHere, picture: Picture) -> None:
    with at_desk(context, server.url, path="/docs") as desk:
        page = desk.page
        assert ALICE not in page.url
        expect(page.get_by_role("heading", name="inference-server")).to_be_visible()
        document = server.get("/openapi.json", key=None).json()
        operations = sum(len(methods) for methods in document["paths"].values())
        expect(page.locator(".opblock-summary-path")).to_have_count(operations)
        operation = page.locator("#operations-Segmentation-conceptSegment")
        operation.locator(".opblock-summary-control").click()
        body = {"image": picture.sent, "prompts": [{"text": "red circle"}], "format": "rle"}
        operation.locator("textarea").first.fill(json.dumps(body))
        with page.expect_response("**/sam3/concept_segment*") as answered:
            operation.get_by_role("button", name="Execute").click()
        assert answered.value.status == 200
        assert answered.value.request.headers["x-api-key"] == ALICE
        (result,) = answered.value.json()["prompt_results"]
        assert len(result["predictions"]) == 2
        expect(operation.locator(".live-responses-table")).to_contain_text("prompt_results")
        desk.check()


def test_without_a_key(context: BrowserContext, server: RunningHere) -> None:
    with at_desk(context, server.url, None, path="/docs") as desk:
        operation = desk.page.locator("#operations-System-listModels")
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Execute").click()
        table = operation.locator(".live-responses-table")
        expect(table).to_contain_text("401")
        expect(table).to_contain_text("The API key is missing")
        desk.page.get_by_role("link", name="Playground").click()
        expect(desk.page.get_by_role("main")).to_contain_text("Drop images or a folder here")
        desk.check()
