"""From a picture and prompts to what is drawn: checked on the canvas, against the scene's truth."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from playwright.sync_api import Route, expect

from inference_server.demo.scenes import SceneObject, make_scene
from inference_server.playground import SCENES
from tests.http.pictures import Picture, Plane, iou, plane
from tests.http.serving import RunningHere
from tests.playground.desk import Desk, union

# What is drawn follows the server's masks closely, and these the truth as the demo does.
GOOD = 0.7
SAME = 0.95


def answered(server: RunningHere, picture: Picture, *texts: str) -> Plane:
    """The masks that the server gives for concepts, as one plane."""
    found = server.concept(picture.sent, *texts)
    return union([plane(each, picture.size) for one in found for each in one])


def test_a_file_and_words(desk: Desk, picture: Picture, server: RunningHere) -> None:
    desk.upload(picture.data)
    desk.ask("red circle", "blue square")
    expect(desk.chip("red circle")).to_have_accessible_name("Show red circle, 2 masks")
    expect(desk.chip("blue square")).to_have_accessible_name("Show blue square, 1 mask")
    expect(desk.status).to_have_text("red circle: 2 masks; blue square: 1 mask.")
    drawn = desk.drawn(picture.size)
    assert iou(drawn, answered(server, picture, "red circle", "blue square")) > SAME
    truth = union([*picture.matching("red circle"), *picture.matching("blue square")])
    assert iou(drawn, truth) > GOOD
    # The picture went over once, and was encoded while nobody had asked for anything.
    assert desk.calls == ["/sam2/embed_image", "/sam3/concept_segment"]
    (asked,) = desk.sent("/sam3/concept_segment")
    assert "image" not in asked
    assert asked["image_id"] == desk.sent("/sam2/embed_image")[0]["image_id"]


def test_a_concept_that_is_not_there_is_no_error(desk: Desk, picture: Picture) -> None:
    desk.upload(picture.data)
    desk.ask("green star")
    expect(desk.status).to_have_text("green star: 0 masks.")
    assert not desk.drawn(picture.size).any()


def test_more_words_ask_for_themselves_alone(desk: Desk, picture: Picture) -> None:
    desk.upload(picture.data)
    desk.ask("red circle")
    desk.ask("blue circle", "Red Circle")
    asked = [[p["text"] for p in body["prompts"]] for body in desk.sent("/sam3/concept_segment")]
    assert asked == [["red circle"], ["blue circle"]]


def test_prompts_are_toggled_one_by_one(desk: Desk, picture: Picture) -> None:
    desk.upload(picture.data)
    desk.ask("red circle", "blue circle")
    red, blue = (union(picture.matching(text)) for text in ("red circle", "blue circle"))
    calls = len(desk.calls)
    desk.chip("red circle").click()
    expect(desk.chip("red circle")).to_have_attribute("aria-pressed", "false")
    desk.settle()
    drawn = desk.drawn(picture.size)
    assert iou(drawn, blue) > GOOD
    assert iou(drawn, red) < 0.1
    desk.chip("blue circle").click()
    desk.settle()
    assert not desk.drawn(picture.size).any()
    desk.chip("red circle").click()
    desk.settle()
    assert iou(desk.drawn(picture.size), red) > GOOD
    assert len(desk.calls) == calls


def test_each_prompt_has_a_colour_of_its_own(desk: Desk, picture: Picture) -> None:
    desk.upload(picture.data)
    desk.ask("red circle", "blue circle")
    pixels, scale = desk.overlay(), desk.drawn(picture.size)
    height, width = pixels.shape[:2]
    seen = []
    for text in ("red circle", "blue circle"):
        x, y = picture.one(text).click()
        assert scale[int(y), int(x)]
        at = pixels[int(y / picture.size[0] * height), int(x / picture.size[1] * width)]
        seen.append(at[:3].astype(int))
    assert np.abs(seen[0] - seen[1]).max() > 60


def test_a_paste(desk: Desk, picture: Picture) -> None:
    desk.page.evaluate(
        """async (data) => {
            const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([bytes], "image.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }""",
        picture.sent["value"],
    )
    expect(desk.page.get_by_role("application", name="Picture picture.png")).to_be_visible()
    desk.settle()
    desk.ask("red square")
    assert iou(desk.drawn(picture.size), union(picture.matching("red square"))) > GOOD


def test_a_paste_by_the_keyboard(desk: Desk, picture: Picture) -> None:
    """Through the system's clipboard, as a user does it."""
    desk.page.evaluate(
        """async (data) => {
            const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
            const file = new Blob([bytes], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": file })]);
        }""",
        picture.sent["value"],
    )
    desk.page.keyboard.press("Control+v")
    expect(desk.page.get_by_role("application", name="Picture picture.png")).to_be_visible()
    expect(desk.status).to_contain_text("640 × 480")
    desk.settle()


def test_a_drop(desk: Desk, picture: Picture) -> None:
    desk.page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
            const frame = document.getElementById("frame");
            for (const name of ["dragover", "drop"]) {
                const options = { dataTransfer, bubbles: true, cancelable: true };
                const event = new DragEvent(name, options);
                frame.dispatchEvent(event);
                if (!event.defaultPrevented) throw new Error(`${name} is left to the browser`);
            }
        }""",
        picture.sent["value"],
    )
    expect(desk.page.get_by_role("application", name="Picture dropped.png")).to_be_visible()
    desk.settle()


def _hard(item: SceneObject) -> tuple[float, float]:
    """A click near the edge of an object, which says less than one in its middle."""
    x, y = item.click()
    return x + (item.box[2] - item.box[0]) * 0.2, y


def test_clicks_refine_an_object(desk: Desk, picture: Picture) -> None:
    desk.upload(picture.data)
    item = picture.one("blue circle")
    desk.click(*_hard(item))
    expect(desk.page.get_by_role("button", name="Object 1 1 click")).to_be_visible()
    assert iou(desk.drawn(picture.size), item.mask) > 0.6
    desk.click(*item.click())
    row = desk.page.get_by_role("button", name="Object 1 2 clicks")
    expect(row).to_have_attribute("aria-pressed", "true")
    assert iou(desk.drawn(picture.size), item.mask) > GOOD
    first, second = desk.sent("/sam2/segment_image")
    assert [len(body["prompts"][0]["points"]) for body in (first, second)] == [1, 2]
    assert first["prompts"][0]["points"] == second["prompts"][0]["points"][:1]
    # The second click is answered from the cached picture and the first one's logits.
    assert first["save_logits_to_cache"] is second["load_logits_from_cache"] is True
    assert "image" not in second
    expect(desk.page.locator("#answer")).to_contain_text("Cache hit")
    expect(desk.page.locator("#answer")).to_contain_text("sam2/demo")
    timings = desk.page.get_by_role("list", name="Timings of the server").get_by_role("listitem")
    assert "decode prompts" in " ".join(timings.all_text_contents())


def test_a_negative_click_leaves_out(desk: Desk) -> None:
    """Of a blue circle and what touches it, one click takes both, and a second one mends that."""
    scene = make_scene(24, (640, 480), count=(6, 9))
    item = scene.objects[6]
    size = (480, 640)
    desk.upload(Picture(scene).data)
    desk.click(*item.click())
    before = desk.drawn(size)
    wrong = cv2.erode((before & ~item.mask).astype(np.uint8), np.ones((5, 5)))
    distance = cv2.distanceTransform(wrong, cv2.DIST_L2, 5)
    y, x = np.unravel_index(int(distance.argmax()), size)
    assert wrong.sum() > 1000
    desk.click(float(x), float(y), shift=True)
    expect(desk.page.get_by_role("button", name="Object 1 2 clicks")).to_be_visible()
    after = desk.drawn(size)
    assert not after[y, x]
    assert (after & ~item.mask).sum() < 0.2 * (before & ~item.mask).sum()
    assert iou(after, item.mask) > max(0.9, iou(before, item.mask))
    points = desk.sent("/sam2/segment_image")[-1]["prompts"][0]["points"]
    assert [point["positive"] for point in points] == [True, False]


def test_a_negative_click_needs_an_object(desk: Desk, picture: Picture) -> None:
    desk.upload(picture.data)
    desk.click(20, 20, shift=True)
    expect(desk.status).to_contain_text("click on an object first")
    assert desk.calls == ["/sam2/embed_image"]


def test_boxes_and_further_objects(desk: Desk, picture: Picture) -> None:
    desk.upload(picture.data)
    red, blue = picture.one("red square"), picture.one("blue square")
    desk.drag(red.box)
    assert iou(desk.drawn(picture.size), red.mask) > GOOD
    desk.drag(blue.box)
    assert iou(desk.drawn(picture.size), red.mask | blue.mask) > GOOD
    (sent,) = desk.sent("/sam2/segment_image")[0]["prompts"]
    x0, y0, x1, y1 = red.box
    for name, value in {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": x1 - x0}.items():
        assert abs(sent["box"][name] - value) < 2
    desk.page.get_by_role("button", name="Remove Object 1").click()
    desk.settle()
    assert iou(desk.drawn(picture.size), blue.mask) > GOOD
    # A click after "New object" is about another one.
    desk.page.get_by_role("button", name="New object").click()
    desk.click(*red.click())
    assert desk.page.get_by_role("button", name="Remove Object").count() == 2


def test_an_example_finds_its_like(desk: Desk, picture: Picture, server: RunningHere) -> None:
    desk.upload(picture.data)
    desk.page.get_by_role("radio", name="Example").check(force=True)
    item = picture.one("red circle")
    desk.drag(item.box)
    (asked,) = desk.sent("/sam3/concept_segment")
    (prompt,) = asked["prompts"]
    assert prompt["type"] == "visual"
    assert prompt["box_labels"] == [1]
    (found,) = server.concept(picture.sent, prompt)
    expect(desk.chip("Example 1")).to_contain_text(str(len(found)))
    drawn = desk.drawn(picture.size)
    assert iou(drawn, union([plane(each, picture.size) for each in found])) > SAME
    assert (drawn & item.mask).sum() > GOOD * item.mask.sum()


def test_sliders_filter_at_once_and_as_the_server_does(
    desk: Desk, picture: Picture, server: RunningHere
) -> None:
    desk.upload(picture.data)
    texts = ("circle", "red circle", "shape")
    desk.ask(*texts)
    calls = len(desk.calls)
    seen = set()
    for threshold, overlap in ((0.05, 1), (0.6, 1), (0.5, 0.5), (0.05, 0.3), (0.95, 1)):
        desk.slide("Least confidence", threshold)
        desk.slide("Most overlap (NMS)", overlap)
        fields = {"nms_iou_threshold": overlap} if overlap < 1 else {}
        found = server.concept(picture.sent, *texts, output_prob_thresh=threshold, **fields)
        for text, predictions in zip(texts, found, strict=True):
            expect(desk.chip(text)).to_contain_text(f"{text}{len(predictions)}")
        counts = sum(map(len, found))
        expect(desk.page.locator("#counts")).to_contain_text(f"{counts} of ")
        seen.add(counts)
    assert len(seen) >= 4
    assert len(desk.calls) == calls


def test_undo_and_redo_ask_nothing(desk: Desk, picture: Picture) -> None:
    desk.upload(picture.data)
    item, other = picture.one("red square"), picture.one("blue circle")
    desk.click(*item.click())
    desk.page.get_by_role("button", name="New object").click()
    desk.click(*other.click())
    both = desk.drawn(picture.size)
    calls = len(desk.calls)
    undo, redo = (desk.page.get_by_role("button", name=name) for name in ("Undo", "Redo"))
    undo.click()
    desk.settle()
    assert iou(desk.drawn(picture.size), item.mask) > GOOD
    desk.page.keyboard.press("Control+z")
    desk.settle()
    assert not desk.drawn(picture.size).any()
    expect(undo).to_be_disabled()
    desk.page.keyboard.press("Control+Shift+Z")
    redo.click()
    desk.settle()
    assert (desk.drawn(picture.size) == both).all()
    expect(redo).to_be_disabled()
    desk.page.get_by_role("button", name="Clear").click()
    desk.settle()
    assert not desk.drawn(picture.size).any()
    undo.click()
    desk.settle()
    assert (desk.drawn(picture.size) == both).all()
    assert len(desk.calls) == calls


def test_samples_with_what_is_on_them(desk: Desk) -> None:
    scene = SCENES["scene-8.jpg"]()
    desk.sample("yellow crosses")
    desk.page.get_by_role("button", name="yellow cross", exact=True).click()
    desk.settle()
    truth = union([item.mask for item in scene.matching("yellow cross")])
    assert iou(desk.drawn((480, 640)), truth) > GOOD
    # Words are kept for the next picture, and asked about it.
    desk.sample("upright")
    expect(desk.chip("yellow cross")).to_be_visible()
    assert len(desk.sent("/sam3/concept_segment")) == 2
    sent = base64.b64decode(desk.sent("/sam2/embed_image")[1]["image"]["value"])
    assert sent.startswith(b"\xff\xd8\xff")


def test_the_picture_that_was_chosen_last_is_shown(desk: Desk) -> None:
    """Also if one that was chosen before it comes later."""
    held: list[Route] = []
    late = "**/playground/scene-8.jpg"
    desk.page.route(late, lambda route: held.append(route))
    desk.page.get_by_role("button", name="Sample: yellow crosses").click()
    expect(desk.status).to_have_text("Opening the picture…")
    expect(desk.page.locator("#progress")).to_be_visible()
    desk.sample("upright")
    expect(desk.page.get_by_role("application")).to_have_accessible_name("Picture scene-13.jpg")
    with desk.page.expect_response(late) as answered:
        for route in held:
            route.continue_()
    answered.value.finished()
    # Long enough for a picture to be opened and sent: this one is, and it is the only one.
    desk.click(320, 240)
    expect(desk.page.get_by_role("application")).to_have_accessible_name("Picture scene-13.jpg")
    assert desk.calls == ["/sam2/embed_image", "/sam2/segment_image"]


def test_another_size_of_sam2(desk: Desk, picture: Picture) -> None:
    desk.upload(picture.data)
    desk.click(*picture.one("red square").click())
    desk.page.get_by_label("Size of SAM 2").select_option("hiera_tiny")
    desk.settle()
    versions = [body.get("sam2_version_id") for body in desk.sent("/sam2/segment_image")]
    assert versions == [None, "hiera_tiny"]


def test_a_picture_that_the_server_has_forgotten_is_sent_again(
    desk: Desk, picture: Picture, server: RunningHere
) -> None:
    desk.upload(picture.data)
    server.segmenter.forget()
    item = picture.one("red square")
    desk.click(*item.click())
    assert iou(desk.drawn(picture.size), item.mask) > GOOD
    assert ["image" in body for body in desk.sent("/sam2/segment_image")] == [False, True]
    expect(desk.page.get_by_role("alert").first).to_be_empty()
