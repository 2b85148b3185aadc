"""What Label Studio calls: health, setup, batches, interactive predictions, events."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference_server.api.label_studio import routes
from inference_server.auth import Work
from tests.api.label_studio.projects import (
    BASIC,
    HEALTH,
    PREDICT,
    PROJECT,
    SETUP,
    VERSIONS,
    WEBHOOK,
    answered,
    body,
    click,
    config,
    data_url,
    plane,
    point,
    post,
    rectangle,
    task,
    words,
)
from tests.api.pictures import Gallery, Picture, Plane, encoded, iou
from tests.api.rasters import assert_same_objects
from tests.api.serving import ALICE, BOB, RunningHere, in_process

RED, BLUE = "red circle", "blue square"


@pytest.fixture(scope="module")
def image(picture: Picture) -> str:
    """The picture as a data URL."""
    return data_url(picture.data)


def basic(user: str, password: str) -> dict[str, str]:
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"authorization": f"Basic {text}"}


def masks(prediction: dict[str, Any], label: str | None = None) -> list[Plane]:
    """Return the masks of a prediction, or those of a label."""
    return [
        plane(region)
        for region in prediction["result"]
        if label is None or region["value"][region["type"]] == [label]
    ]


def version(server: RunningHere, label_config: str, extra: Any = None, project: str = "9.1") -> str:
    sent = {"project": project, "schema": label_config, "extra_params": extra}
    response = post(server, SETUP, sent)
    assert response.status_code == 200, response.text
    found: str = response.json()["model_version"]
    return found


class TestHealth:
    def test_it_is_up(self, server: RunningHere) -> None:
        response = server.http.get(HEALTH, headers=BASIC)
        assert response.status_code == 200
        assert response.json() == {"status": "UP", "model_class": "sam3/demo"}

    @pytest.mark.parametrize("credentials", [("x", ALICE), (ALICE, "x"), (ALICE, ""), ("", ALICE)])
    def test_the_key_is_the_user_or_the_password(
        self, server: RunningHere, credentials: tuple[str, str]
    ) -> None:
        for path in (HEALTH, VERSIONS):
            assert server.http.get(path, headers=basic(*credentials)).status_code == 200
        sent = {"schema": config(RED), "project": "1.1"}
        for path, content in ((SETUP, sent), (PREDICT, body([], config(RED)))):
            response = server.http.post(path, json=content, headers=basic(*credentials))
            assert response.status_code == 200, response.text

    def test_a_wrong_key_is_told(self, server: RunningHere) -> None:
        for headers in ({}, basic("a", "b"), {"authorization": "Basic ?"}):
            for method, path in (
                ("GET", HEALTH),
                ("GET", VERSIONS),
                ("POST", SETUP),
                ("POST", PREDICT),
            ):
                response = server.http.request(method, path, headers=headers)
                assert response.status_code == 401, path
                assert response.json()["status"] == 401
                assert "key" in response.json()["detail"]

    def test_events_need_no_key(self, server: RunningHere) -> None:
        for sent in ({"action": "START_TRAINING", "project": {"id": 7}}, {"action": "X"}):
            response = server.http.post(WEBHOOK, json=sent)
            assert response.status_code == 201
            assert response.json() == {"result": None, "status": "ok"}


class TestSetup:
    def test_the_version_tells_what_predictions_depend_on(self, server: RunningHere) -> None:
        plain = version(server, config(RED))
        assert plain.startswith("sam3/demo-")
        same = config(RED).replace("><", ">\n  <")
        assert version(server, same) == plain
        others = [
            version(server, config(BLUE)),
            version(server, config(f'<Label value="{RED}" predicted_values="disc"/>')),
            version(server, config(RED), {"score_threshold": 0.4}),
            version(server, config(RED, attributes='model_score_threshold="0.4"')),
        ]
        assert len({plain, *others}) == 5

    def test_the_version_is_that_of_the_predictions(self, server: RunningHere, image: str) -> None:
        expected = version(server, config(RED), {"nms_iou_threshold": 0.6}, PROJECT)
        contexts: list[Any] = [None, {"result": []}, {"result": [words(RED)]}, {"event": "x"}]
        for context in contexts:
            (found,) = answered(server, body([task(1, image)], config(RED), context))
            assert found["model_version"] == expected
        versions = server.http.get(VERSIONS, headers=BASIC).json()["versions"]
        assert expected in versions
        others = server.http.get(VERSIONS, headers=basic("x", BOB)).json()["versions"]
        assert expected not in others
        version(server, config(RED), None, PROJECT)

    @pytest.mark.parametrize(
        ("label_config", "told"),
        [
            ("<View/>", "no Image tag"),
            ("", "not valid XML"),
            ("<View>", "not valid XML"),
            ('<View><Image name="i" value="$x"/></View>', "no control for masks"),
            ('<View><Image name="i" value="x"/></View>', "no Image tag"),
            (
                '<View><Image name="i" value="$x"/><BrushLabels name="b" toName="j"/></View>',
                "no control for masks",
            ),
            ('<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>', "DOCTYPE"),
            ("<View>" * 70 + "</View>" * 70, "levels deep"),
            (config(RED, attributes='model_box="circle"'), "box"),
            (config(RED, attributes='model_output="kp"'), "'kp'"),
        ],
    )
    def test_an_unusable_configuration_is_refused(
        self, server: RunningHere, label_config: str, told: str
    ) -> None:
        response = post(server, SETUP, {"project": "1.1", "schema": label_config})
        assert response.status_code == 400, response.text
        assert response.json().keys() == {"status", "detail", "code", "request"}
        assert response.json()["status"] == 400
        assert told in response.json()["detail"]

    def test_errors_are_logged_because_label_studio_does_not_show_them(
        self, server: RunningHere, caplog: pytest.LogCaptureFixture
    ) -> None:
        post(server, SETUP, {"project": "1.1", "schema": "<View/>", "access_token": "s3cret"})
        post(server, PREDICT, {"tasks": [], "project": []})
        told = [record.getMessage() for record in caplog.records if "Label Studio" in record.msg]
        assert "no Image tag" in told[0]
        assert "label_config" in told[1]
        assert "s3cret" not in caplog.text


class TestBatch:
    def test_labels_are_the_concepts(
        self, server: RunningHere, picture: Picture, image: str
    ) -> None:
        (found,) = answered(server, body([task(1, image)], config(RED, BLUE, "green star")))
        for label in (RED, BLUE):
            assert_same_objects(masks(found, label), picture.matching(label))
        assert not masks(found, "green star")
        scores = [region["score"] for region in found["result"]]
        assert scores == sorted(scores, reverse=True)
        assert found["score"] == pytest.approx(np.mean(scores))
        ids = {region["id"] for region in found["result"]}
        assert len(ids) == len(found["result"]) == 3
        for region in found["result"]:
            assert (region["from_name"], region["to_name"]) == ("out", "image")
            assert (region["original_width"], region["original_height"]) == (640, 480)
            assert region["image_rotation"] == 0

    @pytest.mark.parametrize(
        ("output", "at_least"),
        [
            ("BrushLabels", 0.8),
            ("BitmaskLabels", 0.8),
            ("PolygonLabels", 0.8),
            ("RectangleLabels", 0.6),
        ],
    )
    def test_every_output(
        self, server: RunningHere, picture: Picture, image: str, output: str, at_least: float
    ) -> None:
        (found,) = answered(server, body([task(1, image)], config(RED, output=output)))
        assert {region["type"] for region in found["result"]} == {output.lower()}
        truth = picture.matching(RED)
        got = masks(found)
        assert len(got) == len(truth)
        for mask in truth:
            assert max(iou(mask, each) for each in got) > at_least

    def test_the_output_can_be_chosen(self, server: RunningHere, image: str) -> None:
        labels = config(RED, attributes='model_output="poly"', more=_polygons(RED))
        (found,) = answered(server, body([task(1, image)], labels))
        assert {region["from_name"] for region in found["result"]} == {"poly"}
        (found,) = answered(server, body([task(1, image)], config(RED, more=_polygons(RED))))
        assert {region["from_name"] for region in found["result"]} == {"out"}

    def test_other_words_of_a_label(
        self, server: RunningHere, picture: Picture, image: str
    ) -> None:
        label = f'<Label value="Thing" alias="t" predicted_values="{RED}, blue circle"/>'
        (found,) = answered(server, body([task(1, image)], config(label)))
        assert_same_objects(masks(found, "t"), picture.matching("circle"))

    def test_duplicates_are_removed(self, server: RunningHere, image: str) -> None:
        label = f'<Label value="Thing" predicted_values="{RED}, circle"/>'
        (found,) = answered(server, body([task(1, image)], config(label)))
        assert len(found["result"]) == 4
        every = config(label, attributes='model_nms_iou_threshold="1"')
        (found,) = answered(server, body([task(1, image)], every))
        assert len(found["result"]) == 6

    def test_more_labels_than_a_request_may_have_prompts(
        self, server: RunningHere, picture: Picture, image: str
    ) -> None:
        labels = [f'<Label value="{n}" predicted_values="green star"/>' for n in range(20)]
        (found,) = answered(server, body([task(1, image)], config(*labels, BLUE)))
        assert_same_objects(masks(found, BLUE), picture.matching(BLUE))

    def test_the_threshold(self, server: RunningHere, image: str) -> None:
        strict = config(RED, attributes='model_score_threshold="0.999"')
        (found,) = answered(server, body([task(1, image)], strict))
        assert found["result"] == []
        assert found["score"] == 0

    def test_every_task_is_answered_in_its_order(
        self, server: RunningHere, picture: Picture, image: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = [data_url(b"no image"), None, "https://127.0.0.2:9/x.png", "/data/upload/1/a.png"]
        tasks = [task(number, each) for number, each in enumerate([image, *broken, image], 1)]
        found = answered(server, body(tasks, config(RED)))
        assert len(found) == 6
        for each in (found[0], found[-1]):
            assert_same_objects(masks(each), picture.matching(RED))
        good = found[0]["model_version"]
        for number, each in enumerate(found[1:-1], 2):
            # Label Studio asks again for tasks that have no prediction of the present version.
            assert each == {"result": [], "score": 0, "model_version": f"{good}-failed"}
            assert f"Task {number} of Label Studio failed: " in caplog.text
        assert "INFERENCE_LABEL_STUDIO_URL" in caplog.text

    def test_a_failure_that_nobody_thought_of_is_one_of_its_task(
        self, server: RunningHere, image: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("inference_server.api.label_studio.images.read_header", fail)
        (found,) = answered(server, body([task(1, image)], config(RED)))
        assert found["model_version"].endswith("-failed")

    def test_a_batch_that_takes_too_long_is_sent_one_by_one(
        self, picture: Picture, image: str
    ) -> None:
        with in_process(label_studio_batch_seconds=0.001) as server:
            found = answered(server, body([task(n, image) for n in range(5)], config(RED)))
            assert len(found) == 1
            assert_same_objects(masks(found[0]), picture.matching(RED))
            assert len(answered(server, body([task(1, image)], config(RED)))) == 1

    def test_a_batch_whose_response_is_too_large_is_sent_one_by_one(
        self, image: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("inference_server.api.label_studio.predictions.MiB", 10)
        with in_process(label_studio_batch_mb=1, label_studio_batch_tasks=1) as server:
            found = answered(server, body([task(n, image) for n in range(3)], config(RED)))
        assert len(found) == 1

    def test_an_empty_batch(self, server: RunningHere) -> None:
        assert answered(server, body([], config(RED))) == []


def _polygons(label: str) -> str:
    tag = f'<Label value="{label}"/>'
    return f'<PolygonLabels name="poly" toName="image">{tag}</PolygonLabels>'


class TestInteractive:
    def ask(self, server: RunningHere, image: str, *items: Any, using: str = "") -> dict[str, Any]:
        labels = using or config(RED, BLUE)
        (found,) = answered(server, body([task(1, image)], labels, {"result": list(items)}))
        return found

    @pytest.mark.parametrize("label", [RED, BLUE])
    def test_a_click(self, server: RunningHere, picture: Picture, image: str, label: str) -> None:
        item = picture.one(label)
        found = self.ask(server, image, click(item, label))
        (mask,) = masks(found, label)
        assert iou(mask, item.mask) > 0.8
        assert found["result"][0]["from_name"] == "out"
        assert 0 < found["score"] <= 1

    def test_clicks_accumulate(self, server: RunningHere, picture: Picture, image: str) -> None:
        item, other = picture.one(BLUE), picture.one("red square")
        negative = point(*other.click(), BLUE, positive=False)
        (mask,) = masks(self.ask(server, image, click(item, BLUE), negative))
        assert iou(mask, item.mask) > 0.8
        assert not (mask & other.mask).any()

    def test_newer_editors_tell_less(
        self, server: RunningHere, picture: Picture, image: str
    ) -> None:
        item = picture.one(BLUE)
        x, y = item.click()
        value = {"x": x / 6.4, "y": y / 4.8, "positive": True}
        found = self.ask(server, image, {"value": value, "type": "keypoint"})
        (mask,) = masks(found)
        assert iou(mask, item.mask) > 0.8
        value["positive"] = False
        assert self.ask(server, image, {"value": value})["result"] == []

    def test_a_negative_click_alone_selects_nothing(self, server: RunningHere, image: str) -> None:
        found = self.ask(server, image, point(100, 100, RED, positive=False))
        assert found["result"] == []
        assert found["score"] == 0

    def test_no_prompts(self, server: RunningHere, image: str) -> None:
        assert self.ask(server, image)["result"] == []

    def test_a_rectangle_is_an_object(
        self, server: RunningHere, picture: Picture, image: str
    ) -> None:
        item = picture.one(RED)
        (mask,) = masks(self.ask(server, image, rectangle(item, RED)), RED)
        assert iou(mask, item.mask) > 0.8

    def test_a_turned_rectangle(self, server: RunningHere, picture: Picture, image: str) -> None:
        item = picture.one(RED)
        x0, y0, x1, y1 = item.box
        # The same rectangle, drawn from its lower left corner.
        turned = rectangle(
            item,
            RED,
            x=x0 / 6.4,
            y=y1 / 4.8,
            width=100 * (y1 - y0) / 640,
            height=100 * (x1 - x0) / 480,
            rotation=-90,
        )
        (mask,) = masks(self.ask(server, image, turned), RED)
        assert iou(mask, item.mask) > 0.8

    @pytest.mark.parametrize("how", ["extra_params", "attribute"])
    def test_a_rectangle_is_an_exemplar(
        self, server: RunningHere, picture: Picture, image: str, how: str
    ) -> None:
        item = picture.one(RED)
        using = config(RED, BLUE, box='model_box="exemplar"' if how == "attribute" else "")
        if how == "extra_params":
            version(server, using, {"box": "exemplar"}, PROJECT)
        try:
            found = self.ask(server, image, rectangle(item, RED), using=using)
        finally:
            version(server, using, None, PROJECT)
        assert_same_objects(masks(found, RED), picture.matching(RED))

    def test_words(self, server: RunningHere, picture: Picture, image: str) -> None:
        found = self.ask(server, image, words("the blue square"))
        assert_same_objects(masks(found, BLUE), picture.matching(BLUE))
        # Words that are no label get the first one.
        found = self.ask(server, image, words("blue circle"))
        assert_same_objects(masks(found, RED), picture.matching("blue circle"))
        assert self.ask(server, image, words("green star"))["result"] == []

    def test_a_second_click_costs_neither_a_fetch_nor_an_encode(
        self, server: RunningHere, picture: Picture, gallery: Gallery
    ) -> None:
        pixels = picture.scene.image.copy()
        pixels[0, 0] = (9, 8, 7)
        url = gallery.hang("/ls-click.png", encoded(pixels))["value"]
        caches = []
        for label in (RED, BLUE, RED):
            sent = body(
                [task(1, url)], config(RED, BLUE), {"result": [click(picture.one(label), label)]}
            )
            response = post(server, PREDICT, sent)
            assert response.status_code == 200, response.text
            (mask,) = masks(response.json()["results"][0], label)
            assert iou(mask, picture.one(label).mask) > 0.8
            caches.append(response.headers["x-embedding-cache"])
            assert response.headers["x-model"] == server.points_model
        assert caches == ["miss", "hit", "hit"]
        assert gallery.visits.count("/ls-click.png") == 1
        # An image that is no longer cached is fetched again.
        server.segmenter.forget()
        (found,) = answered(server, sent)
        assert found["result"]
        assert gallery.visits.count("/ls-click.png") == 2

    def test_an_image_is_fetched_again_after_a_time(
        self, picture: Picture, gallery: Gallery
    ) -> None:
        url = gallery.hang("/ls-again.png", picture.data)["value"]
        sent = body([task(1, url)], config(RED), {"result": [click(picture.one(RED), RED)]})
        with in_process(label_studio_image_seconds=0, fetch_networks="127.0.0.0/8") as server:
            for _ in range(2):
                assert answered(server, sent)[0]["result"]
        assert gallery.visits.count("/ls-again.png") == 2

    def test_images_of_another_tenant_are_fetched_again(
        self, server: RunningHere, picture: Picture, gallery: Gallery
    ) -> None:
        url = gallery.hang("/ls-tenants.png", picture.data)["value"]
        sent = body([task(1, url)], config(RED), {"result": [click(picture.one(RED), RED)]})
        for key in (ALICE, BOB):
            response = server.http.post(PREDICT, json=sent, headers=basic("x", key))
            assert response.status_code == 200
        assert gallery.visits.count("/ls-tenants.png") == 2

    def test_an_image_on_its_side(self, server: RunningHere, picture: Picture) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        data = io.BytesIO()
        turned = np.rot90(picture.scene.image)
        Image.fromarray(np.ascontiguousarray(turned)).save(data, "PNG", exif=exif)
        found = self.ask(server, data_url(data.getvalue()), click(picture.one(RED), RED))
        (region,) = found["result"]
        assert (region["original_width"], region["original_height"]) == (640, 480)
        assert iou(plane(region), picture.one(RED).mask) > 0.8

    def test_errors_have_the_vendors_form(self, server: RunningHere, image: str) -> None:
        for picture, context, told in (
            (data_url(b"x"), {"result": [point(1, 1, RED)]}, "image"),
            (image, {"result": [{"type": "keypointlabels", "value": {}}]}, "no x and y"),
            (image, {"result": [{"value": {"x": "a"}}]}, "result[0].value.x"),
        ):
            response = post(server, PREDICT, body([task(1, picture)], config(RED), context))
            assert response.status_code == 400, response.text
            assert response.json()["status"] == 400
            assert told in response.json()["detail"]

    def test_events(self, server: RunningHere) -> None:
        (found,) = answered(server, body([], config(RED), {"event": "capabilities"}))
        assert found["result"][0]["value"] == {
            "prompts": ["point", "box"],
            "targets": [{"tag": "BitmaskLabels", "output": "mask"}],
            "model_info": {"name": server.points_model},
        }
        for event in ("prewarm", "release", "track_start"):
            (found,) = answered(server, body([], config(RED), {"event": event}))
            assert found["result"] == []


@pytest.fixture(scope="module")
def small() -> Iterator[RunningHere]:
    """A server with small limits."""
    with in_process(
        label_studio_max_tasks=2,
        label_studio_max_config_kb=1,
        label_studio_max_config_tags=12,
        label_studio_max_controls=5,
        label_studio_max_words=2,
        label_studio_max_regions=1,
        label_studio_max_params_kb=1,
        label_studio_projects=1,
        label_studio_images=1,
        label_studio_max_address_length=100,
        label_studio_max_json_values=200,
        max_json_values=10,
        max_points=2,
        max_visual_prompts=2,
        fetch_networks="127.0.0.0/8",
    ) as running:
        yield running


def _wordy(*, labels: int, words_each: int) -> list[dict[str, Any]]:
    """Words of several labels, all of them within the limits of one label."""
    told = []
    for label in range(labels):
        item = words(*(f"word {n}" for n in range(words_each)))
        item["value"]["labels"] = [f"label {label}"]
        told.append(item)
    return told


class TestBounds:
    @pytest.mark.parametrize(
        ("sent", "setting"),
        [
            (body([task(n, "x") for n in range(3)], config(RED)), "LABEL_STUDIO_MAX_TASKS"),
            (body([], config(RED, more=" " * 1024)), "LABEL_STUDIO_MAX_CONFIG_KB"),
            (body([], config(RED, more="<View/>" * 9)), "LABEL_STUDIO_MAX_CONFIG_TAGS"),
            (body([task(1, "x")], config("a", "b", "c").split("<Key")[0] + "</View>"), "MAX_WORDS"),
            (body([task(1, "x", more=[1] * 200)], config(RED)), "LABEL_STUDIO_MAX_JSON_VALUES"),
            (
                body([task(1, "x")], config(RED), {"result": [point(1, 1, RED)] * 3}),
                "INFERENCE_MAX_POINTS",
            ),
            (
                body([], config(RED, more='<TextArea name="t" toName="image"/>' * 2)),
                "LABEL_STUDIO_MAX_CONTROLS",
            ),
            (
                body([task(1, "x")], config(RED), {"result": [point(1, 1, x) for x in "abc"]}),
                "INFERENCE_MAX_VISUAL_PROMPTS",
            ),
            (
                body([task(1, "x")], config(RED), {"result": _wordy(labels=9, words_each=2)}),
                "INFERENCE_MAX_PROMPTS",
            ),
            (
                body([task(1, "/data/" + "x" * 100)], config(RED), {"result": [words(RED)]}),
                "LABEL_STUDIO_MAX_ADDRESS_LENGTH",
            ),
        ],
    )
    def test_too_much_is_refused(self, small: RunningHere, sent: Any, setting: str) -> None:
        response = post(small, PREDICT, sent)
        assert response.status_code == 400, response.text
        assert setting in response.json()["detail"]

    def test_long_parameters(self, small: RunningHere) -> None:
        sent = {"project": "1.1", "schema": config(RED), "extra_params": {"a": "b" * 1024}}
        response = post(small, SETUP, sent)
        assert response.status_code == 400
        assert "INFERENCE_LABEL_STUDIO_MAX_PARAMS_KB" in response.json()["detail"]

    def test_regions(self, small: RunningHere, image: str) -> None:
        (found,) = answered(small, body([task(1, image)], config(RED)))
        assert len(found["result"]) == 1

    def test_remembered_projects(self, small: RunningHere) -> None:
        other = version(small, config(RED), {"box": "exemplar"}, "1.1")
        (found,) = answered(small, {**body([], config(RED), {"event": "x"}), "project": "1.1"})
        assert found["model_version"] == other
        version(small, config(RED), None, "2.1")
        (found,) = answered(small, {**body([], config(RED), {"event": "x"}), "project": "1.1"})
        assert found["model_version"] != other

    def test_projects_of_another_tenant_stay_remembered(self) -> None:
        with in_process(label_studio_projects=3) as server:
            sent = {"project": "1.1", "schema": config(RED), "extra_params": {"box": "exemplar"}}
            response = server.http.post(SETUP, json=sent, headers=basic("x", BOB))
            made = [
                version(server, config(RED), {"score_threshold": n / 10}, f"{n}.1")
                for n in range(1, 6)
            ]
            kept = server.http.get(VERSIONS, headers=basic("x", BOB)).json()["versions"]
            assert kept == [response.json()["model_version"]]
            kept = server.http.get(VERSIONS, headers=BASIC).json()["versions"]
            assert kept == sorted(made[-2:])

    def test_remembered_projects_of_one_tenant(self) -> None:
        with in_process(label_studio_tenant_projects=2) as server:
            made = [
                version(server, config(RED), {"score_threshold": n / 10}, f"{n}.1")
                for n in range(1, 4)
            ]
            kept = server.http.get(VERSIONS, headers=BASIC).json()["versions"]
            assert kept == sorted(made[-2:])

    def test_remembered_images(
        self, small: RunningHere, picture: Picture, gallery: Gallery
    ) -> None:
        urls = [gallery.hang(f"/ls-{n}.png", picture.data)["value"] for n in "ab"]
        for url in (*urls, urls[0]):
            assert answered(small, body([task(1, url)], config(RED)))[0]["result"]
        assert gallery.visits.count("/ls-a.png") == 2


def test_credits_pay_for_the_tasks_that_were_answered(
    server: RunningHere, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged: list[Work] = []
    refunded: list[Work] = []

    async def charge(request: Any, work: list[Work]) -> None:
        charged.extend(work)

    async def refund(request: Any, work: list[Work]) -> None:
        refunded.extend(work)

    monkeypatch.setattr(routes, "charge", charge)
    monkeypatch.setattr(routes, "refund", refund)
    answered(server, body([task(1, image), task(2, "x")], config(RED)))
    assert charged == ["concept", "concept"]
    assert refunded == ["concept"]
    charged.clear()
    refunded.clear()
    for context, work in (
        ([point(9, 9, RED)], "visual"),
        ([words(RED)], "concept"),
        ([point(9, 9, RED, positive=False)], "visual"),
        ([words(RED), point(9, 9, RED)], "visual"),
    ):
        answered(server, body([task(1, image)], config(RED), {"result": context}))
        assert charged.pop() == work
    assert charged == ["concept"]
    assert refunded == ["visual"]
