"""Accessibility: keyboard, names and roles, small touch screens, contrast in both themes."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.api.pictures import Picture
from tests.api.serving import RunningHere
from tests.playground.desk import Desk, at_desk, new_context


def focus_by_tab(desk: Desk, selector: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(60):
        desk.page.keyboard.press("Tab")
        if desk.page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"{selector} is not reachable with Tab")


def test_keyboard_only(desk: Desk, picture: Picture) -> None:
    """Open a sample, add a concept, a click and a box without a pointer."""
    page, press = desk.page, desk.page.keyboard.press
    focus_by_tab(desk, ".sample")
    press("Enter")
    expect(page.get_by_role("application", name="Image scene.jpg")).to_be_visible()
    desk.settle()
    focus_by_tab(desk, "#concept")
    page.keyboard.type("red circle")
    press("Enter")
    desk.settle()
    expect(desk.status).to_have_text("red circle: 2 masks.")
    # The field keeps the focus; Backspace in the empty field removes the last concept.
    expect(page.locator("#concept")).to_be_focused()
    press("Backspace")
    desk.settle()
    assert not desk.drawn((480, 640)).any()

    desk.stage.focus()
    outline = desk.stage.evaluate("(stage) => getComputedStyle(stage).outlineStyle")
    assert outline != "none"
    # From the centre of the image to the green cross, 16 pixels per key press.
    for key, times in (("ArrowRight", 14), ("ArrowDown", 1)):
        for _ in range(times):
            press(key)
    press("Shift+ArrowRight")
    expect(desk.status).to_have_text("Crosshair at 545, 256.")
    press("Enter")
    desk.settle()
    assert desk.drawn((480, 640))[256, 545]
    press("ArrowLeft")
    press("Shift+Enter")
    desk.settle()
    (points,) = [prompt["points"] for prompt in desk.sent("/sam3/visual_segment")[-1]["prompts"]]
    assert [point["positive"] for point in points] == [True, False]
    press("n")
    press("b")
    press("ArrowLeft")
    press("ArrowUp")
    press("Enter")
    desk.settle()
    (prompt,) = desk.sent("/sam3/visual_segment")[-1]["prompts"]
    assert (prompt["box"]["width"], prompt["box"]["height"]) == (16, 16)
    press("Control+z")
    desk.settle()
    assert page.get_by_role("button", name="Remove Object").count() == 1
    focus_by_tab(desk, ".row .toggle")
    press("Space")
    desk.settle()
    expect(page.get_by_role("button", name="Show Object 1")).to_be_focused()
    assert not desk.drawn((480, 640)).any()


def test_controls_have_names_and_roles(desk: Desk) -> None:
    desk.sample("circles, crosses")
    desk.ask("red circle")
    desk.click(320, 280)
    unnamed = desk.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, canvas[tabindex]")]
            .filter((each) => each.checkVisibility() && !each.computedName?.length)
            .filter((each) => !(each.ariaLabel || each.textContent.trim() || each.labels?.length
                || each.title || each.querySelector("img[alt]:not([alt=''])")))
            .map((each) => each.outerHTML)"""
    )
    assert unnamed == []
    page = desk.page
    for role, name in (
        ("heading", "inference-server"),
        ("main", None),
        ("navigation", "Server"),
        ("toolbar", "Image tools"),
        ("radiogroup", "Prompt type"),
        ("radio", "Exclude"),
        ("textbox", "Add a concept"),
        ("slider", "Minimum confidence"),
        ("slider", "Maximum overlap (NMS)"),
        ("application", "Image scene.jpg"),
        ("complementary", "Prompts and masks"),
        ("tablist", "Language"),
        ("list", "Concepts"),
        ("button", "Remove red circle"),
        ("button", "Undo"),
        ("link", "API reference"),
    ):
        expect(page.get_by_role(role, name=name).first).to_be_attached()  # type: ignore[arg-type]
    expect(page.get_by_role("application")).to_have_accessible_description(
        "The arrow keys move the crosshair; with Shift, by one pixel. Enter clicks; Shift+Enter "
        "excludes. B sets the first corner of a box, Enter the second. N starts a new object. "
        "J and K select the next and previous mask; Delete removes it, H hides it, 1 to 9 give it "
        "a class. Plus, minus and 0 zoom. Comma and period change the picture. Escape cancels."
    )
    identities = page.evaluate("() => [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(identities) == len(set(identities))


def test_a_phone(browser: Browser, server: RunningHere, picture: Picture) -> None:
    """At a width of 360 pixels with touch: no horizontal scrolling, and all prompts work."""
    phone = new_context(
        browser,
        viewport={"width": 360, "height": 740},
        device_scale_factor=2,
        has_touch=True,
        is_mobile=True,
    )
    with phone, at_desk(phone, server.url) as desk:
        desk.upload(picture.data)
        desk.ask("red circle", "a concept with a rather long name that goes on and on and on")
        item, other = picture.one("red square"), picture.one("blue square")
        desk.page.touchscreen.tap(*desk.place(*item.click()))
        desk.settle()
        expect(desk.page.get_by_role("button", name="Object 1 1 click")).to_be_visible()
        assert (desk.drawn(picture.size) & item.mask).sum() > 0.7 * item.mask.sum()
        desk.page.get_by_role("radio", name="Exclude").check(force=True)
        desk.page.touchscreen.tap(*desk.place(*other.click()))
        desk.settle()
        points = desk.sent("/sam3/visual_segment")[-1]["prompts"][0]["points"]
        assert [point["positive"] for point in points] == [True, False]
        for element in desk.page.locator("details").all():
            element.evaluate("(each) => { each.open = true; }")
        widths = desk.page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert widths == [360, 360]
        # Dragging draws in box mode and scrolls the page in the other modes.
        desk.page.get_by_role("radio", name="Box").check(force=True)
        style = "(stage) => getComputedStyle(stage).touchAction"
        assert desk.stage.evaluate(style) == "none"
        desk.page.get_by_role("radio", name="Include").check(force=True)
        assert desk.stage.evaluate(style) == "pan-x pan-y"
        # Two fingers zoom the picture, then one finger moves it; neither is a click.
        calls = len(desk.calls)
        x, y = desk.place(320, 240)
        level = desk.page.locator("#zoom-fit")
        expect(level).to_be_disabled()
        fingers = desk.page.context.new_cdp_session(desk.page)

        def touch(kind: str, *places: tuple[float, float]) -> None:
            points = [{"x": x + dx, "y": y + dy, "id": n} for n, (dx, dy) in enumerate(places)]
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", (-20, 0))
        touch("touchStart", (-20, 0), (20, 0))
        for step in range(1, 5):
            touch("touchMove", (-20 - 10 * step, 0), (20 + 10 * step, 0))
        touch("touchEnd")
        expect(level).to_be_enabled()
        assert desk.stage.evaluate(style) == "none"
        left = "() => parseFloat(document.getElementById('base').style.left)"
        before = desk.page.evaluate(left)
        touch("touchStart", (0, 0))
        for step in range(1, 5):
            touch("touchMove", (-10 * step, 0))
        touch("touchEnd")
        desk.settle()
        assert desk.page.evaluate(left) < before - 5
        assert len(desk.calls) == calls
        desk.check()


_CONTRAST = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const light = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
            const part = value / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (each) => {
        for (let at = each; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
        }
        return "white";
    };
    const poor = [];
    for (const each of document.querySelectorAll("body *")) {
        const own = [...each.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!own || !each.checkVisibility() || each.closest(":disabled, .unseen, .skip")) continue;
        const [a, b] = [light(getComputedStyle(each).color), light(ground(each))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) poor.push([contrast.toFixed(2), each.outerHTML.slice(0, 120)]);
    }
    return poor;
}"""


def test_dark_and_light(browser: Browser, server: RunningHere) -> None:
    """The theme follows the system until the button is used; text has enough contrast in both."""
    colours = {"light": "rgb(244, 245, 248)", "dark": "rgb(14, 16, 20)"}
    context = new_context(browser, color_scheme="dark")
    with context, at_desk(context, server.url) as desk:
        page = desk.page
        button = page.get_by_role("button", name="Dark theme")

        def check(theme: str) -> None:
            expect(button).to_have_attribute("aria-pressed", str(theme == "dark").lower())
            ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
            assert ground == colours[theme]
            assert page.evaluate(_CONTRAST) == []

        desk.sample("circles, crosses")
        desk.ask("red circle")
        desk.click(320, 280)
        check("dark")
        page.emulate_media(color_scheme="light")
        check("light")
        button.click()
        check("dark")
        page.reload()
        check("dark")
        button.click()
        page.emulate_media(color_scheme="dark")
        check("light")
        desk.check()
